//! The Kafka sink against a real Apache Kafka: the contract, and each row of `docs/failures/kafka.md`
//! that a broker can be made to give.

mod support;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use relay::sinks::kafka::KafkaOptions;
use relay::sinks::{Context, FaultKind, Options as _, Sink};
use support::contract::{self, Destination, Driver, End, Received, Variant, WRONG_SECRET};
use support::kafka::{Kafka, Options};
use support::suite::{Shared, Suite};
use support::unique;

/// A record of this size is over the broker's limit (`message.max.bytes`) and under the sink's own.
const TOO_LARGE: usize = 1_200_000;
const TIMEOUT: Duration = Duration::from_secs(3);
const BOUND: Duration = Duration::from_secs(30);

fn sink(yaml: &str, literal_topics: &[&str]) -> Box<dyn Sink> {
    let options: KafkaOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options.build(Context {
        name: "bus".into(),
        timeout: TIMEOUT,
        literal_topics: literal_topics.iter().map(|&topic| topic.to_owned()).collect(),
    })
}

struct Cluster(Arc<Kafka>);

impl Cluster {
    fn sink_with(&self, more: &str) -> Box<dyn Sink> {
        sink(&format!("{{brokers: '{}'{more}}}", self.0.bootstrap()), &[])
    }
}

impl Destination for Cluster {
    async fn topic(&self) -> String {
        let topic = unique("contract");
        self.0.create_topic(&topic, 3).await;
        topic
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        match variant {
            Variant::Good => self.sink_with(", window: 500"),
            Variant::WrongCredentials => {
                let brokers = self.0.bootstrap_sasl();
                sink(
                    &format!("{{brokers: '{brokers}', sasl: {{username: ada, password: {WRONG_SECRET}}}}}"),
                    &[],
                )
            }
            Variant::Missing => unreachable!("a topic is a message's matter"),
        }
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let there = usize::try_from(self.0.count(&[topic]).await).expect("a count");
        let records = self.0.consume_all(&[topic], count.max(there), bound).await;
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
        self.0.stop().await;
    }
    async fn kill(&self) {
        self.0.kill();
    }
    async fn start_again(&self) {
        self.0.start_again().await;
    }
    fn freeze(&self) {
        self.0.freeze();
    }
    fn thaw(&self) {
        self.0.thaw();
    }
    fn too_large_bytes(&self) -> usize {
        TOO_LARGE
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let kafka = Shared::new(|| {
        let users = vec![("ada".to_owned(), "s3cret".to_owned()), ("bob".to_owned(), "b0b".to_owned())];
        Kafka::start(Options { own: true, sasl: users, tls: true, acl: true, ..Options::default() })
    });
    macro_rules! tests {
        ($($name:ident: $body:path;)*) => {$(
            let shared = kafka.clone();
            suite.test(stringify!($name), async move || $body(&Cluster(shared.get().await)).await);
        )*};
    }
    tests! {
        keeps_order: contract::keeps_order;
        confirms_what_is_there: contract::confirms_what_is_there;
        settle_is_cancel_safe: contract::settle_is_cancel_safe;
        closes_in_mid_batch: contract::closes_in_mid_batch;
        rejects_too_large: contract::rejects_too_large;
        rejects_unknown_topic: rejects_unknown_topic;
        refuses_wrong_credentials: contract::refuses_wrong_credentials;
        survives_freeze: contract::survives_freeze;
        survives_stop: survives_stop;
        survives_kill: survives_kill;
    }
    suite.run()
}

async fn rejects_unknown_topic(cluster: &Cluster) {
    contract::rejects_unknown_topic(cluster, &unique("nowhere"), "no_such_topic").await;
}

async fn survives_stop(cluster: &Cluster) {
    contract::survives_restart(cluster, End::Stopped).await;
}

async fn survives_kill(cluster: &Cluster) {
    contract::survives_restart(cluster, End::Killed).await;
}
