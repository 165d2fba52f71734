//! The Kafka sink against a real Apache Kafka: the contract, and each row of `docs/failures/kafka.md`
//! that a broker can be made to give.

mod support;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use relay::sinks::kafka::KafkaOptions;
use relay::sinks::{Context, FaultKind, Message, Options as _, Sink};
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

struct Cluster {
    kafka: Arc<Kafka>,
    /// The options of the sink that ought to work.
    good: String,
}

impl Cluster {
    fn new(kafka: Arc<Kafka>) -> Self {
        let good = format!("{{brokers: '{}', window: 500}}", kafka.bootstrap());
        Self { kafka, good }
    }

    /// The same cluster by another way.
    fn by(&self, brokers: &str, more: &str) -> Self {
        Self { kafka: Arc::clone(&self.kafka), good: format!("{{brokers: '{brokers}', {more}}}") }
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

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let kafka = Shared::new(|| {
        let users = vec![("ada".to_owned(), "s3cret".to_owned()), ("bob".to_owned(), "b0b".to_owned())];
        // The contract's messages arrived in 2025: a broker would delete them as too old.
        let properties = vec![("log.retention.ms".to_owned(), "-1".to_owned())];
        Kafka::start(Options {
            own: true,
            sasl: users,
            tls: true,
            acl: true,
            properties,
            ..Options::default()
        })
    });
    macro_rules! tests {
        ($($name:ident: $body:path;)*) => {$(
            let shared = kafka.clone();
            suite.test(stringify!($name), async move || $body(&Cluster::new(shared.get().await)).await);
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
        logs_in_by_every_mechanism: logs_in_by_every_mechanism;
        speaks_tls: speaks_tls;
        refuses_an_untrusted_certificate: refuses_an_untrusted_certificate;
        tells_at_once_that_nobody_listens: tells_at_once_that_nobody_listens;
        rejects_a_forbidden_topic: rejects_a_forbidden_topic;
        rejects_an_impossible_topic: rejects_an_impossible_topic;
        rejects_a_record_that_is_too_old: rejects_a_record_that_is_too_old;
        splits_batches_that_a_topic_does_not_take: splits_batches_that_a_topic_does_not_take;
        finds_the_record_that_a_topic_does_not_take: finds_the_record_that_a_topic_does_not_take;
        rejects_what_is_over_its_own_limit_with_the_headers: rejects_what_is_over_its_own_limit_with_the_headers;
        waits_while_its_buffer_is_full: waits_while_its_buffer_is_full;
        creates_topics: creates_topics;
        sees_a_topic_that_is_created_later: sees_a_topic_that_is_created_later;
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

async fn logs_in_by_every_mechanism(cluster: &Cluster) {
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let login = format!("sasl: {{mechanism: {mechanism}, username: ada, password: s3cret}}");
        let brokers = cluster.kafka.bootstrap_sasl().to_owned();
        delivers(&cluster.by(&brokers, &login), &messages_for(cluster, 10).await).await;
    }
}

async fn speaks_tls(cluster: &Cluster) {
    let tls = cluster.kafka.tls();
    let (ca, cert, key) = (tls.ca.display(), tls.client_cert.display(), tls.client_key.display());
    let login = "sasl: {username: ada, password: s3cret}";
    for (brokers, more) in [
        (cluster.kafka.bootstrap_ssl(), format!("tls: {{ca: {ca}}}")),
        (cluster.kafka.bootstrap_ssl(), format!("tls: {{ca: {ca}, cert: {cert}, key: {key}}}")),
        (cluster.kafka.bootstrap_ssl(), "tls: {verify: false}".to_owned()),
        (cluster.kafka.bootstrap_sasl_ssl(), format!("tls: {{ca: {ca}}}, {login}")),
    ] {
        delivers(&cluster.by(brokers, &more), &messages_for(cluster, 10).await).await;
    }
}

async fn refuses_an_untrusted_certificate(cluster: &Cluster) {
    let cluster = cluster.by(cluster.kafka.bootstrap_ssl(), "tls: {}");
    let fault = cluster.sink("", Variant::Good).connect().await.expect_err("not our authority");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("certificate"), "{fault}");
}

async fn tells_at_once_that_nobody_listens(cluster: &Cluster) {
    let [port] = support::process::free_ports();
    let cluster = cluster.by(&format!("127.0.0.1:{port}"), "");
    let begin = Instant::now();
    let fault = cluster.sink("", Variant::Good).connect().await.expect_err("nobody listens");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("refused"), "{fault}");
    assert!(begin.elapsed() < TIMEOUT, "{:?}", begin.elapsed());
}

async fn rejects_a_forbidden_topic(cluster: &Cluster) {
    let (allowed, forbidden) = (cluster.topic().await, cluster.topic().await);
    cluster.kafka.deny("bob", "Write", &forbidden).await;
    let brokers = cluster.kafka.bootstrap_sasl().to_owned();
    let cluster = cluster.by(&brokers, "sasl: {username: bob, password: b0b}");
    let mut bad = contract::message(&allowed, 1_000_000);
    bad.topic = forbidden;
    contract::rejects_only(&cluster, &allowed, bad, "not_authorised").await;
}

async fn rejects_an_impossible_topic(cluster: &Cluster) {
    contract::rejects_unknown_topic(cluster, "no/slash", "invalid_topic").await;
}

/// The topic takes records of the last hour only.
async fn rejects_a_record_that_is_too_old(cluster: &Cluster) {
    let topic = unique("young");
    cluster.kafka.create_topic_with(&topic, 1, &[("message.timestamp.before.max.ms", "3600000")]).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_micros() as i64;
    let mut all = contract::messages(&topic, 60);
    for message in &mut all {
        message.arrived = now;
    }
    all[30].arrived -= 2 * 3_600_000_000;
    let mut driver = Driver::new(cluster.sink(&topic, Variant::Good), all.clone());
    driver.finish().await;
    let [(message, rejection)] = driver.outcome.rejected.as_slice() else {
        panic!("{:?}", driver.outcome.rejected)
    };
    assert_eq!((message.id.as_str(), rejection.code), (all[30].id.as_str(), "invalid_timestamp"));
    assert_eq!(cluster.consume(&topic, 59, BOUND).await.len(), 59, "copies of good ones");
}

/// Each record fits, many in a batch do not: nobody is to blame.
async fn splits_batches_that_a_topic_does_not_take(cluster: &Cluster) {
    let topic = unique("narrow");
    cluster.kafka.create_topic_with(&topic, 1, &[("max.message.bytes", "20000")]).await;
    let sent = contract::messages(&topic, 10_000);
    delivers(cluster, &sent).await;
}

async fn finds_the_record_that_a_topic_does_not_take(cluster: &Cluster) {
    let topic = unique("narrow");
    cluster.kafka.create_topic_with(&topic, 1, &[("max.message.bytes", "300000")]).await;
    let mut bad = contract::message(&topic, 1_000_000);
    bad.body = vec![b'x'; 400_000].into();
    contract::rejects_only(cluster, &topic, bad, "too_large").await;
}

/// librdkafka counts a record without its headers, and ends the process when a batch of one is over
/// its limit with them.
async fn rejects_what_is_over_its_own_limit_with_the_headers(cluster: &Cluster) {
    let topic = cluster.topic().await;
    let brokers = cluster.kafka.bootstrap().to_owned();
    let cluster = cluster.by(&brokers, "message_max: 100KiB");
    let mut bad = contract::message(&topic, 1_000_000);
    bad.body = vec![b'x'; 102_000].into();
    bad.headers.push(("x-large".into(), "y".repeat(10_000)));
    contract::rejects_only(&cluster, &topic, bad, "too_large").await;
}

async fn waits_while_its_buffer_is_full(cluster: &Cluster) {
    let brokers = cluster.kafka.bootstrap().to_owned();
    let cluster = cluster.by(&brokers, "window: 5000, buffer_max: 64KiB, message_max: 64KiB");
    delivers(&cluster, &messages_for(&cluster, 2_000).await).await;
}

async fn creates_topics(cluster: &Cluster) {
    let (literal, templated) = (unique("literal"), unique("templated"));
    let yaml = format!("{{brokers: '{}', create: {{partitions: 5}}}}", cluster.kafka.bootstrap());
    let mut driver = Driver::new(sink(&yaml, &[&literal]), contract::messages(&templated, 200));
    driver.connect().await.expect("a healthy cluster");
    cluster.kafka.consume_all(&[&literal], 0, BOUND).await;
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
    let records = cluster.kafka.consume_all(&[&literal, &templated], 200, BOUND).await;
    let partitions: HashSet<i32> = records.iter().map(|record| record.partition).collect();
    assert!(partitions.len() > 1 && partitions.iter().all(|&partition| partition < 5), "{partitions:?}");
}

/// What was refused for want of a topic goes through soon after somebody has made it.
async fn sees_a_topic_that_is_created_later(cluster: &Cluster) {
    let topic = unique("late");
    let mut sink = cluster.sink(&topic, Variant::Good);
    sink.connect().await.expect("a healthy cluster");
    assert_eq!(rejection_of_one(&mut *sink, &topic).await, Some("no_such_topic"));
    cluster.kafka.create_topic(&topic, 1).await;
    let begin = Instant::now();
    while let Some(code) = rejection_of_one(&mut *sink, &topic).await {
        assert_eq!(code, "no_such_topic");
        assert!(begin.elapsed() < BOUND, "still unknown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sink.close().await;
}

async fn rejection_of_one(sink: &mut dyn Sink, topic: &str) -> Option<&'static str> {
    sink.send(&contract::messages(topic, 1)).await.expect("sent");
    let settled = sink.settle().await.expect("settled");
    assert_eq!(settled.count, 1);
    settled.rejected.first().map(|(_, rejection)| rejection.code)
}

async fn messages_for(cluster: &Cluster, count: usize) -> Vec<Message> {
    contract::messages(&cluster.topic().await, count)
}

/// All of `messages` (to one topic) arrive, once.
async fn delivers(cluster: &Cluster, messages: &[Message]) {
    let topic = messages[0].topic.as_str();
    let mut driver = Driver::new(cluster.sink(topic, Variant::Good), messages.to_vec());
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
    assert_eq!(cluster.consume(topic, messages.len(), BOUND).await.len(), messages.len());
    driver.sink.close().await;
}
