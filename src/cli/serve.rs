//! `relay serve`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ConfigArg, Failure};
use crate::config::Config;
use crate::logging::LogFormat;
use crate::sinks::SinkOptions;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay serve
  relay serve -c /etc/relay/relay.yml --log-format json
  RELAY_CONFIG=/etc/relay/relay.yml relay

A wrong configuration ends it before anything is bound, with exit code 78. A broker that is down
does not: events are taken, and delivered later.
SIGTERM and Ctrl-C stop it: what is in flight is answered and delivered first; a second one ends it at once.")]
pub(super) struct Args {
    #[command(flatten)]
    pub config: ConfigArg,
}

pub(super) async fn run(args: Args, log_format: LogFormat) -> Result<(), Failure> {
    let config = super::load(&args.config)?;
    if log_format == LogFormat::Text {
        eprint!("{}", hints(&config));
    }
    Err(Failure::Other("cannot serve yet".to_owned()))
}

/// What to type to see an event go through, on the configuration at hand.
fn hints(config: &Config) -> String {
    let receiver = &config.receiver;
    let mut lines = Vec::new();
    let scheme = if receiver.tls.is_some() { "https" } else { "http" };
    let locked = if receiver.tokens.is_empty() && receiver.users.is_empty() { "" } else { " --token TOKEN" };
    lines.push(("send", format!("relay emit --to {scheme}://{}/events{locked}", reachable(receiver.listen))));
    let streamed =
        config.sinks.iter().any(|sink| matches!(sink.options, SinkOptions::Stream) && !sink.disabled);
    if let Some(admin) = &config.admin {
        let url = format!("http://{}", reachable(admin.listen));
        if streamed {
            let header = if admin.tokens.is_empty() { "" } else { " -H 'Authorization: Bearer TOKEN'" };
            let topic = streamed_topic(config);
            lines.push(("subscribe", format!("curl -N{header} '{url}/stream?topic={topic}'")));
            lines.push(("or", format!("relay tail --url {url}")));
        }
        lines.push(("look", format!("relay status --url {url}")));
    }
    for sink in config.sinks.iter().filter(|sink| !sink.disabled) {
        if let (SinkOptions::File(_), Some(options)) = (&sink.options, sink.options.options()) {
            lines.push(("files", format!("tail -F {}", shell_glob(&options.target()))));
        }
    }
    let mut out = String::from("To see an event go through, in another terminal:\n");
    for (what, command) in lines {
        out += &format!("  {what:<10} {command}\n");
    }
    out
}

/// A topic worth a look: a stream's first, with a glob for what events bring.
fn streamed_topic(config: &Config) -> String {
    let is_stream = |sink: usize| matches!(config.sinks[sink].options, SinkOptions::Stream);
    let target = config.table.targets().iter().find(|target| is_stream(target.sink));
    target.map_or_else(|| "**".to_owned(), |target| globbed(target.topic.as_str(), "**"))
}

/// A path template as a shell finds its files: `out/{action}.jsonl` is `out/*.jsonl`.
fn shell_glob(template: &str) -> String {
    globbed(template, "*")
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

    #[test]
    fn placeholders_become_globs() {
        assert_eq!(globbed("registry.{action}", "**"), "registry.**");
        assert_eq!(globbed("out/{namespace}/{name}.jsonl", "*"), "out/*/*.jsonl");
        assert_eq!(globbed("plain", "*"), "plain");
    }

    #[test]
    fn an_address_to_connect_to() {
        for (listen, expected) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            assert_eq!(reachable(listen.parse().expect(listen)).to_string(), expected);
        }
    }
}
