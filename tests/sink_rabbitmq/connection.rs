//! How a connection comes about, and how it ends.

use std::time::{Duration, Instant};

use relay::sinks::{Fault, FaultKind};

use crate::broker::{BOUND, Broker, EXCHANGE, TIMEOUT, fault_at_connecting, sink};
use crate::support::contract::{self, Destination, Driver, Variant};
use crate::support::process::free_ports;
use crate::support::proxy::{Direction, Mode, Proxy};

fn assert_disconnected(fault: &Fault, said: &str) {
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains(said), "{fault}");
}

pub async fn speaks_tls(broker: &Broker) {
    let tls = broker.rabbit.tls();
    let (ca, cert, key) = (tls.ca.display(), tls.client_cert.display(), tls.client_key.display());
    for more in [format!("{{ca: {ca}}}"), format!("{{ca: {ca}, cert: {cert}, key: {key}}}")] {
        let topic = broker.topic().await;
        let uri = broker.rabbit.amqps_uri();
        let broker_by_tls = format!("{{uri: '{uri}', exchange: {{name: {EXCHANGE}}}, tls: {more}}}");
        let mut driver = Driver::new(sink(&broker_by_tls), contract::messages(&topic, 10));
        driver.finish().await;
        assert_eq!(driver.outcome.faults, []);
        assert_eq!(broker.consume(&topic, 10, BOUND).await.len(), 10);
    }
}

/// Signed by nobody whom it knows; and by somebody whom it knows, for another name.
pub async fn refuses_an_untrusted_certificate(broker: &Broker) {
    let ca = broker.rabbit.tls().ca.display();
    for yaml in [
        format!("{{uri: '{}'}}", broker.rabbit.amqps_uri()),
        format!("{{uri: '{}', tls: {{ca: {ca}}}}}", broker.rabbit.amqps_uri_by_another_name()),
    ] {
        let fault = fault_at_connecting(&yaml).await;
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert!(fault.text.contains("certificate"), "{fault}");
    }
}

pub async fn tries_its_hosts_in_turn(broker: &Broker) {
    let topic = broker.topic().await;
    let [port] = free_ports();
    let hosts = format!("['127.0.0.1:{port}', '{}']", broker.rabbit.address());
    let yaml = format!("{{hosts: {hosts}, exchange: {{name: {EXCHANGE}}}}}");
    let mut driver = Driver::new(sink(&yaml), contract::messages(&topic, 10));
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let fault = fault_at_connecting(&format!("{{hosts: ['127.0.0.1:{port}']}}")).await;
    assert_disconnected(&fault, "refused");
}

/// A host that takes the connection and says nothing costs its share of the timeout, and no more.
pub async fn gives_up_a_silent_host_for_the_next(broker: &Broker) {
    let topic = broker.topic().await;
    let silent = Proxy::start(&broker.rabbit.address()).await;
    silent.set(Direction::Both, Mode::Stall);
    let hosts = format!("['{}', '{}']", silent.address(), broker.rabbit.address());
    let yaml = format!("{{hosts: {hosts}, exchange: {{name: {EXCHANGE}}}}}");
    let begin = Instant::now();
    let mut driver = Driver::new(sink(&yaml), contract::messages(&topic, 10));
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    assert!(begin.elapsed() >= TIMEOUT / 2 && silent.accepted() == 1, "{:?}", begin.elapsed());
    let fault = fault_at_connecting(&format!("{{hosts: ['{}']}}", silent.address())).await;
    assert_disconnected(&fault, "no answer within");
}

/// Both sides think that the connection is good, and nothing comes through.
pub async fn misses_the_heartbeat_of_a_broker(broker: &Broker) {
    let topic = broker.topic().await;
    let proxy = Proxy::start(&broker.rabbit.address()).await;
    let sent = contract::messages(&topic, 20);
    let by_proxy = broker.by_proxy(&proxy);
    let mut driver = Driver::new(by_proxy.sink_with(", heartbeat: 1s"), sent.clone()).call_timeout(BOUND);
    driver.connect().await.expect("a healthy broker");
    proxy.set(Direction::Both, Mode::Swallow);
    let begin = Instant::now();
    let fault = driver.step().await.expect_err("a silent broker");
    assert_disconnected(&fault, "heartbeat");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    driver.faulted(fault).await;
    proxy.pass();
    driver.finish().await;
    broker.all_arrive(&topic, &sent).await;
}

/// What ends a connection that is good, and what the broker says then.
async fn ends(broker: &Broker, end: &[&str], said: &str) {
    let topic = broker.topic().await;
    let sent = contract::messages(&topic, 20);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), sent.clone());
    driver.connect().await.expect("a healthy broker");
    broker.rabbit.ctl(end).await;
    let fault = driver.step().await.expect_err("the connection has ended");
    assert_disconnected(&fault, said);
    driver.faulted(fault).await;
    driver.finish().await;
    broker.all_arrive(&topic, &sent).await;
}

/// 320.
pub async fn survives_an_operator_who_closes_connections(broker: &Broker) {
    ends(broker, &["close_all_connections", "maintenance"], "CONNECTION_FORCED - maintenance").await;
}

/// 541: something inside of the broker has failed.
pub async fn survives_an_error_inside_of_the_broker(broker: &Broker) {
    let end = "[exit(Channel, boom) || Channel <- rabbit_channel:list_local()].";
    ends(broker, &["eval", end], "INTERNAL_ERROR").await;
}

/// 501: bytes that are no frame.
pub async fn survives_damaged_frames(broker: &Broker) {
    let topic = broker.topic().await;
    let proxy = Proxy::start(&broker.rabbit.address()).await;
    let sent = contract::messages(&topic, 20);
    let mut driver = Driver::new(broker.by_proxy(&proxy).sink_with(""), sent.clone());
    driver.connect().await.expect("a healthy broker");
    proxy.set(Direction::ToServer, Mode::Corrupt(1));
    let fault = driver.step().await.expect_err("nothing that a broker could read");
    assert_disconnected(&fault, "FRAME_ERROR");
    driver.faulted(fault).await;
    proxy.pass();
    driver.finish().await;
    broker.all_arrive(&topic, &sent).await;
}
