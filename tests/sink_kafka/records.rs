//! What a record can be refused for.

use crate::cluster::{BOUND, Cluster, now};
use crate::said;
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::unique;

/// The topic takes records of an hour around now only.
pub async fn rejects_a_record_of_another_time(cluster: &Cluster) {
    let topic = unique("young");
    let hour =
        [("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.after.max.ms", "3600000")];
    cluster.kafka.create_topic_with(&topic, 1, &hour).await;
    let mut all = contract::messages(&topic, 60);
    for message in &mut all {
        message.arrived = now();
    }
    all[30].arrived -= 2 * 3_600_000_000;
    all[40].arrived += 2 * 3_600_000_000;
    let mut driver = Driver::new(cluster.sink(&topic, Variant::Good), all.clone());
    driver.finish().await;
    let rejected: Vec<_> =
        driver.outcome.rejected.iter().map(|(message, why)| (message.offset, why.code)).collect();
    assert_eq!(rejected, [31, 41].map(|offset| (offset, "invalid_timestamp")));
    assert_eq!(driver.outcome.faults, [], "neighbours that were sent again");
    assert_eq!(cluster.consume(&topic, 58, BOUND).await.len(), 58, "copies of good ones");
}

/// A batch of one that is larger than a file of the topic's log may be.
pub async fn rejects_a_record_that_fits_no_segment(cluster: &Cluster) {
    let topic = unique("segments");
    let sizes = [("max.message.bytes", "4194304"), ("segment.bytes", "1048576")];
    cluster.kafka.create_topic_with(&topic, 1, &sizes).await;
    let mut bad = contract::message(&topic, 1_000_000);
    bad.body = vec![b'x'; 2_000_000].into();
    contract::rejects_only(&cluster.with("properties: {debug: msg}"), &topic, bad, "too_large").await;
    assert!(said::heard(&topic, "larger than configured server segment size"));
}

/// A compacted topic refuses records without a key (`INVALID_RECORD`): an event of no repository has an
/// empty one, which is a key.
pub async fn a_compacted_topic_takes_events_of_no_repository(cluster: &Cluster) {
    let topic = unique("compacted");
    cluster.kafka.create_topic_with(&topic, 1, &[("cleanup.policy", "compact")]).await;
    let mut sent = contract::messages(&topic, 10);
    sent[5].key = String::new();
    cluster.delivers(&sent).await;
    let records = cluster.kafka.consume_all(&[&topic], 10, BOUND).await;
    assert_eq!(records[5].key.as_deref(), Some(&b""[..]));
}

/// Each record fits, many in a batch do not: nobody is to blame.
pub async fn splits_batches_that_a_topic_does_not_take(cluster: &Cluster) {
    let topic = unique("narrow");
    cluster.kafka.create_topic_with(&topic, 1, &[("max.message.bytes", "20000")]).await;
    let sent = contract::messages(&topic, 10_000);
    cluster.delivers(&sent).await;
}

pub async fn finds_the_record_that_a_topic_does_not_take(cluster: &Cluster) {
    let topic = unique("narrow");
    cluster.kafka.create_topic_with(&topic, 1, &[("max.message.bytes", "300000")]).await;
    let mut bad = contract::message(&topic, 1_000_000);
    bad.body = vec![b'x'; 400_000].into();
    contract::rejects_only(cluster, &topic, bad, "too_large").await;
}

/// librdkafka counts a record without its headers, and ends the process when a batch of one is over
/// its limit with them.
pub async fn rejects_what_is_over_its_own_limit_with_the_headers(cluster: &Cluster) {
    let topic = cluster.topic().await;
    let brokers = cluster.kafka.bootstrap().to_owned();
    let cluster = cluster.by(&brokers, "message_max: 100KiB");
    let mut bad = contract::message(&topic, 1_000_000);
    bad.body = vec![b'x'; 102_000].into();
    bad.headers.push(("x-large".into(), "y".repeat(10_000)));
    contract::rejects_only(&cluster, &topic, bad, "too_large").await;
}

pub async fn waits_while_its_buffer_is_full(cluster: &Cluster) {
    let brokers = cluster.kafka.bootstrap().to_owned();
    let cluster = cluster.by(&brokers, "window: 5000, buffer_max: 64KiB, message_max: 64KiB");
    cluster.delivers(&cluster.messages(2_000).await).await;
}
