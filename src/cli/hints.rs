//! What to type to see an event go through, on the configuration at hand.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::{AdminConfig, Config};
use crate::route::Target;
use crate::sinks::SinkOptions;

/// A page of commands. `receiver` and `admin` are where the relay really listens.
pub(super) fn hints(config: &Config, receiver: SocketAddr, admin: Option<SocketAddr>) -> String {
    let mut lines = vec![("send", emit(config, receiver))];
    if let (Some(addr), Some(admin)) = (admin, &config.admin) {
        look(config, addr, admin, &mut lines);
    }
    let files = targets(config, |options| matches!(options, SinkOptions::File(_)));
    lines.extend(files.into_iter().map(|target| ("read", format!("tail -F {}", file(config, target)))));

    let mut out = String::from("To see an event go through, in another terminal:\n");
    for (what, command) in lines {
        // Writing to a `String` does not fail.
        let _ = writeln!(out, "  {what:<10} {command}");
    }
    out
}

fn emit(config: &Config, addr: SocketAddr) -> String {
    let receiver = &config.receiver;
    let mut command = format!("relay emit --count 5 --to http://{}/events", reachable(addr));
    if receiver.tls.is_some() {
        command = command.replacen("http:", "https:", 1) + " --ca CA.pem";
    }
    if !receiver.tokens.is_empty() {
        command += " --token TOKEN";
    } else if !receiver.users.is_empty() {
        command += " --user NAME:PASSWORD";
    }
    command
}

fn look(config: &Config, addr: SocketAddr, admin: &AdminConfig, lines: &mut Vec<(&str, String)>) {
    let url = format!("http://{}", reachable(addr));
    let (header, token) = if admin.tokens.is_empty() {
        ("", "")
    } else {
        (" -H 'Authorization: Bearer TOKEN'", " --token TOKEN")
    };
    if let Some(target) = targets(config, |options| matches!(options, SinkOptions::Stream)).first() {
        let topic = globbed(target.topic.as_str(), "**");
        lines.push(("subscribe", format!("curl -N{header} '{url}/stream?topic={topic}'")));
        lines.push(("or", format!("relay tail --url {url}{token}")));
    }
    lines.push(("status", format!("relay status --url {url}{token}")));
    lines.push(("page", format!("{url}/")));
}

/// The targets at sinks of a kind, without those of the same sink and topic as one before.
fn targets(config: &Config, kind: impl Fn(&SinkOptions) -> bool) -> Vec<&Target> {
    let mut found: Vec<&Target> = Vec::new();
    for target in config.table.targets() {
        let sink = &config.sinks[target.sink];
        let known = |other: &&Target| other.sink == target.sink && other.topic == target.topic;
        if kind(&sink.options) && !sink.disabled && !found.iter().any(known) {
            found.push(target);
        }
    }
    found
}

/// The files of a target, as a shell finds them: `events/registry.*.jsonl`.
fn file(config: &Config, target: &Target) -> String {
    let folder = config.sinks[target.sink].options.options().map(|options| options.target());
    let path = Path::new(&folder.unwrap_or_default()).join(globbed(target.topic.as_str(), "*"));
    path.display().to_string()
}

/// A template with `glob` in place of each placeholder.
fn globbed(template: &str, glob: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        out.push_str(literal);
        out.push_str(glob);
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    out + rest
}

/// An address that this machine can connect to, for one that may stand for all of them.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints_of(yaml: &str) -> String {
        let around = crate::config::Surroundings { env: &|_| None, read: &|_| unreachable!("names no file") };
        let config = crate::config::parse(yaml, "test", &around).expect(yaml).config;
        let admin = config.admin.as_ref().map(|admin| admin.listen);
        hints(&config, config.receiver.listen, admin)
    }

    #[test]
    fn an_open_relay() {
        let yaml = "
            receiver: {listen: '0.0.0.0:8080'}
            admin: {listen: '[::]:8081'}
            sinks: [{name: live, stream: {}}, {name: files, file: {path: ./events}}]
            routes:
              - {name: all, to: [live, files]}
              - {name: again, to: [files, {sink: files, topic: 'teams/{name}.jsonl'}]}";
        insta::assert_snapshot!(hints_of(yaml), @r"
        To see an event go through, in another terminal:
          send       relay emit --count 5 --to http://127.0.0.1:8080/events
          subscribe  curl -N 'http://[::1]:8081/stream?topic=registry.**'
          or         relay tail --url http://[::1]:8081
          status     relay status --url http://[::1]:8081
          page       http://[::1]:8081/
          read       tail -F ./events/registry.*.jsonl
          read       tail -F ./events/teams/*.jsonl
        ");
    }

    #[test]
    fn a_guarded_relay_without_stream() {
        let yaml = "
            receiver: {listen: '10.0.0.1:443', users: {registry: secret}}
            admin: {listen: '127.0.0.1:0', tokens: [secret]}
            sinks: [{name: out, stdout: {}}]
            routes: [{name: all, to: [out]}]";
        insta::assert_snapshot!(hints_of(yaml), @r"
        To see an event go through, in another terminal:
          send       relay emit --count 5 --to http://10.0.0.1:443/events --user NAME:PASSWORD
          status     relay status --url http://127.0.0.1:0 --token TOKEN
          page       http://127.0.0.1:0/
        ");
    }

    #[test]
    fn placeholders_become_globs() {
        assert_eq!(globbed("registry.{action}", "**"), "registry.**");
        assert_eq!(globbed("{namespace}/{name}.jsonl", "*"), "*/*.jsonl");
        assert_eq!(globbed("plain", "*"), "plain");
    }
}
