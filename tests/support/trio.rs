//! Kafka, RabbitMQ and JetStream side by side, and what one test has in all three.

use std::{sync::Arc, time::Duration};

use futures_util::future::join3;
use lapin::ExchangeKind;
use serde_json::Value;

use super::{
    kafka::{self, Kafka},
    load::Arrival,
    nats::{self, Nats},
    proxy::Proxy,
    rabbitmq::{self, RabbitMq},
    relay::Relay,
    suite::Shared,
    unique,
};

/// The sinks' names, and the order in which they stand in a configuration.
pub const SINKS: [&str; 3] = ["kafka", "rabbitmq", "jetstream"];

/// The three brokers, to be stopped and frozen at will.
pub struct Trio {
    pub kafka: Kafka,
    pub rabbitmq: RabbitMq,
    pub nats: Nats,
}

impl Trio {
    /// Started by the first test that asks for them.
    pub fn shared() -> Shared<Self> {
        Shared::new(Self::start)
    }

    /// All at once: about eight seconds.
    async fn start() -> Self {
        let (kafka, rabbitmq, nats) = join3(
            Kafka::start(kafka::Options { own: true, proxied: true, ..Default::default() }),
            RabbitMq::start(rabbitmq::Options { own: true, ..Default::default() }),
            Nats::start(nats::Options { own: true, ..Default::default() }),
        )
        .await;
        Self { kafka, rabbitmq, nats }
    }

    pub fn kill(&self, sink: &str) {
        match sink {
            "kafka" => self.kafka.kill(),
            "rabbitmq" => self.rabbitmq.kill(),
            _ => self.nats.kill(),
        }
    }

    /// As an operator does it.
    pub async fn stop(&self, sink: &str) {
        match sink {
            "kafka" => self.kafka.stop().await,
            "rabbitmq" => self.rabbitmq.stop().await,
            _ => self.nats.stop().await,
        }
    }

    pub async fn start_again(&self, sink: &str) {
        match sink {
            "kafka" => self.kafka.start_again().await,
            "rabbitmq" => self.rabbitmq.start_again().await,
            _ => self.nats.start_again().await,
        }
    }

    /// Connections to the broker stay open and nothing answers, until the answer is dropped.
    pub fn freeze(&self, sink: &str) -> Frozen<'_> {
        match sink {
            "kafka" => self.kafka.freeze(),
            "rabbitmq" => self.rabbitmq.freeze(),
            _ => self.nats.freeze(),
        }
        Frozen { trio: self, sink: sink.to_owned() }
    }
}

/// A broker that stands still for as long as this lives, even where a test fails meanwhile.
pub struct Frozen<'a> {
    trio: &'a Trio,
    sink: String,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        match self.sink.as_str() {
            "kafka" => self.trio.kafka.thaw(),
            "rabbitmq" => self.trio.rabbitmq.thaw(),
            _ => self.trio.nats.thaw(),
        }
    }
}

/// Where a relay finds the brokers.
pub struct Addresses {
    pub kafka: String,
    pub rabbitmq: String,
    pub nats: String,
}

impl Addresses {
    pub fn direct(trio: &Trio) -> Self {
        Self {
            kafka: trio.kafka.bootstrap().to_owned(),
            rabbitmq: trio.rabbitmq.amqp_uri().to_owned(),
            nats: trio.nats.url().to_owned(),
        }
    }

    /// Each by way of a proxy: Kafka's own, and those given.
    pub fn proxied(trio: &Trio, rabbitmq: &Proxy, nats: &Proxy) -> Self {
        Self {
            kafka: trio.kafka.bootstrap_proxied().to_owned(),
            rabbitmq: format!("amqp://guest:guest@{}/%2f", rabbitmq.address()),
            nats: format!("nats://{}", nats.address()),
        }
    }
}

/// One test's own topics, an exchange with a queue that takes everything, and a stream.
pub struct Place {
    trio: Arc<Trio>,
    /// What all topics begin with; also the exchange and the stream.
    pub name: String,
    pub queue: String,
}

impl Place {
    /// With a name of its own that begins with `name`.
    pub async fn new(trio: &Arc<Trio>, name: &str) -> Self {
        Self::named(trio, unique(name)).await
    }

    /// With just this name, which nothing at the brokers may have yet.
    pub async fn named(trio: &Arc<Trio>, name: String) -> Self {
        trio.rabbitmq.declare_exchange(&name, ExchangeKind::Topic).await;
        let queue = trio.rabbitmq.declare_queue_bound(&name, "#").await;
        trio.nats.create_stream(&name, &[&format!("{name}.>")]).await;
        Self { trio: Arc::clone(trio), name, queue }
    }

    /// Three sinks, each with `more` lines of options; `topic` is a template below the place's name.
    pub fn sinks(&self, at: &Addresses, topic: &str, more: &[&str]) -> String {
        let name = &self.name;
        let blocks = [
            format!("kafka: {{ brokers: \"{}\", create: {{ partitions: 3 }} }}", at.kafka),
            format!("rabbitmq: {{ uri: \"{}\", exchange: {{ name: \"{name}\" }} }}", at.rabbitmq),
            format!("nats: {{ servers: \"{}\", jetstream: {{ stream: \"{name}\" }} }}", at.nats),
        ];
        let mut text = "sinks:\n".to_owned();
        for (sink, block) in SINKS.iter().zip(blocks) {
            text += &format!("  - name: {sink}\n    {block}\n    topic: \"{name}.{topic}\"\n");
            for line in more {
                text += &format!("    {line}\n");
            }
        }
        text
    }

    /// The three sinks with one topic, quick to notice that a broker is gone and to try again, and
    /// everything routed to all of them.
    pub fn config(&self, at: &Addresses) -> String {
        let quick = ["timeout: 2s", "threshold: 1", "backoff: 100ms"];
        self.sinks(at, "events", &quick) + &format!("routes:\n  - to: [{}]\n", SINKS.join(", "))
    }

    /// A topic of this place.
    pub fn topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.name)
    }

    /// Everything that is there now for `sink`, in order of arrival; of Kafka, what `topics` hold.
    pub async fn arrived(&self, sink: &str, topics: &[&str], bound: Duration) -> Vec<Arrival> {
        match sink {
            "kafka" => self.arrived_at_kafka(topics, bound).await,
            "rabbitmq" => self.arrived_at_rabbitmq(bound).await,
            _ => self.arrived_at_jetstream(bound).await,
        }
    }

    async fn arrived_at_kafka(&self, topics: &[&str], bound: Duration) -> Vec<Arrival> {
        let mut held = Vec::new();
        let mut count = 0;
        for topic in topics.iter().map(|topic| self.topic(topic)) {
            let here = self.trio.kafka.count(&[&topic]).await;
            if here > 0 {
                held.push(topic);
                count += here;
            }
        }
        let topics: Vec<_> = held.iter().map(String::as_str).collect();
        let count = usize::try_from(count).expect("a count");
        let records = self.trio.kafka.consume_all(&topics, count, bound).await;
        let arrivals = records.into_iter().map(|record| Arrival {
            key: Some(record.key_text().to_owned()),
            id: record.header("id").expect("an id").to_owned(),
            topic: record.topic,
            body: record.value,
        });
        arrivals.collect()
    }

    async fn arrived_at_rabbitmq(&self, bound: Duration) -> Vec<Arrival> {
        let count = self.trio.rabbitmq.depth(&self.queue).await as usize;
        let deliveries = self.trio.rabbitmq.consume(&self.queue, count, bound).await;
        let arrivals = deliveries.into_iter().map(|delivery| Arrival {
            key: None,
            id: delivery.message_id().expect("an id").to_owned(),
            topic: delivery.routing_key,
            body: delivery.body,
        });
        arrivals.collect()
    }

    async fn arrived_at_jetstream(&self, bound: Duration) -> Vec<Arrival> {
        let count = usize::try_from(self.trio.nats.count(&self.name).await).expect("a count");
        let messages = self.trio.nats.consume_stream(&self.name, count, bound).await;
        let arrivals = messages.into_iter().map(|message| {
            let id = message.header("id").expect("an id").to_owned();
            // An event's second message at one sink has an id of its own to the server.
            let dedup_id = message.header("Nats-Msg-Id").expect("an id for the server");
            assert!(dedup_id == id || dedup_id == format!("{id}:{}", message.subject), "{dedup_id} of {id}");
            Arrival { key: None, id, topic: message.subject, body: message.payload }
        });
        arrivals.collect()
    }
}

/// A sink's part of the relay's status.
pub fn sink_of<'a>(status: &'a Value, sink: &str) -> &'a Value {
    let sinks = status["sinks"].as_array().expect("sinks");
    sinks.iter().find(|found| found["name"] == sink).unwrap_or_else(|| panic!("no sink {sink}: {status}"))
}

/// Whether `sinks` have confirmed everything that the journal holds.
pub fn is_delivered(status: &Value, sinks: &[&str]) -> bool {
    sinks.iter().all(|sink| sink_of(status, sink)["position"] == status["journal"]["next"])
}

/// Waits until `sinks` have confirmed everything that the relay has taken.
pub async fn delivered(relay: &Relay, sinks: &[&str], bound: Duration) -> Value {
    relay.status_when("everything is delivered", bound, |status| is_delivered(status, sinks)).await
}
