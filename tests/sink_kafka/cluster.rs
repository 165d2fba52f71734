//! A cluster as the contract's destination.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay::sinks::kafka::KafkaOptions;
use relay::sinks::{Context, Fault, Message, Options as _, Sink};

use crate::support::contract::{self, Destination, Driver, Received, Variant, WRONG_SECRET};
use crate::support::kafka::Kafka;
use crate::support::unique;

/// A record of this size is over the broker's limit (`message.max.bytes`) and under the sink's own.
const TOO_LARGE: usize = 1_200_000;
pub const TIMEOUT: Duration = Duration::from_secs(3);
pub const BOUND: Duration = Duration::from_secs(30);

pub fn sink(yaml: &str, literal_topics: &[&str]) -> Box<dyn Sink> {
    let options: KafkaOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options.build(Context {
        name: "bus".into(),
        timeout: TIMEOUT,
        literal_topics: literal_topics.iter().map(|&topic| topic.to_owned()).collect(),
    })
}

/// A broker that was killed may come back once it is missed, which takes 9 seconds by default.
pub const QUICK_TO_MISS: (&str, &str) = ("broker.session.timeout.ms", "4000");

/// The time of an event that has just arrived: microseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_micros() as i64
}

pub struct Cluster {
    pub kafka: Arc<Kafka>,
    /// The options of the sink that ought to work.
    good: String,
}

impl Cluster {
    pub fn new(kafka: Arc<Kafka>) -> Self {
        let good = format!("{{brokers: '{}', window: 500}}", kafka.bootstrap());
        Self { kafka, good }
    }

    /// The same cluster by another way.
    pub fn by(&self, brokers: &str, more: &str) -> Self {
        Self { kafka: Arc::clone(&self.kafka), good: format!("{{brokers: '{brokers}', {more}}}") }
    }

    /// The same cluster with further options of the sink.
    pub fn with(&self, more: &str) -> Self {
        self.by(self.kafka.bootstrap(), more)
    }

    pub async fn messages(&self, count: usize) -> Vec<Message> {
        contract::messages(&self.topic().await, count)
    }

    /// All of `messages` (to one topic) arrive, once.
    pub async fn delivers(&self, messages: &[Message]) {
        let topic = messages[0].topic.as_str();
        let mut driver = Driver::new(self.sink(topic, Variant::Good), messages.to_vec());
        driver.finish().await;
        self.delivered(&mut driver, messages).await;
    }

    /// What a driver has finished went through at the first attempt.
    pub async fn delivered(&self, driver: &mut Driver, messages: &[Message]) {
        assert_eq!(driver.outcome.faults, []);
        assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
        let topic = messages[0].topic.as_str();
        assert_eq!(self.consume(topic, messages.len(), BOUND).await.len(), messages.len());
        driver.sink.close().await;
    }

    /// That the sink cannot even connect, and why.
    pub async fn fault_at_connecting(&self) -> Fault {
        self.sink("", Variant::Good).connect().await.expect_err("nobody lets it in")
    }
}

impl Destination for Cluster {
    async fn topic(&self) -> String {
        let topic = unique("contract");
        self.kafka.create_topic(&topic, 3).await;
        topic
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        match variant {
            Variant::Good => sink(&self.good, &[]),
            Variant::WrongCredentials => {
                let brokers = self.kafka.bootstrap_sasl();
                sink(
                    &format!("{{brokers: '{brokers}', sasl: {{username: ada, password: {WRONG_SECRET}}}}}"),
                    &[],
                )
            }
            Variant::Missing => unreachable!("a topic is a message's matter"),
        }
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let there = usize::try_from(self.kafka.count(&[topic]).await).expect("a count");
        let records = self.kafka.consume_all(&[topic], count.max(there), bound).await;
        records
            .into_iter()
            .map(|record| Received {
                key: Some(record.key_text().to_owned()),
                id: record.header("id").expect("an id").to_owned(),
                headers: record
                    .headers
                    .iter()
                    .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
                    .collect(),
                topic: record.topic,
                body: record.value,
            })
            .collect()
    }

    async fn stop(&self) {
        self.kafka.stop().await;
    }
    async fn kill(&self) {
        self.kafka.kill();
    }
    async fn start_again(&self) {
        self.kafka.start_again().await;
    }
    fn freeze(&self) {
        self.kafka.freeze();
    }
    fn thaw(&self) {
        self.kafka.thaw();
    }
    fn too_large_bytes(&self) -> usize {
        TOO_LARGE
    }
}
