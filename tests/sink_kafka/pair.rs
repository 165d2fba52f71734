//! What takes two brokers to see: errors that pass, and a timeout that ends before they do.

use std::fs;
use std::sync::Arc;

use rdkafka::types::RDKafkaErrorCode;
use relay::sinks::{FaultKind, Message};

use crate::cluster::{BOUND, Cluster, QUICK_TO_MISS};
use crate::said;
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::kafka::second::Second;
use crate::support::kafka::{Kafka, Options};
use crate::support::process::eventually;
use crate::support::unique;

/// A cluster of two, of which the second can go away. Its user `carl` may do nothing yet.
pub struct Pair {
    cluster: Cluster,
    second: Second,
}

impl Pair {
    pub async fn start() -> Self {
        let properties = [
            ("log.retention.ms", "-1"),
            ("allow.everyone.if.no.acl.found", "false"),
            QUICK_TO_MISS,
            // A leader goes back to the broker that its partition prefers, soon after that is there again.
            ("leader.imbalance.check.interval.seconds", "1"),
        ];
        let kafka = Kafka::start(Options {
            own: true,
            sasl: vec![("carl".to_owned(), "c4rl".to_owned())],
            acl: true,
            properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Options::default()
        });
        let kafka = Arc::new(kafka.await);
        let second = Second::join(&kafka, "broker.heartbeat.interval.ms=500\n").await;
        Self { cluster: Cluster::new(kafka), second }
    }

    fn kafka(&self) -> &Kafka {
        &self.cluster.kafka
    }

    async fn second_again(&self) {
        self.second.start_again(self.kafka()).await;
    }

    async fn topic_on(&self, brokers: &[i32], configuration: &[(&str, &str)]) -> String {
        let topic = unique("pair");
        self.kafka().create_topic_on(&topic, brokers, configuration).await;
        topic
    }

    /// A driver that is connected, and waits for as long as a test may take.
    async fn patient(&self, messages: &[Message], more: &str) -> Driver {
        let cluster = self.cluster.with(&format!("properties: {{debug: msg{more}}}"));
        let mut driver =
            Driver::new(cluster.sink("", Variant::Good), messages.to_vec()).call_timeout(BOUND * 2);
        driver.connect().await.expect("a healthy cluster");
        driver
    }
}

pub async fn waits_while_a_replica_is_missing(pair: &Pair) {
    let topic = pair.topic_on(&[1, 2], &[("min.insync.replicas", "2")]).await;
    let sent = contract::messages(&topic, 20);
    let mut driver = pair.patient(&sent, "").await;
    pair.second.stop().await;
    let comes_back = async {
        said::eventually_heard(&topic, "Not enough in-sync replicas").await;
        pair.second_again().await;
    };
    tokio::join!(driver.finish(), comes_back);
    pair.cluster.delivered(&mut driver, &sent).await;
}

/// The worker's time limit on a call ends first.
pub async fn begins_anew_when_a_replica_is_missing_for_long(pair: &Pair) {
    let topic = pair.topic_on(&[1, 2], &[("min.insync.replicas", "2")]).await;
    let sent = contract::messages(&topic, 20);
    let limit = std::time::Duration::from_secs(1);
    let mut driver = pair.patient(&sent, "").await.call_timeout(limit);
    pair.second.stop().await;
    let mut faults = driver.faults();
    let comes_back = async {
        faults.wait_for(|&count| count >= 2).await.expect("the driver lives");
        pair.second_again().await;
    };
    tokio::join!(driver.finish(), comes_back);
    assert!(driver.outcome.faults.iter().all(|fault| fault.kind == FaultKind::Disconnected));
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
    contract::check(&sent, &contract::arrived(&pair.cluster, &topic, &sent).await);
    driver.sink.close().await;
}

/// A replica that is frozen: the leader has the records, and does not confirm them.
pub async fn asks_again_when_the_broker_waits_too_long_for_a_replica(pair: &Pair) {
    let topic = pair.topic_on(&[1, 2], &[]).await;
    let sent = contract::messages(&topic, 20);
    let mut driver = pair.patient(&sent, ", request.timeout.ms: '500'").await;
    pair.second.freeze();
    let thaws = async {
        said::eventually_heard(&topic, "Request timed out").await;
        pair.second.thaw();
    };
    tokio::join!(driver.finish(), thaws);
    pair.cluster.delivered(&mut driver, &sent).await;
}

pub async fn waits_for_a_leader(pair: &Pair) {
    let topic = pair.topic_on(&[2], &[]).await;
    let sent = contract::messages(&topic, 20);
    pair.second.stop().await;
    assert_eq!(pair.kafka().leader_of(&topic).await, Err(RDKafkaErrorCode::LeaderNotAvailable));
    let mut driver = pair.patient(&sent, "").await;
    driver.fill().await.expect("room in its buffer");
    tokio::join!(driver.finish(), pair.second_again());
    pair.cluster.delivered(&mut driver, &sent).await;
}

/// The leader has moved, and the sink does not know yet.
pub async fn follows_a_leader_that_has_moved(pair: &Pair) {
    let topic = pair.topic_on(&[2, 1], &[]).await;
    let sent = contract::messages(&topic, 20);
    let leads = async |broker| {
        let what = format!("broker {broker} leads {topic}");
        let now = async || (pair.kafka().leader_of(&topic).await == Ok(broker)).then_some(());
        eventually(&what, BOUND, now).await;
    };
    pair.second.stop().await;
    leads(1).await;
    let mut driver = pair.patient(&sent, "").await;
    driver.send(10).await.expect("a leader");
    while driver.in_flight() > 0 {
        driver.settle().await.expect("a leader");
    }
    pair.second_again().await;
    leads(2).await;
    driver.finish().await;
    assert!(said::heard(&topic, "Not leader for partition"));
    pair.cluster.delivered(&mut driver, &sent).await;
}

/// A disk of the leader fails: the folder that the log's next file belongs into is gone. It comes back
/// with the broker.
pub async fn waits_for_a_disk(pair: &Pair) {
    let topic = pair.topic_on(&[2], &[("segment.bytes", "1048576")]).await;
    let mut sent = contract::messages(&topic, 20);
    for message in &mut sent {
        message.body = vec![b'x'; 100_000].into();
    }
    let folder = pair.second.partition_folder(&topic);
    let elsewhere = folder.with_extension("elsewhere");
    let mut driver = pair.patient(&sent, "").await;
    fs::rename(&folder, &elsewhere).expect("a partition's folder");
    let mended = async {
        said::eventually_heard(&topic, "Disk error").await;
        fs::rename(&elsewhere, &folder).expect("its folder again");
        pair.second_again().await;
    };
    tokio::join!(driver.finish(), mended);
    pair.cluster.delivered(&mut driver, &sent).await;
}

/// Who may write to no topic gets no producer id either (`CLUSTER_AUTHORIZATION_FAILED`).
pub async fn refuses_a_user_who_may_write_nothing(pair: &Pair) {
    let sent = pair.cluster.messages(5).await;
    pair.kafka().allow("carl", "Describe", &sent[0].topic).await;
    let brokers = pair.kafka().bootstrap_sasl();
    let cluster = pair.cluster.by(brokers, "sasl: {username: carl, password: c4rl}");
    let mut driver = Driver::new(cluster.sink("", Variant::Good), sent);
    let fault = driver.step().await.expect_err("no right to write");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("Cluster authorization failed"), "{fault}");
}
