//! The commands, as a shell runs them.

#[path = "admin/harness.rs"]
mod harness;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use clap::CommandFactory as _;
use relay::cli::Cli;

use harness::{Relay, Setup};

const CONFIG: &str = "\
receiver: {listen: '127.0.0.1:8080'}
sinks:
  - {name: live, stream: {}}
  - {name: out, stdout: {}, ignore: {actions: [pull]}}
routes:
  - {name: releases, match: {actions: [push], tags: ['v*']}, to: [{sink: live, topic: 'releases.{namespace}'}]}
  - {name: seen, match: {actions: [push, pull]}, to: [live, out]}
  - {name: rest, otherwise: true, to: [out]}
";

fn relay(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("relay"));
    command.args(args).env_remove("RELAY_CONFIG").env_remove("RUST_LOG");
    command
}

/// Runs a command to its end, with `input` on its standard input.
fn run(args: &[&str], input: &str) -> Output {
    let mut command = relay(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let written = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    // A command that fails before it reads closes its input.
    drop(written);
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Runs a command that is to succeed; answers its standard output.
fn succeed(args: &[&str], input: &str) -> String {
    let output = run(args, input);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// Runs a command that is to fail with `code`; answers its standard error.
fn fail(args: &[&str], input: &str, code: i32) -> String {
    let output = run(args, input);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr).to_owned()
}

fn config_in(folder: &Path) -> String {
    let path = folder.join("relay.yml");
    std::fs::write(&path, CONFIG).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// The names of all commands, without clap's own `help`.
fn commands() -> Vec<String> {
    let mut cli = Cli::command();
    cli.build();
    let names = cli.get_subcommands().map(|command| command.get_name().to_owned());
    names.filter(|name| name != "help").collect()
}

#[test]
fn every_help_has_examples() {
    assert!(succeed(&["--help"], "").contains("Examples:"));
    for name in commands() {
        let help = succeed(&[&name, "--help"], "");
        assert!(help.contains("Examples:\n  relay ") || help.contains("\n  RELAY_"), "{name}: {help}");
        assert!(help.contains("--verbose") && help.contains("--log-format"), "{name}: {help}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_exit_code_2() {
    assert!(fail(&["--nonsense"], "", 2).contains("unexpected argument '--nonsense'"));
    assert!(fail(&["statsu"], "", 2).contains("'status'"), "suggests the nearest command");
    fail(&["completions", "tcsh"], "", 2);
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeed(&["completions", shell], "");
        for name in commands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
    }
}

#[test]
fn an_output_that_is_closed_is_no_failure() {
    let mut child = relay(&["completions", "bash"]).stdout(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_wrong_configuration_is_exit_code_78_wherever_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = folder.path().join("wrong.yml");
    std::fs::write(&wrong, "sinks: [{name: a, stdout: {}, topci: x}]\n").expect("a file");
    let wrong = wrong.to_str().expect("UTF-8");
    for args in [&["-c", wrong][..], &["serve", "-c", wrong], &["route", "-c", wrong]] {
        let error = fail(args, "", 78);
        assert!(error.contains("wrong.yml:1:"), "{args:?}: {error}");
        assert!(error.contains("topic"), "names the nearest key: {error}");
    }
    let missing = folder.path().join("missing.yml");
    let error = fail(&["-c", missing.to_str().expect("UTF-8")], "", 78);
    assert!(error.contains("missing.yml"), "{error}");
}

#[test]
fn the_environment_names_the_configuration_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = config_in(folder.path());
    let mut command = relay(&["route"]);
    command.env("RELAY_CONFIG", &path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(b"{\"action\":\"pull\"}").expect("it reads");
    assert!(child.wait_with_output().expect("it ends").status.success());
    // And is in no other command's way.
    let output = relay(&["completions", "bash"]).env("RELAY_CONFIG", &path).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

const EVENTS: &str = r#"
{"events": [
   {"id": "1", "action": "push", "target": {"repository": "team/app", "tag": "v1", "mediaType": "application/vnd.oci.image.manifest.v1+json"}},
   {"id": "2", "action": "pull", "target": {"repository": "app", "digest": "sha256:00", "mediaType": "application/octet-stream"}}
]}
{"id": "3", "action": "delete", "target": {"repository": "old"}}
"#;

#[test]
fn route_says_where_and_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    insta::assert_snapshot!(succeed(&["route", "-c", &config], EVENTS), @r"
    push manifest team/app:v1
      releases  matches
        > live (stream)  releases.team  key team/app
      seen      matches
        > live (stream)  registry.push  key team/app
        > out (stdout)  registry.push  key team/app
      rest      no: is for events that no other route matched

    pull blob app@sha256:00
      releases  no: `pull` is not in actions [push]
      seen      matches
        > live (stream)  registry.pull  key app
        x out (stdout)  the sink ignores the action
      rest      no: is for events that no other route matched

    delete repository old
      releases  no: `delete` is not in actions [push]
      seen      no: `delete` is not in actions [push, pull]
      rest      matches
        > out (stdout)  registry.delete  key old
    ");
}

#[test]
fn route_says_it_to_scripts() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let events = folder.path().join("events.json");
    std::fs::write(&events, EVENTS).expect("a file");
    let lines = succeed(&["route", "-c", &config, "--json", events.to_str().expect("UTF-8")], "");
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(lines.len(), 3);
    let pull = &lines[1];
    assert_eq!((&pull["action"], &pull["kind"]), (&"pull".into(), &"blob".into()));
    assert_eq!(pull["routes"][0]["reason"], "`pull` is not in actions [push]");
    let out = &pull["routes"][1]["targets"][1];
    assert_eq!((&out["sink"], &out["sent"]), (&"out".into(), &false.into()));
    assert_eq!(out["reason"], "the sink ignores the action");
    let live = &lines[0]["routes"][0]["targets"][0];
    assert_eq!((&live["topic"], &live["key"]), (&"releases.team".into(), &"team/app".into()));
}

#[test]
fn route_says_what_it_cannot_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    for (input, expected) in [
        ("", "there is no event in the input"),
        ("{\"action\":\"push\"}\n{", "document 2 of the input cannot be read"),
        ("{\"a\": 1}", "document 1 of the input cannot be read: neither an envelope"),
    ] {
        let error = fail(&["route", "-c", &config, "-"], input, 1);
        assert!(error.contains(expected), "{input}: {error}");
    }
    let error = fail(&["route", "-c", &config, "missing.json"], "", 1);
    assert!(error.contains("cannot read missing.json"), "{error}");
}

#[test]
fn without_a_relay_status_and_tail_are_exit_code_69() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    for command in ["status", "tail"] {
        let error = fail(&[command, "--url", &url], "", 69);
        assert!(error.starts_with("error: no relay answers at 127.0.0.1:"), "{error}");
    }
    fail(&["status", "--url", "https://relay.example"], "", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_a_relay() {
    let relay = Relay::start(Setup { tokens: &["secret"], ..Setup::default() }).await;
    relay.bus.failed("connection refused", 1, relay::delivery::BreakerState::Open, 7, false);
    let url = format!("http://{}", relay.addr);
    let shown = tokio::task::spawn_blocking(move || {
        let denied = fail(&["status", "--url", &url], "", 1);
        assert!(denied.contains("--token"), "{denied}");
        let args = ["status", "--url", &url, "--token", "secret"];
        let json = succeed(&[&args[..], &["--json"]].concat(), "");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["sinks"][0]["name"], "bus");
        succeed(&args, "")
    });
    let shown = shown.await.expect("the commands run");
    let bus = shown.lines().find(|line| line.starts_with(" bus")).expect("a line for the sink");
    assert!(bus.contains("stdout") && bus.contains("open, 7 failures"), "{shown}");
    assert!(shown.contains("connection refused"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_ready_is_a_health_check() {
    // Needs no token, and a sink that fails is no reason.
    let relay = Relay::start(Setup { tokens: &["secret"], ..Setup::default() }).await;
    relay.bus.failed("connection refused", 1, relay::delivery::BreakerState::Open, 7, false);
    let url = format!("http://{}", relay.addr);
    let ready =
        |url: String| tokio::task::spawn_blocking(move || run(&["status", "--ready", "--url", &url], ""));
    let output = ready(url.clone()).await.expect("it runs");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "ready\n"));

    relay.stopping.send_replace(true);
    let output = ready(url.clone()).await.expect("it runs");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), "error: the relay is stopping\n"));

    relay.stop().await;
    assert_eq!(ready(url).await.expect("it runs").status.code(), Some(69));
}

/// A `relay tail`, and the lines it prints.
struct Tail {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Tail {
    fn start(relay_addr: std::net::SocketAddr, args: &[&str]) -> Self {
        let url = format!("http://{relay_addr}");
        let mut command = relay(&["tail", "--url", &url]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("one more line").expect("UTF-8")
    }

    /// Waits for its end; answers what it said beside.
    fn end(mut self) -> String {
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
        let mut said = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_goes_on_after_a_restart_and_misses_nothing() {
    let event = |tag: &str| format!(r#"{{"action":"push","target":{{"repository":"app","tag":"{tag}"}}}}"#);
    let relay = Relay::start(Setup::default()).await;
    for tag in ["1", "2"] {
        relay.append(&event(tag)).await;
    }
    let addr = relay.addr;
    let args = ["registry.*", "--from", "beginning", "-n", "4"];
    let mut tail = tokio::task::block_in_place(|| Tail::start(addr, &args));
    tokio::task::block_in_place(|| {
        assert_eq!(tail.line(), "  registry.push  tag  app:1");
        assert_eq!(tail.line(), "  registry.push  tag  app:2");
    });
    let relay = relay.restart().await;
    for tag in ["3", "4"] {
        relay.append(&event(tag)).await;
    }
    tokio::task::block_in_place(|| {
        assert_eq!(tail.line(), "  registry.push  tag  app:3");
        assert_eq!(tail.line(), "  registry.push  tag  app:4");
        let said = tail.end();
        assert!(said.contains("is lost; trying again"), "{said}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_an_events_own_bytes() {
    let relay = Relay::start(Setup::default()).await;
    let json = "{\n   \"action\": \"push\",\n   \"x\": \"\u{e9}\"\n}";
    relay.append(json).await;
    let url = format!("http://{}", relay.addr);
    let printed = tokio::task::spawn_blocking(move || {
        succeed(&["tail", "--url", &url, "--json", "--from", "1", "--count", "1"], "")
    });
    assert_eq!(printed.await.expect("it runs"), format!("{json}\n"));
}

/// A `relay serve` on ports of its own, and what it says while it starts.
struct Serve {
    child: Child,
    said: std::io::Lines<BufReader<std::process::ChildStderr>>,
    /// By their words: `send`, `subscribe`, `or`, `status`, `page`.
    hints: std::collections::HashMap<String, String>,
}

impl Serve {
    fn start(config: &str) -> Self {
        let mut command = relay(&["serve", "-c", config]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut serve = Self { child, said, hints: Default::default() };
        serve.line("To see an event go through");
        while !serve.hints.contains_key("page") {
            let line = serve.said.next().expect("a hint").expect("UTF-8");
            let (word, command) = line.trim().split_once(' ').expect("a word and a command");
            serve.hints.insert(word.to_owned(), command.trim().to_owned());
        }
        serve
    }

    /// Reads on to the line that holds `text`.
    fn line(&mut self, text: &str) {
        let mut before = Vec::new();
        for line in self.said.by_ref().map(|line| line.expect("UTF-8")) {
            if line.contains(text) {
                return;
            }
            before.push(line);
        }
        panic!("it never says `{text}`, but: {}", before.join("\n"));
    }

    fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill runs").success());
        self.line("stopped");
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
    }
}

/// The arguments of a command as a hint has it.
fn arguments(hint: &str) -> Vec<&str> {
    let mut words = hint.split(' ');
    assert_eq!(words.next(), Some("relay"), "{hint}");
    words.collect()
}

#[test]
fn what_serve_says_to_type_shows_an_event_go_through() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("relay.yml");
    let journal = folder.path().join("data");
    let text = format!(
        "receiver: {{listen: '127.0.0.1:0', body_max: 1MiB}}
admin: {{listen: '127.0.0.1:0'}}
journal: {{path: {}, max_size: 64MiB, segment_size: 8MiB}}
sinks: [{{name: live, stream: {{}}}}]
routes: [{{name: all, to: [live]}}]
",
        journal.display()
    );
    std::fs::write(&config, text).expect("a file");
    let config = config.to_str().expect("UTF-8");
    let serve = Serve::start(config);
    succeed(&arguments(&serve.hints["send"]), "");
    let tail = [&arguments(&serve.hints["or"])[..], &["--from", "beginning", "-n", "5"]].concat();
    assert_eq!(succeed(&tail, "").lines().count(), 5);
    assert!(succeed(&arguments(&serve.hints["status"]), "").contains("5 received"));
    // The folder is taken.
    let error = fail(&["serve", "-c", config], "", 1);
    assert!(error.contains("journal"), "{error}");
    serve.stop();
}

/// `docs/commands.md` is what `--help` says; `UPDATE_DOCS=1 cargo test --test cli` writes it anew.
#[test]
fn the_reference_of_commands_is_up_to_date() {
    let mut page = String::from(
        "# Commands\n\nWhat `relay COMMAND --help` says. Written by `UPDATE_DOCS=1 cargo test --test cli`; a test holds it\nin step.\n",
    );
    let mut cli = Cli::command().term_width(100);
    cli.build();
    add_help(&mut page, &mut cli, "relay");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/commands.md is behind: UPDATE_DOCS=1 cargo test --test cli");
}

fn add_help(page: &mut String, command: &mut clap::Command, name: &str) {
    let help = command.render_long_help().to_string();
    let help: Vec<_> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    for subcommand in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let name = format!("{name} {}", subcommand.get_name());
        add_help(page, subcommand, &name);
    }
}
