//! Exchanges, queues and virtual hosts: what is declared, and what is not as it was declared.

use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use relay::sinks::{Fault, FaultKind};

use crate::broker::{BOUND, Broker, fault_at_connecting, sink};
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::unique;

fn assert_refused(fault: &Fault, said: &str) {
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains(said), "{fault}");
}

pub async fn declares_exchange_queue_and_binding(broker: &Broker) {
    let (exchange, queue) = (unique("exchange"), unique("queue"));
    let uri = broker.rabbit.amqp_uri();
    let yaml = |kind: &str, length: u32| {
        format!(
            "{{uri: '{uri}', exchange: {{name: {exchange}, type: {kind}}}, queue: {{name: {queue}, \
             type: quorum, bindings: ['registry.#'], arguments: {{x-max-length: {length}}}}}}}"
        )
    };
    let mut driver = Driver::new(sink(&yaml("topic", 1000)), contract::messages("registry.push", 10));
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let taken = broker.rabbit.consume(&queue, 10, BOUND).await;
    let properties = &taken[0].properties;
    assert_eq!(properties.kind().as_ref().map(|kind| kind.as_str()), Some("push"));
    assert_eq!(properties.content_type().as_ref().map(|kind| kind.as_str()), Some("application/json"));
    assert_eq!(properties.app_id().as_ref().map(|id| id.as_str()), Some("relay"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.timestamp(), Some(1_764_000_000));

    for other in [yaml("fanout", 1000), yaml("topic", 2000)] {
        assert_refused(&fault_at_connecting(&other).await, "PRECONDITION_FAILED - inequivalent arg");
    }
}

/// 503 of the broker that the tests run with, 406 of a newer one.
pub async fn refuses_a_type_of_exchange_that_does_not_exist(broker: &Broker) {
    let uri = broker.rabbit.amqp_uri();
    let yaml = format!("{{uri: '{uri}', exchange: {{name: {}, type: x-unheard-of}}}}", unique("exchange"));
    assert_refused(&fault_at_connecting(&yaml).await, "unknown exchange type");
}

/// An exclusive queue is its connection's own.
pub async fn refuses_a_queue_of_another_connection(broker: &Broker) {
    let queue = unique("queue");
    let connection = broker.rabbit.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.as_str().into(), exclusive, FieldTable::default());
    declared.await.expect("declared");
    let uri = broker.rabbit.amqp_uri();
    let yaml = format!("{{uri: '{uri}', queue: {{name: {queue}, durable: false}}}}");
    assert_refused(&fault_at_connecting(&yaml).await, "RESOURCE_LOCKED");
    connection.close(200, "done".into()).await.expect("closed");
}

pub async fn refuses_a_virtual_host_that_is_not_there(broker: &Broker) {
    let yaml = format!("{{uri: 'amqp://guest:guest@{}/nowhere'}}", broker.rabbit.address());
    assert_refused(&fault_at_connecting(&yaml).await, "NOT_ALLOWED - vhost nowhere not found");
}

/// The login is right, and no right to this virtual host goes with it.
pub async fn refuses_a_virtual_host_that_is_closed_to_it(broker: &Broker) {
    broker.rabbit.ctl(&["add_user", "pat", "p4t"]).await;
    let yaml = format!("{{uri: '{}'}}", broker.rabbit.amqp_uri_as("pat", "p4t"));
    assert_refused(&fault_at_connecting(&yaml).await, "NOT_ALLOWED - access to vhost '/' refused");
}

/// RabbitMQ reads `CC` itself, and wants a list there: said of each message, and so of the configuration.
pub async fn refuses_a_header_that_the_broker_reads_itself(broker: &Broker) {
    let topic = broker.topic().await;
    let mut message = contract::message(&topic, 0);
    message.headers.push(("CC".into(), "somewhere".into()));
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), vec![message]);
    let fault = driver.step().await.expect_err("a header that is no list");
    assert_refused(&fault, "PRECONDITION_FAILED");
}

/// The exchange goes away under a connection that is good.
pub async fn refuses_an_exchange_that_went_away(broker: &Broker) {
    let exchange = unique("exchange");
    let yaml = format!("{{uri: '{}', exchange: {{name: {exchange}}}}}", broker.rabbit.amqp_uri());
    let mut driver = Driver::new(sink(&yaml), contract::messages("registry.push", 10));
    driver.connect().await.expect("declared");
    let connection = broker.rabbit.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    let deleted = channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default());
    deleted.await.expect("deleted");
    let fault = driver.step().await.expect_err("no exchange");
    assert_refused(&fault, "no exchange");
    connection.close(200, "done".into()).await.expect("closed");
}

/// Without the right to write to the exchange no message can go: the sink's failure, not theirs.
pub async fn refuses_a_forbidden_exchange(broker: &Broker) {
    let topic = broker.topic().await;
    broker.rabbit.add_user("mal", "m4l", [".*", "^$", ".*"]).await;
    let broker = broker.by(&broker.rabbit.amqp_uri_as("mal", "m4l"));
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), contract::messages(&topic, 5));
    let fault = driver.step().await.expect_err("no right to write");
    assert_refused(&fault, "access to exchange");
}
