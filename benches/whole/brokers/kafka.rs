//! Kafka: an idempotent producer, keyed by repository.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use relay::event::Event;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Broker, Destination, Publisher};
use crate::rig::{BOUND, blocking, rate};
use crate::support::kafka;

const PARTITIONS: i32 = 3;

pub struct Kafka {
    node: kafka::Kafka,
}

impl Kafka {
    pub async fn start() -> Self {
        // What a run has removed must not fill the disk for the broker's usual minute.
        let properties = vec![("file.delete.delay.ms".to_owned(), "1000".to_owned())];
        let options = kafka::Options { own: true, properties, ..Default::default() };
        Self { node: kafka::Kafka::start(options).await }
    }

    /// The relay's own settings for librdkafka, as its sink has them by default.
    fn settings(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.node.bootstrap())
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "none")
            .set("max.in.flight.requests.per.connection", "1")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("message.max.bytes", "16777216")
            .set("queue.buffering.max.kbytes", "32768")
            .set("queue.buffering.max.messages", "10000")
            .set("message.timeout.ms", "5000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true");
        config
    }
}

impl Destination for Kafka {
    async fn prepare(&self, place: &str) {
        self.node.create_topic(place, PARTITIONS).await;
        let (settings, topic) = (self.settings(), place.to_owned());
        blocking(move || await_leaders(&settings, &topic)).await;
    }

    fn sink(&self, place: &str) -> String {
        format!("kafka: {{ brokers: \"{}\" }}\n    topic: {place}", self.node.bootstrap())
    }

    async fn publish(&self, place: &str, events: Arc<Vec<Event>>) -> f64 {
        let (settings, topic) = (self.settings(), place.to_owned());
        blocking(move || produce(&settings, &topic, &events)).await
    }

    async fn count(&self, place: &str) -> u64 {
        u64::try_from(self.node.count(&[place]).await).expect("a count")
    }

    async fn remove(&self, place: &str) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.node.bootstrap());
        let admin: AdminClient<DefaultClientContext> = config.create().expect("an admin client");
        admin.delete_topics(&[place], &AdminOptions::new()).await.expect("delete a topic");
    }
}

impl Broker for Kafka {
    fn peer_output(&self, place: &str) -> String {
        let bootstrap = self.node.bootstrap();
        format!("{{ kafka: {{ url: \"{bootstrap}\", topic: {place}, create_topic: false }} }}")
    }

    type Publisher = One;

    async fn publisher(&self, place: &str) -> One {
        let settings = self.settings();
        let producer = settings.create_with_context(Confirmed::default()).expect("a producer");
        One { producer, topic: place.to_owned() }
    }

    async fn arrivals(&self, place: &str) -> UnboundedReceiver<Instant> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.node.bootstrap()).set("group.id", "bench");
        let consumer: StreamConsumer = config.create().expect("a consumer");
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(place, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&assignment).expect("assigned");
        let (arrived, arrivals) = unbounded_channel();
        tokio::spawn(async move {
            while consumer.recv().await.is_ok() && arrived.send(Instant::now()).is_ok() {}
        });
        arrivals
    }
}

/// Waits until each partition's leader answers. Before that librdkafka can report records as delivered
/// that the broker has refused; the relay's sink tells, the reference does not.
fn await_leaders(settings: &ClientConfig, topic: &str) {
    let consumer: BaseConsumer = settings.create().expect("a consumer");
    let end = Instant::now() + BOUND;
    for partition in 0..PARTITIONS {
        while consumer.fetch_watermarks(topic, partition, Duration::from_secs(1)).is_err() {
            assert!(Instant::now() < end, "no leader for partition {partition} of {topic}");
        }
    }
}

/// Counts what is confirmed.
#[derive(Clone, Default)]
struct Confirmed(Arc<AtomicU64>);

impl ClientContext for Confirmed {}

impl ProducerContext for Confirmed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok(), "Kafka took not all");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// librdkafka's own producer loop: the records in, as fast as its queue takes them.
fn produce(settings: &ClientConfig, topic: &str, events: &[Event]) -> f64 {
    let confirmed = Confirmed::default();
    let producer: ThreadedProducer<Confirmed> =
        settings.create_with_context(confirmed.clone()).expect("a producer");
    let began = Instant::now();
    for event in events {
        send(&producer, topic, event);
    }
    producer.flush(BOUND).expect("all confirmed");
    while confirmed.0.load(Ordering::Relaxed) < events.len() as u64 {
        std::thread::sleep(Duration::from_millis(1));
    }
    rate(events.len() as u64, began.elapsed())
}

fn send(producer: &ThreadedProducer<Confirmed>, topic: &str, event: &Event) {
    loop {
        let headers =
            OwnedHeaders::new_with_capacity(1).insert(Header { key: "id", value: Some(event.id()) });
        let record = BaseRecord::to(topic)
            .key(event.repository())
            .payload(&event.raw()[..])
            .timestamp(1_790_000_000_000)
            .headers(headers);
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => panic!("Kafka: {error}"),
        }
    }
}

pub struct One {
    producer: ThreadedProducer<Confirmed>,
    topic: String,
}

impl Publisher for One {
    async fn publish(&mut self, event: Event) {
        send(&self.producer, &self.topic, &event);
    }
}
