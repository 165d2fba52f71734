//! The broker is there, and takes nothing now.

use std::collections::HashSet;

use lapin::types::{AMQPValue, FieldTable};
use relay::sinks::{Fault, FaultKind};

use crate::broker::{BOUND, Broker, EXCHANGE};
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::process::eventually;
use crate::support::unique;

/// The first fault of a driver that does what a worker does.
async fn first_fault(driver: &mut Driver) -> Fault {
    loop {
        if let Err(fault) = driver.step().await {
            break fault;
        }
        assert!(!driver.unsettled().is_empty(), "the broker takes everything");
    }
}

fn assert_busy(fault: &Fault) {
    assert!(matches!(fault.kind, FaultKind::Busy { .. }), "{fault:?}");
}

/// A queue at its limit that refuses to take more (`overflow: reject-publish`).
pub async fn is_busy_while_a_queue_is_full(broker: &Broker) {
    let topic = unique("registry.full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    broker.rabbit.declare_exchange(EXCHANGE, lapin::ExchangeKind::Topic).await;
    let queue = broker.rabbit.declare_queue_with(EXCHANGE, &[&topic], arguments).await;
    let sent = contract::messages(&topic, 30);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), sent.clone());
    let fault = first_fault(&mut driver).await;
    assert_busy(&fault);
    assert!(fault.text.contains("nack"), "{fault}");
    driver.faulted(fault).await;

    let mut ids = HashSet::new();
    let drain = async {
        while ids.len() < sent.len() {
            let waiting = broker.rabbit.depth(&queue).await as usize;
            let taken = broker.rabbit.consume(&queue, waiting.max(1), BOUND).await;
            ids.extend(taken.iter().map(|delivery| delivery.message_id().expect("an id").to_owned()));
        }
    };
    tokio::join!(driver.finish(), drain);
    assert!(driver.outcome.rejected.is_empty());
    driver.outcome.faults.iter().for_each(assert_busy);
}

/// The queue's process ends with messages that it has not stored: the channel says so for it.
pub async fn is_busy_when_a_queue_fails(broker: &Broker) {
    let topic = broker.topic().await;
    let queue = broker.queue(&topic);
    let process = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), P = amqqueue:get_pid(Q), "
    );
    let eval = async |what: &str| broker.rabbit.ctl(&["eval", &format!("{process}{what}.")]).await;
    let sent = contract::messages(&topic, 30);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), sent.clone()).call_timeout(BOUND);
    driver.connect().await.expect("a healthy broker");
    eval("sys:suspend(P)").await;
    driver.fill().await.expect("a healthy broker");
    eventually("a message waits for the queue", BOUND, async || {
        let waiting = eval("element(2, process_info(P, message_queue_len))").await;
        (waiting.trim() != "0").then_some(())
    })
    .await;
    eval("exit(P, kill)").await;
    let fault = driver.settle().await.expect_err("a queue that has failed");
    assert_busy(&fault);
    assert!(fault.text.contains("nack"), "{fault}");
    driver.faulted(fault).await;
    driver.finish().await;
    broker.all_arrive(&topic, &sent).await;
}

pub async fn is_busy_during_a_memory_alarm(broker: &Broker) {
    is_busy_between(
        broker,
        &["set_vm_memory_high_watermark", "0.00001"],
        &["set_vm_memory_high_watermark", "0.6"],
    )
    .await;
}

pub async fn is_busy_during_a_disk_alarm(broker: &Broker) {
    is_busy_between(broker, &["set_disk_free_limit", "1000000GB"], &["set_disk_free_limit", "50MB"]).await;
}

/// An alarm goes off, and is called off: in between the broker does not read.
async fn is_busy_between(broker: &Broker, begin: &[&str], end: &[&str]) {
    let topic = broker.topic().await;
    let sent = contract::messages(&topic, 200);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), sent.clone());
    driver.connect().await.expect("a healthy broker");
    broker.rabbit.ctl(begin).await;
    for _ in 0..2 {
        let fault = first_fault(&mut driver).await;
        assert_busy(&fault);
        driver.faulted(fault).await;
    }
    let ends = async { broker.rabbit.ctl(end).await };
    tokio::join!(driver.finish(), ends);
    broker.all_arrive(&topic, &sent).await;
}
