//! The whole way of an event: a real registry, told what to do by skopeo, notifies the relay, and
//! consumers of Kafka, RabbitMQ and JetStream get what the registry sent.
//!
//! What it sent is known from a second endpoint of the same registry, a plain HTTP server that keeps
//! every body.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use serde_json::value::RawValue;
use support::{
    http_sink::HttpSink,
    load::Arrival,
    process::eventually,
    registry::{Endpoint, Registry, Version},
    relay::Relay,
    skopeo,
    suite::Suite,
    trio::{Addresses, Place, SINKS, Trio, delivered},
};

const BOUND: Duration = Duration::from_secs(60);
const TOKEN: &str = "token-of-the-test";

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let trio = Trio::shared();
    let shared = trio.clone();
    suite.test("registry_2_to_kafka_rabbitmq_and_jetstream", async move || {
        // The default topics: `registry.push`, `registry.pull`, `registry.delete`.
        whole_way(Version::V2, &shared.get().await, "registry").await;
    });
    if Version::V3.available() {
        suite.test("registry_3_to_kafka_rabbitmq_and_jetstream", async move || {
            whole_way(Version::V3, &trio.get().await, "registry-3").await;
        });
    }
    suite.run()
}

/// An event as the registry sent it.
#[derive(Debug)]
struct Event {
    raw: String,
    id: String,
    action: String,
    repository: String,
    tag: String,
    media_type: String,
}

impl Event {
    /// The topics that the routes of [`config`] send it to, by the route's words and not by the relay's
    /// code.
    fn topics(&self, place: &Place) -> Vec<String> {
        if self.repository.starts_with("scratch/") {
            return Vec::new();
        }
        let mut topics = vec![place.topic(&self.action)];
        let is_manifest = self.media_type.contains("manifest");
        if self.action == "push" && is_manifest && self.tag.starts_with('v') {
            let (namespace, _) = self.repository.rsplit_once('/').expect("a namespace");
            topics.push(place.topic(&format!("releases.{namespace}")));
        }
        topics
    }
}

async fn whole_way(version: Version, trio: &Arc<Trio>, name: &str) {
    let place = Place::named(trio, name.to_owned()).await;
    let relay = Relay::start_with(&config(&place, trio), &[("RELAY_TOKEN", TOKEN)]).await;
    assert_eq!(relay.post("{}").await.status, 401, "without a token");
    let mirror = HttpSink::start().await;
    let endpoint = Endpoint {
        headers: vec![("Authorization".to_owned(), format!("Bearer {TOKEN}"))],
        mirror: Some(mirror.url()),
        ..Default::default()
    };
    let registry = Registry::start_with(version, &relay.events_url(), endpoint).await;

    push_pull_and_delete(registry.address()).await;
    let sent = sent_by_the_registry(registry.address(), &mirror).await;
    let what = format!("the relay has all {} events", sent.len());
    relay.status_when(&what, BOUND, |status| status["receiver"]["received"] == sent.len()).await;
    delivered(&relay, &[&SINKS[..], &["archive"]].concat(), BOUND).await;

    let actions: BTreeSet<_> = sent.iter().map(|event| event.action.as_str()).collect();
    assert!(actions.is_superset(&["delete", "pull", "push"].into()), "{actions:?}");
    for sink in SINKS {
        let topics = [&actions.iter().copied().collect::<Vec<_>>()[..], &["releases.team"]].concat();
        let arrived = place.arrived(sink, &topics, BOUND).await;
        assert_each_once(sink, &place, &sent, &arrived);
    }
    assert_archived(trio, &place, &sent).await;
}

fn config(place: &Place, trio: &Trio) -> String {
    let name = &place.name;
    let releases: String = SINKS
        .iter()
        .map(|sink| format!("      - {{ sink: {sink}, topic: \"{name}.releases.{{namespace}}\" }}\n"))
        .collect();
    format!(
        "receiver: {{ listen: \"@RECEIVER@\", tokens: [\"${{RELAY_TOKEN}}\"] }}\n\
         {}  - name: archive\n    nats: {{ servers: \"{}\", jetstream: {{ stream: {name}-archive, create: {{ subjects: [\"{name}-archive.>\"] }} }} }}\n    \
         topic: \"{name}-archive.{{kind}}\"\n\
         routes:\n\
         \x20 - name: all\n    match: {{ not: {{ repositories: [\"scratch/**\"] }} }}\n    to: [{}]\n\
         \x20 - name: releases\n    match: {{ actions: [push], kinds: [manifest], tags: [\"v*\"] }}\n    to:\n{releases}\
         \x20 - name: other\n    otherwise: true\n    to: [archive]\n",
        place.sinks(&Addresses::direct(trio), "{action}", &[]),
        trio.nats.url(),
        SINKS.join(", "),
    )
}

/// Several repositories at the same time, each with its own order of things.
async fn push_pull_and_delete(registry: &str) {
    let app = format!("{registry}/team/app");
    let tool = format!("{registry}/team/tools/lint");
    let scratch = format!("{registry}/scratch/tmp");
    tokio::join!(
        async {
            let first = skopeo::push(&app, "v1.0").await;
            first.push(&app, "latest").await;
            skopeo::pull(&app, "latest").await;
            skopeo::push(&app, "v1.1").await;
            skopeo::delete(&app, "v1.0").await;
        },
        async {
            skopeo::push(&tool, "edge").await;
            skopeo::pull(&tool, "edge").await;
            skopeo::delete(&tool, "edge").await;
        },
        async {
            skopeo::push(&scratch, "1").await;
            skopeo::pull(&scratch, "1").await;
        },
    );
}

/// Everything that the registry has notified of: a last push marks the end, since an endpoint's queue
/// is in order.
async fn sent_by_the_registry(registry: &str, mirror: &HttpSink) -> Vec<Event> {
    skopeo::push(&format!("{registry}/team/marker"), "end").await;
    let marker = [r#""action": "push""#, r#""repository": "team/marker""#, r#""tag": "end""#];
    mirror.heard("the last push", &marker, BOUND).await;
    mirror.taken().iter().flat_map(|request| events(request.text())).collect()
}

/// The events of a body, cut out as they stand in it.
fn events(body: &str) -> Vec<Event> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let envelope: Envelope = serde_json::from_str(body).expect("an envelope");
    let event = |raw: &&RawValue| {
        let json: serde_json::Value = serde_json::from_str(raw.get()).expect("an event");
        let text = |path: &str| json.pointer(path).and_then(|value| value.as_str()).unwrap_or("").to_owned();
        Event {
            raw: raw.get().to_owned(),
            id: text("/id"),
            action: text("/action"),
            repository: text("/target/repository"),
            tag: text("/target/tag"),
            media_type: text("/target/mediaType"),
        }
    };
    envelope.events.iter().map(event).collect()
}

/// What arrived, by topic and repository: the ids and bodies in their order.
type Sequences<'a> = BTreeMap<(&'a str, &'a str), Vec<(&'a str, &'a str)>>;

/// Each event once on each of its topics, byte for byte, in the registry's order per repository.
fn assert_each_once(sink: &str, place: &Place, sent: &[Event], arrived: &[Arrival]) {
    let topics: Vec<_> = sent.iter().map(|event| event.topics(place)).collect();
    let mut expected = Sequences::new();
    for (event, topics) in sent.iter().zip(&topics) {
        for topic in topics {
            let sequence = expected.entry((topic, &event.repository)).or_default();
            sequence.push((&event.id, &event.raw));
        }
    }
    let repositories: BTreeMap<_, _> =
        sent.iter().map(|event| (event.id.as_str(), event.repository.as_str())).collect();
    let mut found = Sequences::new();
    for arrival in arrived {
        let repository = repositories.get(arrival.id.as_str());
        let repository = repository.unwrap_or_else(|| panic!("{sink}: {} was never sent", arrival.id));
        assert!(arrival.key.as_deref().is_none_or(|key| key == *repository), "{sink}: {arrival:?}");
        let body = std::str::from_utf8(&arrival.body).expect("UTF-8");
        found.entry((&arrival.topic, repository)).or_default().push((&arrival.id, body));
    }
    assert_eq!(found, expected, "{sink}");
    assert!(found.contains_key(&(&place.topic("releases.team"), "team/app")), "{sink}: no release");
    if sink != "kafka" {
        assert_one_order(sink, sent, arrived, &repositories);
    }
}

/// A queue or a stream holds all topics: there the order of a repository holds across them, too.
fn assert_one_order(sink: &str, sent: &[Event], arrived: &[Arrival], repositories: &BTreeMap<&str, &str>) {
    for repository in repositories.values().filter(|name| !name.starts_with("scratch/")) {
        let of_repository = |id: &&str| repositories[id] == *repository;
        let expected: Vec<_> = sent.iter().map(|event| event.id.as_str()).filter(of_repository).collect();
        let mut found: Vec<_> =
            arrived.iter().map(|arrival| arrival.id.as_str()).filter(of_repository).collect();
        found.dedup(); // one event's messages stand together
        assert_eq!(found, expected, "{sink}: the order of {repository}");
    }
}

/// What no other route took is in the archive, and nothing else.
async fn assert_archived(trio: &Trio, place: &Place, sent: &[Event]) {
    let stream = format!("{}-archive", place.name);
    let expected: Vec<_> =
        sent.iter().filter(|event| event.topics(place).is_empty()).map(|event| event.raw.as_str()).collect();
    assert!(!expected.is_empty(), "nothing was pushed to scratch/");
    eventually("the archive holds them", BOUND, async || {
        (trio.nats.count(&stream).await >= expected.len() as u64).then_some(())
    })
    .await;
    let count = usize::try_from(trio.nats.count(&stream).await).expect("a count");
    let archived = trio.nats.consume_stream(&stream, count, BOUND).await;
    let archived: Vec<_> =
        archived.iter().map(|message| std::str::from_utf8(&message.payload).expect("UTF-8")).collect();
    assert_eq!(archived, expected);
}
