//! What is wrong, word for word.

use super::*;

#[test]
fn every_mistake_is_said_at_its_place() {
    // Each text stands above `sinks`, so its own line and column are those of the file.
    let cases = [
        ("reciever: {}", "relay.yml:1:1: reciever: unknown key; did you mean `receiver`?"),
        (
            "zzz: 1",
            "relay.yml:1:1: zzz: unknown key; there are receiver, admin, journal, quarantine, \
                    deduplicate, sinks, routes",
        ),
        ("receiver: {tls: {cert: cert.pem}}", "relay.yml:1:17: receiver.tls: `key` is missing"),
        ("receiver: 5", "relay.yml:1:11: receiver: expected a map of keys, found a number"),
        (
            "receiver: {tokens: abc}",
            "relay.yml:1:20: receiver.tokens: expected a list, like `[…]`, found a text",
        ),
        (
            "receiver: {tokens: ['a b']}",
            "relay.yml:1:21: receiver.tokens[0]: a token must have characters, and \
            only those that a header can: no spaces, nothing outside ASCII",
        ),
        (
            "receiver: {tokens: ['']}",
            "relay.yml:1:21: receiver.tokens[0]: a token must have characters, and \
            only those that a header can: no spaces, nothing outside ASCII",
        ),
        (
            "receiver: {users: {'a:b': x}}",
            "relay.yml:1:27: receiver.users.a:b: a user's name must have a letter \
            and no `:`, which ends it in basic auth",
        ),
        (
            "receiver: {users: {ci: ''}}",
            "relay.yml:1:24: receiver.users.ci: an empty password lets everybody in; \
            give one or take the user out",
        ),
        (
            "receiver: {listen: 8080}",
            "relay.yml:1:20: receiver.listen: `8080` is not an address and port; write \
            it like 0.0.0.0:8080 or [::]:8080",
        ),
        (
            "receiver: {body_max: lots}",
            "relay.yml:1:22: receiver.body_max: `lots` is not a size; write it like \
            512KiB, 16MiB or 10GiB",
        ),
        (
            "receiver: {body_max: 1KiB}",
            "relay.yml:1:22: receiver.body_max: 1KiB would refuse ordinary events; \
            the least is 64KiB",
        ),
        (
            "receiver: {body_timeout: [5s]}",
            "relay.yml:1:26: receiver.body_timeout: expected a duration like \
            500ms, 5s or 24h, found a list",
        ),
        (
            "receiver: {header_timeout: 0s}",
            "relay.yml:1:28: receiver.header_timeout: must be longer than zero, \
            like 5s",
        ),
        (
            "receiver: {connections_max: many}",
            "relay.yml:1:29: receiver.connections_max: expected a whole number \
            from 0 to 18446744073709551615, found a text",
        ),
        (
            "receiver: {connections_max: -1}",
            "relay.yml:1:29: receiver.connections_max: expected a whole number \
            from 0 to 18446744073709551615",
        ),
        (
            "receiver: {paths: [events]}",
            "relay.yml:1:20: receiver.paths[0]: must be a path like \
            /registry/events, without `?`, `#`, `%` and spaces",
        ),
        (
            "receiver: {tls: {cert: cert.pem, key: key.pem}}",
            "relay.yml:1:39: receiver.tls.key: cannot read \
            `key.pem`: entity not found",
        ),
        (
            "receiver: {tls: {cert: cert.pem, key: cert.pem}}",
            "relay.yml:1:39: receiver.tls.key: `cert.pem` holds \
            no PEM private key",
        ),
        (
            "admin: {listen: '0.0.0.0:8080'}",
            "relay.yml:1:17: admin.listen: the receiver has this address; give \
            the two different ports",
        ),
        ("admin: {disabled: yes}", "relay.yml:1:19: admin.disabled: expected true or false, found a text"),
        (
            "journal: {max_size: 100MiB}",
            "relay.yml:1:21: journal.max_size: must be at least four times `segment_size` and \
            `receiver.body_max`: 256MiB",
        ),
        (
            "journal: {segment_size: 1KiB}",
            "relay.yml:1:25: journal.segment_size: 1KiB is too small; the least is 64KiB",
        ),
        (
            "quarantine: {max_size: 1}",
            "relay.yml:1:24: quarantine.max_size: 1B is too small; the least is 64KiB",
        ),
        (
            "deduplicate: soon",
            "relay.yml:1:14: deduplicate: `soon` is not a duration; write it like 500ms, 5s, \
            10m or 24h",
        ),
        (
            "receiver: {tokens: [${TOKEN}]}",
            "relay.yml:1:22: this is not YAML: while parsing a flow sequence, expected ',' or \
            ']'; within `[…]` and `{…}` a text with `${…}` must stand in quotes",
        ),
        ("a: [", "relay.yml:2:1: this is not YAML: "),
        (
            "deduplicate: ${NOPE}",
            "relay.yml:1:14: deduplicate: the environment variable `NOPE` is not set; set \
            it, or give a default: ${NOPE:-…}",
        ),
        (
            "receiver: {tokens: ['${file:/none}']}",
            "relay.yml:1:21: receiver.tokens[0]: cannot read `/none`: \
            entity not found",
        ),
        (
            "journal: {'${TOKEN}': 1}",
            "relay.yml:1:11: journal.${TOKEN}: `${…}` is filled in in values, not in keys",
        ),
        (
            "deduplicate: ${BAD_TIME}",
            "relay.yml:1:14: deduplicate: `${BAD_TIME}` is not a duration; write it \
            like 500ms, 5s, 10m or 24h",
        ),
        (
            "admin: {listen: '${BAD_ADDRESS}'}",
            "relay.yml:1:17: admin.listen: `${BAD_ADDRESS}` is not an address \
            and port; write it like 0.0.0.0:8080 or [::]:8080",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let errors = errors(&format!("{text}\nsinks: [{{name: out, stdout: {{}}}}]\n"));
        let first = errors.first().map_or("no error", String::as_str);
        let right = if expected.ends_with(": ") { first.starts_with(expected) } else { first == expected };
        if !right {
            wrong.push(format!("{text}\nexpected {expected}\n     got {errors:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mistakes_of_sinks() {
    // Each is the second line's rest: `  - {name: out, …}` with its first key at column 16.
    let cases = [
        (
            "",
            "sinks[0]: has none of kafka, rabbitmq, nats, webhook, file, stdout, stream; give it the one it is",
        ),
        (
            "stdout: {}, stream: {}",
            "sinks[0].stream: is a second kind beside `stdout`; make two sinks of them",
        ),
        ("stdout: {}, url: 'http://x'", "sinks[0].url: is a webhook's; this sink has a `stdout` block"),
        ("stdout: {}, tresholds: 5", "sinks[0].tresholds: unknown key; did you mean `threshold`?"),
        (
            "stdout: {}, threshold: 0",
            "sinks[0].threshold: must be at least 1: so many failures in a row and it \
            rests",
        ),
        ("stdout: {}, threshold: 5e9", "sinks[0].threshold: expected a whole number from 0 to 4294967295"),
        ("stdout: {}, backoff: 0s", "sinks[0].backoff: must be longer than zero, like 5s"),
        (
            "stdout: {}, format: cloudevent",
            "sinks[0].format: unknown value `cloudevent`; did you mean \
            `cloudevents`?",
        ),
        (
            "stdout: {}, format: {a: 1}",
            "sinks[0].format: expected one of event, envelope, \
            cloudevents, cloudevents-structured, found a map",
        ),
        (
            "stdout: {}, strip: [refs]",
            "sinks[0].strip[0]: unknown value `refs`; there are references, actor.user",
        ),
        (
            "stdout: {}, topic: 'r.{acton}'",
            "sinks[0].topic: unknown placeholder {acton}; did you mean {action}?",
        ),
        (
            "stdout: {}, key: '{'",
            "sinks[0].key: unbalanced brace at character 1; a brace itself is written {{ \
            or }}",
        ),
        ("stdout: {}, topic: ''", "sinks[0].topic: is empty; write it like registry.{action}"),
        (
            "stdout: {}, backlog_max: 10",
            "sinks[0].backlog_max: `10` is neither a size nor an age; write it like \
            2GiB or 24h",
        ),
        (
            "stdout: {}, backlog_max: 1s",
            "sinks[0].backlog_max: must be longer than `timeout` and `backoff`, or \
            one failure gives events up",
        ),
        (
            "stdout: {}, dead_letters: {also_to: ouch}",
            "sinks[0].dead_letters.also_to: there is no sink `ouch`; \
            did you mean `out`?",
        ),
        (
            "stdout: {}, dead_letters: {also_to: out}",
            "sinks[0].dead_letters.also_to: names the sink itself; name \
            another that can take what this one cannot",
        ),
        (
            "stdout: {}, headers: {'a b': x}",
            "sinks[0].headers.a b: a header's name is letters, digits and `-`, \
            without spaces",
        ),
        (
            "stdout: {}, headers: {X-A: \"a\\nb\"}",
            "sinks[0].headers.X-A: a header's value cannot hold line \
            breaks or control characters",
        ),
        (
            "stdout: {topic: x}",
            "sinks[0].stdout.topic: unknown key here; `topic` is the sink's own: move it one \
            level out",
        ),
    ];
    for (text, expected) in cases {
        let errors = errors(&format!("sinks:\n  - {{name: out, {text}}}\n"));
        assert!(errors.len() == 1 && errors[0].starts_with("relay.yml:2:"), "{text}: {errors:#?}");
        assert_eq!(errors[0].split_once(": ").map(|(_, text)| text), Some(expected), "{text}");
    }
    for (name, expected) in [
        ("a/b", "a sink's name is 1 to 64 letters, digits, `.`, `_` and `-`"),
        ("''", "a sink's name is 1 to 64 letters, digits, `.`, `_` and `-`"),
        (".hidden", "a sink's name cannot begin with `.`: it names files"),
    ] {
        let errors = errors(&format!("sinks: [{{name: {name}, stdout: }}]"));
        assert_eq!(errors, [format!("relay.yml:1:16: sinks[0].name: {expected}")]);
    }
    let none = "relay.yml:1:1: sinks: there are no `sinks`, so nothing would become of an event; the simplest \
                is `- {name: out, stdout: {}}`";
    assert_eq!(errors(""), [none]);
}

#[test]
fn mistakes_of_routes() {
    let cases = [
        ("- to: [output]", "5:8: routes[0].to[0]: there is no sink `output`; did you mean `out`?"),
        ("- to: [xyz]", "5:8: routes[0].to[0]: there is no sink `xyz`; there are out, off"),
        ("- to: [{sink: xyz}]", "5:15: routes[0].to[0].sink: there is no sink `xyz`; there are out, off"),
        ("- to: []", "5:7: routes[0].to: is empty; name at least one sink"),
        ("- name: a", "5:3: routes[0]: `to` is missing"),
        (
            "- to: [out, out]",
            "5:13: routes[0].to[1]: stands here twice, so that each event would be sent twice",
        ),
        (
            "- to: [{sink: out, topics: x}]",
            "5:20: routes[0].to[0].topics: unknown key; did you mean `topic`?",
        ),
        (
            "- {to: [out], match: {}, otherwise: true}",
            "5:22: routes[0].match: stands beside `otherwise`, which \
            takes what no route matches; keep one of the two",
        ),
        (
            "- {to: [out], match: {kinds: [layer]}}",
            "5:31: routes[0].match.kinds[0]: no such kind `layer`; there \
            are manifest, blob, tag, repository",
        ),
        ("- {to: [out], match: {tags: ['[']}}", "5:30: routes[0].match.tags[0]: not a glob: "),
        (
            "- {to: [out], match: {action: [push]}}",
            "5:23: routes[0].match.action: unknown key; did you mean \
            `actions`?",
        ),
        (
            "- {to: [out], match: {actions: push}}",
            "5:32: routes[0].match.actions: expected a list, like `[…]`, \
            found a text",
        ),
        (
            "- {name: a, to: [out]}\n- {name: a, to: [out]}",
            "6:10: routes[1].name: `a` is already the name of \
            routes[0]",
        ),
        ("- to: 5", "5:7: routes[0].to: expected a list, like `[…]`, found a number"),
    ];
    for (text, expected) in cases {
        let text = format!(
            "sinks:\n- {{name: out, stdout: {{}}}}\n- {{name: off, disabled: true, stdout: {{}}}}\nroutes:\n{text}"
        );
        let errors = errors(&text);
        assert!(errors.len() == 1, "{text}: {errors:#?}");
        let error = errors[0].trim_start_matches("relay.yml:");
        assert!(error == expected || (expected.ends_with(": ") && error.starts_with(expected)), "{error}");
    }
}

#[test]
fn all_mistakes_in_one_go() {
    let text = "\
receiver: { listen: nowhere, bodymax: 1, tokens: ['${UNSET}'] }
journal: { retention: x, retention: y }
sinks:
  - name: bus
    stdout: { oops: 1 }
    threshold: -1
    topic: '{nope}'
  - name: bus
    file: { pathh: ./x }
    timeout: never
  - stdout: {}
    topic: 'a}'
  - name: fine
    stdout:
    dead_letters: { also_to: bus }
routes:
  - to: [bus, fine, missing]
  - match: { kinds: [x], tags: 5 }
    to: [fine]
";
    insta::assert_snapshot!(errors(text).join("\n"));
}

#[test]
fn dead_letters_must_come_to_an_end() {
    let sinks = |also_to: &[(&str, &str)]| {
        let sink = |(name, to): &(&str, &str)| match *to {
            "" => format!("  - {{name: {name}, stdout: {{}}}}\n"),
            to => format!("  - {{name: {name}, stdout: {{}}, dead_letters: {{also_to: {to}}}}}\n"),
        };
        format!("sinks:\n{}", also_to.iter().map(sink).collect::<String>())
    };
    let circle = |sink: usize| {
        vec![format!(
            "relay.yml:{}:51: sinks[{sink}].dead_letters.also_to: dead letters would go in a circle, from sink \
             to sink; end it somewhere",
            sink + 2
        )]
    };
    for (also_to, expected) in [
        (&[("a", "b"), ("b", "c"), ("c", "")][..], vec![]),
        (&[("a", "c"), ("b", "c"), ("c", "")], vec![]),
        (&[("a", "b"), ("b", "a")], circle(0)),
        (&[("a", "b"), ("b", "c"), ("c", "b")], circle(1)),
        (&[("a", "b"), ("b", "c"), ("c", "a")], circle(0)),
    ] {
        assert_eq!(errors(&sinks(also_to)), expected, "{also_to:?}");
    }
}
