use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

fn event(json: &str) -> Event {
    Event::parse(Bytes::copy_from_slice(json.as_bytes())).expect("an event")
}

#[test]
fn reads_the_fields_of_a_push() {
    let event = event(
        r#"{"id":"a1","timestamp":"2026-11-24T01:58:30Z","action":"push","target":{"mediaType":
        "application/vnd.oci.image.manifest.v1+json","digest":"sha256:00","repository":"team/sub/app","tag":"v1",
        "url":"http://r/v2/team/sub/app/manifests/sha256:00"},"request":{"id":"r","method":"PUT"},
        "actor":{"name":"ci"},"source":{"addr":"registry:5000","instanceID":"i"}}"#,
    );
    assert_eq!((event.id(), event.action(), event.repository()), ("a1", "push", "team/sub/app"));
    assert_eq!((event.namespace(), event.tag(), event.actor()), ("team/sub", "v1", "ci"));
    assert_eq!((event.source(), event.source_instance()), ("registry:5000", "i"));
    assert_eq!((event.method(), event.kind()), ("PUT", Kind::Manifest));
}

#[test]
fn undoes_escapes_beside_the_bytes() {
    let json = r#"{"action":"p\u0075sh","target":{"repository":"a\/b","tag":"plain"}}"#;
    let event = event(json);
    assert_eq!((event.action(), event.repository(), event.tag()), ("push", "a/b", "plain"));
    assert_eq!(&event.raw()[..], json.as_bytes());
}

#[test]
fn odd_types_and_repeated_keys_are_no_reason_to_refuse() {
    let event = event(r#"{"action":7,"target":[1,{"x":2}],"actor":null,"id":"a","id":"b","source":"s"}"#);
    assert_eq!((event.action(), event.repository(), event.id()), ("", "", "b"));
}

#[test]
fn kinds() {
    let cases = [
        (r#"{"mediaType":"application/octet-stream","digest":"sha256:0"}"#, Kind::Blob),
        (r#"{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json"}"#, Kind::Manifest),
        (r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#, Kind::Manifest),
        (r#"{"mediaType":"","digest":"","size":0,"repository":"a","tag":"v1"}"#, Kind::Tag),
        (r#"{"digest":"sha256:0","repository":"a"}"#, Kind::Manifest),
        (r#"{"digest":"sha256:0","url":"http://r/v2/a/blobs/sha256:0"}"#, Kind::Blob),
        (r#"{"repository":"a"}"#, Kind::Repository),
    ];
    for (target, kind) in cases {
        assert_eq!(event(&format!(r#"{{"action":"x","target":{target}}}"#)).kind(), kind, "{target}");
    }
}

#[test]
fn envelopes_whole_or_not_at_all() {
    let parse = |json: &str| Envelope::parse(&Bytes::copy_from_slice(json.as_bytes()));
    let ok = parse(" {\"events\": [ {\"action\":\"push\"} ,{\"action\":\"pull\"}]}\n").expect("two");
    assert_eq!(ok.events.iter().map(Event::action).collect::<Vec<_>>(), ["push", "pull"]);
    assert_eq!(parse("\n{\"action\":\"push\"}\n").expect("a bare event").events.len(), 1);
    assert_eq!(parse(r#"{"events":[]}"#).expect("empty").events.len(), 0);
    assert_eq!(parse(r#"{"events":[{},3]}"#).unwrap_err(), EnvelopeError::NotAnEvent(1));
    for odd in ["[]", "3", "\"x\"", "null", "{}", r#"{"events":{}}"#, r#"{"events":null}"#] {
        assert_eq!(parse(odd).unwrap_err(), EnvelopeError::NotAnEnvelope, "{odd}");
    }
    for broken in ["", "{", "{\"events\":[{]}", "{\"events\":[]}x", "\u{feff}{}"] {
        assert!(matches!(parse(broken).unwrap_err(), EnvelopeError::Json(_)), "{broken}");
    }
}

#[test]
fn compact_touches_only_white_space_between_tokens() {
    let json = Bytes::from_static(b"{\n   \"a b\": [ 1.0,\t2e5 ],\r\n \"q\\\" \\\\\": \" x \" }");
    assert_eq!(&compact(&json)[..], br#"{"a b":[1.0,2e5],"q\" \\":" x "}"#);
}

/// Whatever its size, and where its texts stand.
#[test]
fn large_events_are_stored_too() {
    for padding in [0, 100, 32_600, 32_767, 70_000, 1 << 20] {
        for (before, after) in [(padding, 0), (0, padding)] {
            let [before, after] = [before, after].map(|len| " ".repeat(len));
            let tag = "t\\u00e9".repeat(padding / 8);
            let json = format!(
                r#"{{"id":"i","x":"{before}","action":"push","target":{{"tag":"{tag}"}},"y":"{after}"}}"#
            );
            let event = event(&json);
            let mut stored = BytesMut::new();
            event.encode(&mut stored);
            assert_eq!(stored.len(), event.encoded_len());
            let stored = stored.freeze();
            assert_eq!(event.clone().moved_to(stored.clone()), event);
            assert_eq!(Event::decode(stored), Ok(event));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail_without_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(&body.into());
    }

    #[test]
    fn stored_form_round_trips(action in ".{0,20}", repository in ".{0,40}", tag in ".{0,20}") {
        let json = serde_json::json!({"action": action, "target": {"repository": repository, "tag": tag}});
        let event = event(&json.to_string());
        prop_assert_eq!(event.action(), action);
        prop_assert_eq!(event.repository(), repository);
        let mut stored = BytesMut::new();
        event.encode(&mut stored);
        prop_assert_eq!(stored.len(), event.encoded_len());
        prop_assert_eq!(Event::decode(stored.freeze()), Ok(event));
    }

    #[test]
    fn decoding_any_bytes_never_panics(
        mut stored in proptest::collection::vec(any::<u8>(), 0..300),
        stored_is_narrow in any::<bool>(),
    ) {
        if let Some(first) = stored.first_mut() { *first = 1; }
        if let Some(width) = stored.get_mut(2..4) { width.copy_from_slice(&[stored_is_narrow.into(), 0]); }
        if let Ok(event) = Event::decode(stored.into()) {
            let _ = (event.action(), event.kind());
        }
    }
}
