//! Whole configurations: what is refused and how that is said, what is warned of, what runs.

mod examples;
mod mistakes;
mod reference;
mod robust;
mod secrets;

use std::io;
use std::path::Path;
use std::time::Duration;

use super::*;

const SECRET: &str = "hunter2-Zq9x";

fn env(name: &str) -> Option<String> {
    match name {
        "TOKEN" | "BAD_TIME" | "BAD_ADDRESS" => Some(SECRET.to_owned()),
        "SECONDS" => Some("7s".to_owned()),
        "COUNT" => Some("3".to_owned()),
        "INJECT" => Some("a\nadmin: {disabled: true}".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/run/secrets/token") => Ok(format!("{SECRET}\n")),
        Some("cert.pem") => Ok("-----BEGIN CERTIFICATE-----".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn parsed(text: &str) -> Result<Loaded, Vec<Problem>> {
    parse(text, "relay.yml", &Surroundings { env: &env, read: &read_file })
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn errors(text: &str) -> Vec<String> {
    lines(&parsed(text).err().unwrap_or_default())
}

/// A configuration that loads; `text` is added to a minimal one.
fn loaded(text: &str) -> Loaded {
    let whole = format!("{text}\nsinks: [{{name: out, stdout: {{}}}}]\n");
    parsed(&whole).unwrap_or_else(|errors| panic!("{text}: {:#?}", lines(&errors)))
}

#[test]
fn topics_keep_a_literal_prefix_where_a_broker_has_them() {
    use crate::sinks::Naming;
    let check = |topic: &str, naming| {
        let tree = tree::Node::new(Place { line: 1, column: 1 }, tree::Value::Map(Vec::new()));
        let mut report = problem::Report::default();
        check::topic_errors(topic, naming, &tree, &Surroundings { env: &env, read: &read_file }, &mut report);
        report.finish("f").0.first().map(|problem| problem.text.clone())
    };
    for (topic, naming, wrong) in [
        ("registry.{action}", Naming::Kafka, None),
        ("{action}", Naming::Plain, None),
        ("{action}.x", Naming::Kafka, Some("a Kafka topic begins with a fixed text")),
        ("{action}", Naming::Amqp, Some("a routing key begins with a fixed text")),
        ("{namespace}/x.jsonl", Naming::Path, None),
        ("/etc/{action}", Naming::Path, Some("a path stays in its folder")),
        ("a/../{action}", Naming::Path, Some("a path stays in its folder")),
        ("a/{action}", Naming::Kafka, Some("a Kafka topic cannot hold `/`")),
        ("a b", Naming::Nats, Some("a NATS subject cannot hold ` `")),
        ("a.*", Naming::Amqp, Some("a routing key cannot hold `*`")),
        ("a..{action}", Naming::Nats, Some("a NATS subject has no empty word")),
        ("..", Naming::Kafka, Some("a Kafka topic cannot be `.` or `..`")),
    ] {
        let found = check(topic, naming);
        match wrong {
            None => assert_eq!(found, None, "{topic}"),
            Some(wrong) => assert!(found.as_deref().is_some_and(|text| text.starts_with(wrong)), "{found:?}"),
        }
    }
}

#[test]
fn what_is_doubtful_is_warned_of() {
    let cases = [
        (
            "",
            "relay.yml:2:1: receiver: everybody who reaches the receiver can send events; give it `tokens` or \
            `users`",
        ),
        (
            "receiver: {tokens: }",
            "relay.yml:1:11: receiver: there are no tokens and no users in it, so everybody \
            who reaches the receiver can send events",
        ),
        (
            "receiver: {tokens: [a], body_max: 8MiB}",
            "relay.yml:1:35: receiver.body_max: a registry's event can \
            have 4.3 MB, and one that is refused holds up all behind it; 16MiB is advised",
        ),
        (
            "receiver: {tokens: [a], header_timeout: 500}",
            "relay.yml:1:41: receiver.header_timeout: a duration \
            without a unit is taken as milliseconds here, as nanoseconds by a registry; write 500ms",
        ),
        (
            "receiver: {tokens: [a]}\nadmin: {listen: ':9000'}",
            "relay.yml:2:8: admin: everybody who reaches the \
            admin listener can read every event; give it `tokens`",
        ),
        (
            "receiver: {tokens: [a]}\nroutes: [{to: [out], match: {tags: []}}]",
            "relay.yml:2:36: \
            routes[0].match.tags: an empty list asks nothing of an event; take it out",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(lines(&loaded(text).warnings), [expected], "{text}");
    }
    let text = "receiver: {tokens: [a]}\n\
                sinks: [{name: a, timeout: 5000, file: {path: ./x, rotate: {age: 60000}}}]";
    let bare = "a duration without a unit is taken as milliseconds here, as nanoseconds by a registry; write";
    assert_eq!(
        lines(&parsed(text).expect("loads").warnings),
        [
            format!("relay.yml:2:28: sinks[0].timeout: {bare} 5s"),
            format!("relay.yml:2:66: sinks[0].file.rotate.age: {bare} 1m"),
        ]
    );
    for quiet in ["receiver: {tokens: [a]}", "receiver: {listen: '127.0.0.1:0'}", "receiver: {users: {a: b}}"]
    {
        assert!(loaded(quiet).warnings.is_empty(), "{quiet}");
    }
    let text = "receiver: {tokens: [a]}\n\
                sinks: [{name: on, stdout: }, {name: off, stdout: , disabled: true}, {name: idle, stdout: }]\n\
                routes: [{to: [on, off]}]";
    let warnings = lines(&parsed(text).expect("loads").warnings);
    assert_eq!(
        warnings,
        [
            "relay.yml:2:77: sinks[2].name: no route names the sink `idle`: it gets nothing",
            "relay.yml:3:20: routes[0].to[1]: the sink `off` is disabled: it gets nothing",
        ]
    );
}

#[test]
fn defaults_and_what_overrides_them() {
    let config = loaded("").config;
    assert_eq!(config.receiver.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.receiver.body_bytes_max, 16 << 20);
    assert_eq!(
        config.admin.as_ref().map(|admin| admin.listen.to_string()).as_deref(),
        Some("127.0.0.1:8081")
    );
    assert_eq!((config.journal.bytes_max, config.journal.segment_bytes), (10 << 30, 64 << 20));
    assert_eq!(config.journal.deduplicate, Duration::from_secs(600));
    assert_eq!(config.journal.quarantine_bytes_max, 1 << 30);
    let sink = &config.sinks[0];
    assert_eq!(
        (sink.threshold, sink.timeout, sink.backoff),
        (10, Duration::from_secs(5), Duration::from_secs(1))
    );
    assert_eq!((sink.topic.as_str(), sink.key.as_str()), ("registry.{action}", "{repository}"));
    assert_eq!(config.table.targets().len(), 1);

    let config = parsed(
        "receiver: {paths: [/registry/, /x], tokens: [01234, '${TOKEN}', '${file:/run/secrets/token}']}\n\
         admin: {disabled: true}\n\
         sinks:\n\
         - name: a\n\
         \x20 stdout:\n\
         \x20 timeout: ${SECONDS}\n\
         \x20 threshold: ${COUNT}\n\
         \x20 headers: {X-One: 1.10, X-Many: [a, b]}\n\
         \x20 ignore: {mediatypes: [x/y], actions: [pull]}\n\
         \x20 ignoredmediatypes: [z]\n\
         \x20 backlog_max: 10m\n\
         \x20 dead_letters: {also_to: b}\n\
         - {name: b, stdout: {}, backlog_max: 2GiB}\n\
         routes:\n\
         - {name: r, match: {actions: [push]}, to: [a, {sink: b, topic: only.this, key: '{tag}'}]}\n\
         - {otherwise: true, to: [b]}\n",
    );
    let config = config.unwrap_or_else(|errors| panic!("{:#?}", lines(&errors))).config;
    assert_eq!(config.receiver.paths, ["/registry", "/x"]);
    let tokens: Vec<_> = config.receiver.tokens.iter().map(Secret::expose).collect();
    assert_eq!(tokens, ["01234", SECRET, SECRET]);
    assert!(config.admin.is_none());
    let a = &config.sinks[0];
    assert_eq!((a.timeout, a.threshold), (Duration::from_secs(7), 3));
    let headers: Vec<_> = a.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(headers, ["X-One: 1.10", "X-Many: a", "X-Many: b"]);
    assert_eq!((a.ignore_mediatypes.join(" "), a.ignore_actions.join(" ")), ("x/y z".into(), "pull".into()));
    assert_eq!(a.backlog_max, Some(BacklogMax::Age(Duration::from_secs(600))));
    assert_eq!(config.sinks[1].backlog_max, Some(BacklogMax::Bytes(2 << 30)));
    assert_eq!(a.dead_letters.also_to, Some(1));
    assert_eq!(config.literal_topics(1), ["only.this"]);
    let routes: Vec<_> =
        config.table.routes().iter().map(|route| (route.name.as_str(), route.otherwise)).collect();
    assert_eq!(routes, [("r", false), ("route-2", true)]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let errors = load(&folder.path().join("no.yml"), &env).expect_err("there is none");
    assert!(errors[0].to_string().contains("no.yml: cannot be read: No such file"), "{}", errors[0]);
    let large = folder.path().join("large.yml");
    std::fs::write(&large, "#".repeat(2 << 20)).expect("written");
    let errors = load(&large, &env).expect_err("too large");
    assert!(errors[0].text.contains("larger than 1024 KiB"), "{}", errors[0]);
}
