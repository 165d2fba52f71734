//! Bytes that were damaged: on their way, and on the broker's disk.

use std::fs::File;

use relay::sinks::{FaultKind, Message};

use crate::cluster::{BOUND, Cluster, now};
use crate::said;
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::proxy::{Direction, Mode};

/// The broker finds that a batch does not match its checksum.
pub async fn sends_a_damaged_batch_again(cluster: &Cluster) {
    let topic = cluster.topic().await;
    let mut large = contract::message(&topic, 0);
    large.body = vec![b'x'; 90_000].into();
    let by_proxy = cluster.by(cluster.kafka.bootstrap_proxied(), "properties: {debug: msg}");
    let proxy = cluster.kafka.proxy();
    let mut driver = Driver::new(by_proxy.sink(&topic, Variant::Good), vec![large.clone()]);
    driver = driver.call_timeout(BOUND * 2);
    driver.connect().await.expect("a healthy cluster");
    // In the middle of the record, whatever small requests go before it.
    proxy.set(Direction::ToServer, Mode::Corrupt(50_000));
    let mended = async {
        said::eventually_heard(&topic, "Invalid message").await;
        proxy.pass();
    };
    tokio::join!(driver.finish(), mended);
    cluster.delivered(&mut driver, &[large]).await;
}

/// A crash costs the broker what it had confirmed and not yet on its disk, and the next record's sequence
/// number is not the one that it waits for (`OUT_OF_ORDER_SEQUENCE_NUMBER`, fatal to the producer).
pub async fn begins_anew_when_the_broker_has_lost_records(cluster: &Cluster) {
    let topic = crate::support::unique("lossy");
    cluster.kafka.create_topic(&topic, 1).await;
    let mut sent = contract::messages(&topic, 30);
    for message in &mut sent {
        // A broker forgets a producer that has written nothing for a day, by its records' own time.
        message.arrived = now();
    }
    let mut driver = Driver::new(cluster.sink(&topic, Variant::Good), sent.clone());
    driver.connect().await.expect("a healthy cluster");
    for _ in 0..2 {
        driver.send(10).await.expect("a healthy cluster");
        while driver.in_flight() > 0 {
            driver.settle().await.expect("a healthy cluster");
        }
    }
    cluster.kafka.kill();
    let path = cluster.kafka.partition_folder(&topic, 0).join("00000000000000000000.log");
    let log = File::options().write(true).open(path).expect("the partition's log");
    // Recovery drops a batch that is not whole.
    log.set_len(log.metadata().expect("its size").len() - 1).expect("shorter");
    cluster.kafka.start_again().await;
    let fault = driver.step().await.expect_err("a gap in the sequence");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("sequence"), "{fault}");
    driver.faulted(fault).await;
    driver.finish().await;
    let there: Vec<_> = cluster.consume(&topic, 20, BOUND).await.into_iter().map(|one| one.id).collect();
    let kept = |message: &Message| there.contains(&message.id);
    assert!(sent[..10].iter().all(kept) && sent[20..].iter().all(kept), "{there:?}");
}
