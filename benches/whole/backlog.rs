//! Backlogs: how fast a sink that was away catches up, against its client library alone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use relay::event::{Envelope, Event};

use crate::brokers::{Destination, Webhook};
use crate::load;
use crate::measure::{Aim, Row, Unit};
use crate::rig::{BOUND, Bench, blocking, rate, receiver};
use crate::support::relay::Relay;
use crate::support::unique;

/// How many events an envelope has while a journal is filled.
const FILL_BATCH: u64 = 100;
/// How often a drain is looked at.
const LOOK: Duration = Duration::from_millis(2);

pub async fn kafka(bench: &Bench) -> Vec<Row> {
    let row = row("Kafka", "librdkafka's own producer loop, same settings and messages");
    vec![measure(bench, bench.kafka().await, row).await]
}

pub async fn jetstream(bench: &Bench) -> Vec<Row> {
    let row = row("JetStream (file store)", "async-nats with 1,024 acks in flight");
    vec![measure(bench, bench.jetstream().await, row).await]
}

pub async fn rabbitmq(bench: &Bench) -> Vec<Row> {
    let row = row("RabbitMQ (persistent, confirmed)", "lapin with the best window");
    vec![measure(bench, bench.rabbitmq().await, row).await]
}

pub async fn webhook(bench: &Bench) -> Vec<Row> {
    let row = Row::new(
        "backlog into a webhook, 16 requests at once",
        "hyper's client with the same concurrency",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.8),
    );
    vec![measure(bench, &Webhook::start().await, row).await]
}

fn row(to: &str, reference: &str) -> Row {
    Row::new(&format!("backlog into {to}"), reference, Unit::EventsPerSecond, Aim::AtLeast(0.9))
}

async fn measure(bench: &Bench, broker: &impl Destination, row: Row) -> Row {
    let backlog = bench.backlog().await;
    let relay = async || {
        let place = unique("bench");
        broker.prepare(&place).await;
        let rate = backlog.drain(&broker.sink(&place)).await;
        assert!(broker.count(&place).await >= backlog.count, "all of it is there");
        broker.remove(&place).await;
        rate
    };
    let reference = async || {
        let place = unique("bench");
        broker.prepare(&place).await;
        let rate = broker.publish(&place, backlog.events.clone()).await;
        // librdkafka alone loses some of a new topic's first records now and then, and calls them delivered.
        let missing = backlog.count.saturating_sub(broker.count(&place).await);
        if missing > 0 {
            eprintln!("  the reference has lost {missing} of {}, which it had confirmed", backlog.count);
        }
        broker.remove(&place).await;
        rate
    };
    row.alternate(bench.rounds, relay, reference).await
}

/// A relay's journal with events that its one sink has not had yet.
pub struct Backlog {
    pub count: u64,
    /// The same events in memory, for the reference.
    pub events: std::sync::Arc<Vec<Event>>,
    relay: Relay,
    /// The cursors as they stood before anything was delivered: file name and content.
    cursors: Vec<(PathBuf, Vec<u8>)>,
}

impl Backlog {
    /// Fills a journal with `count` events while the sink has nobody to talk to.
    pub async fn of(count: u64) -> Self {
        eprintln!("  filling a journal with {count} events");
        let relay = Relay::start(&config("nats: { servers: \"nats://127.0.0.1:9\" }")).await;
        let (to, envelopes) = (receiver(&relay), count.div_ceil(FILL_BATCH));
        let events = blocking(move || fill(to, envelopes)).await;
        relay.terminate().await;
        let cursors = ["cursors.a", "cursors.b"].map(|name| relay.path("journal/journal").join(name));
        let cursors = cursors.into_iter().filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?)));
        let cursors: Vec<_> = cursors.collect();
        assert!(!cursors.is_empty(), "the journal keeps its cursors elsewhere now");
        Self { count: events.len() as u64, events: events.into(), relay, cursors }
    }

    /// Starts the relay with `sink` (its block in the configuration), which takes all of the backlog;
    /// gives the rate in events a second, from its first confirmations to its last.
    pub async fn drain(&self, sink: &str) -> f64 {
        self.relay.kill_9();
        for (path, content) in &self.cursors {
            std::fs::write(path, content).expect("put the cursors back");
        }
        self.relay.configure(&config(sink));
        self.relay.restart().await;
        let end = Instant::now() + BOUND;
        let mut first = None;
        loop {
            let status = self.relay.status().await;
            let now = Instant::now();
            let delivered = status["sinks"][0]["delivered"].as_u64().expect("a number");
            let (began, before) = *first.get_or_insert((now, delivered));
            if before == 0 {
                first = None;
            }
            if delivered >= self.count {
                assert_eq!(status["sinks"][0]["position"], status["journal"]["next"], "the cursor follows");
                self.relay.kill_9();
                return rate(delivered - before, now - began);
            }
            assert!(now < end, "not delivered within {BOUND:?}: {status:#}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn config(sink: &str) -> String {
    format!(
        "journal: {{ path: \"@DIR@/journal\", max_size: 20GiB }}\n\
         sinks:\n  - name: bus\n    {sink}\nroutes:\n  - name: all\n    to: [bus]\n"
    )
}

/// Sends envelopes and gives the events that were in them.
fn fill(to: std::net::SocketAddr, envelopes: u64) -> Vec<Event> {
    let sample = load::sample();
    let mut stream = load::connect(to);
    let mut events = Vec::new();
    for _ in 0..envelopes {
        let body = sample.envelope(load::fresh(FILL_BATCH));
        load::exchange(&mut stream, &load::request(&body));
        events.extend(Envelope::parse(&body.into()).expect("an envelope").events);
    }
    events
}
