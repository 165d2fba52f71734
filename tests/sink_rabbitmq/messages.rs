//! What a message can be refused for.

use crate::broker::{BOUND, Broker, EXCHANGE, MESSAGE_BYTES_MAX};
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::unique;

pub async fn rejects_unroutable(broker: &Broker) {
    contract::rejects_unknown_topic(broker, &unique("nowhere"), "unroutable").await;
}

/// lapin gives a returned message to whichever confirmation comes next; each has to find its own.
pub async fn tells_unroutable_messages_apart(broker: &Broker) {
    let topic = broker.topic().await;
    let nowhere = unique("nowhere");
    let mut all = contract::messages(&topic, 3_000);
    for message in all.iter_mut().skip(1).step_by(3) {
        message.topic.clone_from(&nowhere);
    }
    let mut driver = Driver::new(broker.sink_with(", window: 1000"), all.clone());
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let rejected: Vec<_> = driver.outcome.rejected.iter().map(|(message, _)| message.offset).collect();
    let expected: Vec<_> =
        all.iter().filter(|message| message.topic == nowhere).map(|message| message.offset).collect();
    assert!(rejected == expected, "not the ones that were unroutable");
    assert!(driver.outcome.rejected.iter().all(|(_, why)| why.code == "unroutable" && !why.text.is_empty()));
    assert_eq!(broker.consume(&topic, 2_000, BOUND).await.len(), 2_000);
}

pub async fn loses_unroutable_messages_only_if_told_to(broker: &Broker) {
    let mut driver = Driver::new(broker.sink_with(", mandatory: false"), contract::messages("nowhere", 10));
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty() && driver.outcome.faults.is_empty());
}

/// A topic permission is about a routing key: the broker closes the channel for that one message.
pub async fn rejects_a_forbidden_routing_key(broker: &Broker) {
    let topic = broker.topic().await;
    broker.rabbit.add_user("eve", "ev3", [".*", ".*", ".*"]).await;
    broker.rabbit.ctl(&["set_topic_permissions", "-p", "/", "eve", EXCHANGE, "^registry\\.", ".*"]).await;
    let broker = broker.by(&broker.rabbit.amqp_uri_as("eve", "ev3"));
    let mut bad = contract::message(&topic, 1_000_000);
    bad.topic = "secret.push".to_owned();
    contract::rejects_only(&broker, &topic, bad, "not_authorised").await;
}

pub async fn finds_every_offender_of_a_window(broker: &Broker) {
    let topic = broker.topic().await;
    let mut all = contract::messages(&topic, 200);
    for place in [0, 50, 51, 199] {
        all[place].body = vec![b'x'; MESSAGE_BYTES_MAX + 1].into();
    }
    let mut driver = Driver::new(broker.sink_with(", window: 200"), all.clone());
    driver.finish().await;
    let rejected: Vec<_> =
        driver.outcome.rejected.iter().map(|(message, why)| (message.offset, why.code)).collect();
    assert_eq!(rejected, [1, 51, 52, 200].map(|offset| (offset, "too_large")));
    assert_eq!(driver.outcome.faults, []);
    let settled: Vec<_> = driver.outcome.settled.iter().map(|message| message.offset).collect();
    assert_eq!(settled, (1..=200).collect::<Vec<u64>>());
}

pub async fn rejects_headers_that_fit_no_frame(broker: &Broker) {
    let topic = broker.topic().await;
    let mut bad = contract::message(&topic, 1_000_000);
    bad.headers.push(("x-large".into(), "y".repeat(200_000)));
    contract::rejects_only(broker, &topic, bad, "too_large").await;
}

/// The longest routing key that AMQP can carry goes through, and a longer one is never sent.
pub async fn rejects_a_routing_key_that_is_too_long(broker: &Broker) {
    let longest = format!("{:x<255}", unique("registry."));
    broker.bind(&longest).await;
    let mut all = contract::messages("short", 3);
    for (message, topic) in all.iter_mut().zip([longest.clone(), "x".repeat(256), longest.clone()]) {
        message.topic = topic;
    }
    let mut driver = Driver::new(broker.sink(&longest, Variant::Good), all);
    driver.finish().await;
    let rejected: Vec<_> =
        driver.outcome.rejected.iter().map(|(message, why)| (message.offset, why.code)).collect();
    assert_eq!(rejected, [(2, "invalid_topic")]);
    assert_eq!(driver.outcome.faults, []);
    assert_eq!(broker.consume(&longest, 2, BOUND).await.len(), 2);
}

/// An id longer than AMQP's 255 bytes stands whole in a header.
pub async fn keeps_a_long_id(broker: &Broker) {
    let topic = broker.topic().await;
    let mut message = contract::message(&topic, 0);
    message.id = "é".repeat(200);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), vec![message.clone()]);
    driver.finish().await;
    let received = broker.consume(&topic, 1, BOUND).await;
    assert_eq!(received[0].id, "é".repeat(127));
    assert!(received[0].headers.contains(&("id".to_owned(), message.id)));
}
