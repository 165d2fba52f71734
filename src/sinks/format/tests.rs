use super::*;
use crate::config::DeadLetterConfig;
use crate::route::Template;
use crate::sinks::{Naming, SinkOptions};

const EVENT: &str = r#"{ "id": "e-1", "timestamp": "2026-11-24T01:58:26.926Z", "action": "push",
   "target": {"repository": "team/app", "tag": "1.0", "references": [{"size": 1}], "size": 7.0},
   "actor": {"name": "ci", "user": "s3cret"}, "source": {"addr": "registry:5000"} }"#;

fn config(format: Format) -> SinkConfig {
    let template = |text| Template::parse(text).expect(text);
    SinkConfig {
        name: "test".into(),
        disabled: false,
        options: SinkOptions::Stream,
        topic: template("registry.{action}"),
        key: template("{repository}"),
        format,
        timeout: std::time::Duration::from_secs(5),
        threshold: 5,
        backoff: std::time::Duration::from_secs(1),
        headers: vec![("x-env".into(), "prod".into())],
        ignore_mediatypes: Vec::new(),
        ignore_actions: Vec::new(),
        give_up_after: None,
        strip: Vec::new(),
        message_bytes_max: None,
        backlog_max: None,
        dead_letters: DeadLetterConfig { bytes_max: 1 << 20, also_to: None },
    }
}

fn target(topic: &str) -> Target {
    let template = |text| Template::parse(text).expect(text);
    Target { route: 0, sink: 0, topic: template(topic), key: template("{repository}"), naming: Naming::Kafka }
}

fn stored(json: &str) -> Stored {
    let event = Event::parse(json.to_owned().into()).expect("an event");
    Stored { offset: 42, arrived: 1_764_000_000_000_000, event }
}

fn render(config: &SinkConfig, json: &str, topics: &[&str]) -> Vec<Message> {
    let targets: Vec<_> = topics.iter().map(|topic| target(topic)).collect();
    let mut out = Vec::new();
    Renderer::new(config, "log").render(&stored(json), &targets, &mut out);
    out
}

fn one(config: &SinkConfig, json: &str) -> Message {
    render(config, json, &["registry.{action}"]).remove(0)
}

fn text(message: &Message) -> &str {
    std::str::from_utf8(&message.body).expect("UTF-8")
}

#[test]
fn an_event_is_forwarded_without_a_copy() {
    let stored = stored(EVENT);
    let mut out = Vec::new();
    Renderer::new(&config(Format::Event), "log").render(&stored, &[target("registry.{action}")], &mut out);
    let message = &out[0];
    assert_eq!(message.body.as_ptr(), stored.event.raw().as_ptr());
    assert_eq!(message.body.len(), EVENT.len());
    assert_eq!((message.id.as_str(), message.dedup_id.as_str()), ("e-1", "e-1"));
    assert_eq!((message.topic.as_str(), message.key.as_str()), ("registry.push", "team/app"));
    assert_eq!(message.headers, [("x-env".into(), "prod".to_owned())]);
    assert_eq!(message.content_type, "application/json");
}

#[test]
fn topics_of_one_event_are_told_apart_and_named_once() {
    let topics = ["registry.{action}", "registry.push", "team.{namespace}"];
    let messages = render(&config(Format::Event), EVENT, &topics);
    let seen: Vec<_> =
        messages.iter().map(|m| (m.topic.as_str(), m.id.as_str(), m.dedup_id.as_str())).collect();
    assert_eq!(seen, [("registry.push", "e-1", "e-1"), ("team.team", "e-1", "e-1:team.team")]);
}

#[test]
fn an_event_without_an_id_gets_one_of_the_journals() {
    assert_eq!(one(&config(Format::Event), r#"{"action":"push"}"#).id, "log-42");
}

#[test]
fn an_envelope_holds_the_events_bytes() {
    let message = one(&config(Format::Envelope), EVENT);
    assert_eq!(text(&message), format!("{{\"events\":[{EVENT}]}}"));
    assert_eq!(message.content_type, "application/vnd.docker.distribution.events.v1+json");
    assert_eq!(inside_envelope(&message.body).as_deref(), Some(EVENT.as_bytes()));
    let two = envelope(&[Bytes::from("{}"), Bytes::from("{ }")]);
    assert_eq!(two, "{\"events\":[{},{ }]}");
    assert_eq!(inside_envelope(&Bytes::from(EVENT)), None);
}

#[test]
fn cloudevents_in_headers() {
    let message = one(&config(Format::Cloudevents), EVENT);
    let headers: Vec<_> =
        message.headers.iter().map(|(name, value)| (name.as_ref(), value.as_str())).collect();
    assert_eq!(
        headers,
        [
            ("x-env", "prod"),
            ("ce-specversion", "1.0"),
            ("ce-id", "e-1"),
            ("ce-source", "//registry:5000"),
            ("ce-type", "io.github.distribution.push"),
            ("ce-time", "2026-11-24T01:58:26.926Z"),
            ("ce-subject", "team/app:1.0"),
        ]
    );
    assert_eq!(text(&message), EVENT);
}

#[test]
fn cloudevents_of_an_odd_event_are_still_legal() {
    let json = r#"{"action":"","timestamp":"yesterday","target":{"repository":"tëam\n%"}}"#;
    let message = one(&SinkConfig { headers: Vec::new(), ..config(Format::Cloudevents) }, json);
    let headers: Vec<_> = message.headers.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(
        headers,
        [
            "1.0",
            "log-42",
            "urn:relay:log",
            "io.github.distribution.event",
            "2025-11-24T16:00:00Z",
            "t%C3%ABam%0A%25"
        ]
    );
}

#[test]
fn a_configured_header_wins_over_the_formats() {
    let headers = vec![("CE-Source".into(), "//mine".into())];
    let message = one(&SinkConfig { headers, ..config(Format::Cloudevents) }, EVENT);
    let sources: Vec<_> =
        message.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ce-source")).collect();
    assert_eq!(sources, [&("CE-Source".into(), "//mine".to_owned())]);
}

#[test]
fn cloudevents_prefixes_follow_the_binding() {
    for (naming, name) in [
        (Naming::Kafka, "ce_id"),
        (Naming::Amqp, "cloudEvents:id"),
        (Naming::Nats, "ce-id"),
        (Naming::Plain, "ce-id"),
    ] {
        let renderer =
            Renderer { binding: Binding::of(naming), ..Renderer::new(&config(Format::Cloudevents), "log") };
        let mut out = Vec::new();
        renderer.render(&stored(EVENT), &[target("t")], &mut out);
        assert!(out[0].headers.iter().any(|(found, _)| found == name), "{naming:?}");
    }
}

#[test]
fn cloudevents_as_one_document() {
    let message = one(&config(Format::CloudeventsStructured), EVENT);
    assert_eq!(message.content_type, "application/cloudevents+json");
    assert!(text(&message).ends_with(&format!("\"data\":{EVENT}}}")), "{}", text(&message));
    let document: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
    assert_eq!(document["specversion"], "1.0");
    assert_eq!(document["subject"], "team/app:1.0");
    assert_eq!(document["datacontenttype"], "application/json");
    assert_eq!(document["data"]["target"]["repository"], "team/app");
}

#[test]
fn strips_what_is_listed() {
    let references = r#""references": [{"size": 1}], "#;
    let user = r#", "user": "s3cret""#;
    let (without_references, without_user) = (EVENT.replace(references, ""), EVENT.replace(user, ""));
    let without_both = without_references.replace(user, "");
    let size = EVENT.len() as u64;
    for (strip, max, expected) in [
        (vec![], Some(10), EVENT),
        (vec![Strip::References], Some(size), EVENT),
        (vec![Strip::References], Some(size - 1), &without_references),
        (vec![Strip::References], None, &without_references),
        (vec![Strip::ActorUser], Some(size), &without_user),
        (vec![Strip::ActorUser, Strip::References], Some(size), &without_user),
        (vec![Strip::ActorUser, Strip::References], Some(100), &without_both),
    ] {
        let what = format!("{strip:?} {max:?}");
        let config = SinkConfig { strip, message_bytes_max: max, ..config(Format::Event) };
        assert_eq!(text(&one(&config, EVENT)), expected, "{what}");
    }
}
