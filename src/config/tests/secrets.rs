//! What is filled in stays what it is, and hidden.

use super::*;

#[test]
fn secrets_are_never_shown() {
    // The secret where a key, number, size, list, enum, template, sink or glob is expected.
    for place in [
        "receiver: {tokens: {S: 1}}",
        "receiver: {listen: S}",
        "receiver: {body_max: S}",
        "receiver: {connections_max: S}",
        "receiver: {paths: [S]}",
        "receiver: {tls: {cert: S, key: S}}",
        "receiver: S",
        "receiver: [S]",
        "admin: {disabled: S}",
        "deduplicate: S",
        "routes: [{to: [S]}]",
        "routes: [{to: [out], match: {kinds: [S]}}]",
        "routes: [{to: [out], match: {tags: ['[S']}}]",
        "sinks: [{name: x, stdout: , format: S}]",
        "sinks: [{name: x, stdout: , topic: '{S}'}]",
        "sinks: [{name: x, stdout: , topic: 'a{S'}]",
        "sinks: [{name: x, stdout: , strip: [S]}]",
        "sinks: [{name: x, stdout: , backlog_max: S}]",
        "sinks: [{name: 'a S', stdout: }]",
        "sinks: [{name: S, stdout: },{name: S, stdout: }]",
        "sinks: [{name: x, stdout: , dead_letters: {also_to: S}}]",
        "sinks: [{name: x, stdout: , headers: {X: \"S\\n\"}}]",
        "sinks: [{name: x, stdout: S}]",
        "sinks: [{name: x, stdout: , S}]",
    ] {
        for filling in ["${TOKEN}", "${file:/run/secrets/token}", "x${TOKEN}y"] {
            let text = place.replace('S', filling).replace(&format!("{{{filling}: 1}}"), "{k: 1}");
            let text =
                if text.starts_with("sinks") { text } else { text + "\nsinks: [{name: out, stdout: }]" };
            let errors = errors(&text);
            assert!(!errors.is_empty(), "{text}");
            assert!(!errors.iter().any(|error| error.contains(SECRET)), "{text}: {errors:#?}");
        }
    }
    // A secret written out: of a `Secret`, and of a line beside the mistake.
    for text in [
        format!("receiver: {{tokens: [[{SECRET}]]}}"),
        format!("receiver: {{tokens: ['{SECRET} ']}}"),
        format!("receiver: {{users: {{a: {{b: {SECRET}}}}}}}"),
        format!("receiver:\n  tokens: [{SECRET}]\n  oops: 1\n  users: {{a: {SECRET}}}"),
        format!("receiver:\n  tokens: [{SECRET}\n  oops: 1"),
    ] {
        let errors = errors(&text);
        assert!(!errors.is_empty() && !errors.iter().any(|error| error.contains(SECRET)), "{errors:#?}");
    }
    let loaded = loaded("receiver: {tokens: ['${TOKEN}'], users: {a: '${TOKEN}'}}");
    assert!(!format!("{:?}", loaded.config.receiver).contains(SECRET));
}

#[test]
fn what_is_filled_in_is_no_yaml() {
    let config = loaded("receiver: {users: {u: \"${INJECT}\"}}").config;
    assert_eq!(config.receiver.users[0].1.expose(), "a\nadmin: {disabled: true}");
    assert!(config.admin.is_some());
    // Quoted it is a text, and no number; empty it is an empty text, and not nothing.
    let text =
        "sinks: [{name: a, stdout: , threshold: '${COUNT}'}, {name: b, stdout: , threshold: \"${EMPTY}\"}]";
    let number = "expected a whole number from 0 to 4294967295, found a text";
    assert_eq!(
        errors(text),
        [
            format!("relay.yml:1:40: sinks[0].threshold: {number}"),
            format!("relay.yml:1:84: sinks[1].threshold: {number}"),
        ]
    );
}
