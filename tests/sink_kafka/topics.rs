//! Topics that are missing, cannot be, or are to be made.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use relay::sinks::{FaultKind, Sink};

use crate::cluster::{BOUND, Cluster, sink};
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::unique;

pub async fn rejects_unknown_topic(cluster: &Cluster) {
    contract::rejects_unknown_topic(cluster, &unique("nowhere"), "no_such_topic").await;
}

pub async fn rejects_an_impossible_topic(cluster: &Cluster) {
    contract::rejects_unknown_topic(cluster, "no/slash", "invalid_topic").await;
}

pub async fn creates_topics(cluster: &Cluster) {
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
pub async fn sees_a_topic_that_is_created_later(cluster: &Cluster) {
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

/// Deleted under a sink that has written to it. librdkafka still knows its partitions, and says that they
/// are gone; it takes a new producer to learn that the topic is.
pub async fn rejects_what_is_for_a_topic_that_was_deleted(cluster: &Cluster) {
    let topic = cluster.topic().await;
    let mut driver = Driver::new(cluster.sink(&topic, Variant::Good), contract::messages(&topic, 20));
    driver.connect().await.expect("a healthy cluster");
    driver.send(10).await.expect("a topic that exists");
    while driver.in_flight() > 0 {
        driver.settle().await.expect("a topic that exists");
    }
    cluster.kafka.delete_topic(&topic).await;
    driver.finish().await;
    let codes: Vec<_> = driver.outcome.rejected.iter().map(|(_, why)| why.code).collect();
    assert_eq!(codes, ["no_such_topic"; 10]);
    let [fault] = driver.outcome.faults.as_slice() else { panic!("{:?}", driver.outcome.faults) };
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("Unknown partition"), "{fault}");
}

/// More replicas than there are brokers.
pub async fn refuses_more_replicas_than_brokers(cluster: &Cluster) {
    let more = "create: {replication: 3}";
    let mut driver =
        Driver::new(cluster.with(more).sink("", Variant::Good), contract::messages(&unique("wide"), 1));
    let fault = driver.step().await.expect_err("one broker");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("replication factor"), "{fault}");
}

/// `POLICY_VIOLATION`, which the broker's own policy gives as one of an operator's does: Kafka creates
/// no topic of more than 10,000 partitions. The others go on.
pub async fn rejects_what_is_for_a_topic_against_the_policy(cluster: &Cluster) {
    let topic = cluster.topic().await;
    let mut bad = contract::message(&topic, 1_000_000);
    bad.topic = unique("forbidden");
    let cluster = cluster.with("create: {partitions: 20000}");
    contract::rejects_only(&cluster, &topic, bad, "no_such_topic").await;
}

async fn rejection_of_one(sink: &mut dyn Sink, topic: &str) -> Option<&'static str> {
    sink.send(&contract::messages(topic, 1)).await.expect("sent");
    let settled = sink.settle().await.expect("settled");
    assert_eq!(settled.count, 1);
    settled.rejected.first().map(|(_, rejection)| rejection.code)
}
