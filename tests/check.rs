//! `relay check` and `relay import-registry`, as a shell runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn relay(args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("relay"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env_remove("RELAY_CONFIG").env_remove("RUST_LOG").output().expect("it runs")
}

/// Standard output and standard error of a run that ended with `code`.
fn ended(code: i32, args: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = relay(args);
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
    (stdout.into_owned(), stderr.into_owned())
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn the_shipped_configuration_is_right() {
    let (table, warnings) = ended(0, &["check"]);
    assert!(table.contains("everything") && table.ends_with("relay.yml is right.\n"), "{table}");
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert!(warnings.starts_with("warning: relay.yml:"), "{warnings}");
}

#[test]
fn every_mistake_is_printed_and_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "receiver:\n  tokens: [s3cret-token]\n  listen: here\nsinks:\n- name: a\n  stdout: {x: 1}\n  timeout: soon\n";
    let path = file(folder.path(), "bad.yml", text);
    let (stdout, stderr) = ended(78, &["check", "-c", &path]);
    assert_eq!(stdout, "");
    let expected = [
        "3:11: receiver.listen: `here` is not an address and port; write it like 0.0.0.0:8080 or [::]:8080",
        "6:12: sinks[0].stdout.x: unknown key; there are none here",
        "7:12: sinks[0].timeout: `soon` is not a duration; write it like 500ms, 5s, 10m or 24h",
    ];
    let expected: Vec<_> = expected.iter().map(|line| format!("{path}:{line}")).collect();
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn connect_tries_each_sink() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("archive");
    let good = format!(
        "receiver: {{listen: '127.0.0.1:0'}}\n\
         sinks: [{{name: files, file: {{path: {}}}}}, {{name: off, stdout: , disabled: true}}, {{name: live, stream: }}]\n",
        archive.display()
    );
    let (stdout, _) = ended(0, &["check", "--connect", "-c", &file(folder.path(), "good.yml", &good)]);
    assert!(stdout.contains("files: connected to"), "{stdout}");
    assert!(stdout.contains("off: nothing to connect to, it is disabled"), "{stdout}");
    assert!(stdout.contains("live: nothing to connect to, it is part of this relay"), "{stdout}");

    // A port that was free a moment ago: nobody answers.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let bad = format!(
        "receiver: {{listen: '127.0.0.1:0'}}\n\
         sinks: [{{name: out, stdout: }}, {{name: bus, nats: {{servers: 'nats://127.0.0.1:{port}'}}}}]\n"
    );
    let (stdout, stderr) = ended(1, &["check", "--connect", "-c", &file(folder.path(), "bad.yml", &bad)]);
    assert!(stdout.contains("out: connected to") && stdout.contains("bus: FAILED: "), "{stdout}");
    assert!(stderr.contains("error: one sink cannot be reached"), "{stderr}");
}

#[test]
fn a_registrys_configuration_becomes_one_that_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = "version: 0.1\nnotifications:\n  endpoints:\n  - name: old\n    url: http://127.0.0.1:9/\n    \
                    headers: {Authorization: [Bearer s3cret]}\n    timeout: 500\n";
    let registry = file(folder.path(), "config.yml", registry);
    let url = "http://relay.example:8080/events";
    let (config, notes) = ended(0, &["import-registry", &registry, "--url", url]);
    assert!(notes.contains("`timeout: 500`, which a registry reads as 500 nanoseconds"), "{notes}");
    assert!(notes.contains("notifications:\n") && notes.contains(url), "{notes}");
    assert!(!notes.contains("s3cret"), "{notes}");

    let (table, _) = ended(0, &["check", "-c", &file(folder.path(), "relay.yml", &config)]);
    assert!(table.contains("old") && table.contains("webhook"), "{table}");

    let none = file(folder.path(), "none.yml", "version: 0.1\n");
    let (_, stderr) = ended(78, &["import-registry", &none]);
    assert!(
        stderr.contains("none.yml:1:1: notifications.endpoints: there are no endpoints here"),
        "{stderr}"
    );
}
