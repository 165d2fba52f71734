//! Who is let in, and what a refusal says.

use std::time::Instant;

use relay::sinks::FaultKind;

use crate::cluster::{Cluster, TIMEOUT};
use crate::support::contract::{self, Destination};
use crate::support::process::free_ports;

pub async fn logs_in_by_every_mechanism(cluster: &Cluster) {
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let login = format!("sasl: {{mechanism: {mechanism}, username: ada, password: s3cret}}");
        let brokers = cluster.kafka.bootstrap_sasl().to_owned();
        cluster.by(&brokers, &login).delivers(&cluster.messages(10).await).await;
    }
}

pub async fn speaks_tls(cluster: &Cluster) {
    let tls = cluster.kafka.tls();
    let (ca, cert, key) = (tls.ca.display(), tls.client_cert.display(), tls.client_key.display());
    let login = "sasl: {username: ada, password: s3cret}";
    for (brokers, more) in [
        (cluster.kafka.bootstrap_ssl(), format!("tls: {{ca: {ca}}}")),
        (cluster.kafka.bootstrap_ssl(), format!("tls: {{ca: {ca}, cert: {cert}, key: {key}}}")),
        (cluster.kafka.bootstrap_ssl(), "tls: {verify: false}".to_owned()),
        (cluster.kafka.bootstrap_sasl_ssl(), format!("tls: {{ca: {ca}}}, {login}")),
    ] {
        cluster.by(brokers, &more).delivers(&cluster.messages(10).await).await;
    }
}

pub async fn refuses_an_untrusted_certificate(cluster: &Cluster) {
    let fault = cluster.by(cluster.kafka.bootstrap_ssl(), "tls: {}").fault_at_connecting().await;
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("certificate"), "{fault}");
}

pub async fn tells_at_once_that_nobody_listens(cluster: &Cluster) {
    let [port] = free_ports();
    let cluster = cluster.by(&format!("127.0.0.1:{port}"), "");
    let begin = Instant::now();
    let fault = cluster.fault_at_connecting().await;
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("refused"), "{fault}");
    assert!(begin.elapsed() < TIMEOUT, "{:?}", begin.elapsed());
}

pub async fn rejects_a_forbidden_topic(cluster: &Cluster) {
    let (allowed, forbidden) = (cluster.topic().await, cluster.topic().await);
    cluster.kafka.deny("bob", "Write", &forbidden).await;
    let brokers = cluster.kafka.bootstrap_sasl().to_owned();
    let cluster = cluster.by(&brokers, "sasl: {username: bob, password: b0b}");
    let mut bad = contract::message(&allowed, 1_000_000);
    bad.topic = forbidden;
    contract::rejects_only(&cluster, &allowed, bad, "not_authorised").await;
}

/// `UNSUPPORTED_SASL_MECHANISM` of a listener that knows another one only, and `ILLEGAL_SASL_STATE` of one
/// that asks for no login at all.
pub async fn refuses_a_login_that_the_broker_does_not_know(cluster: &Cluster) {
    let ca = cluster.kafka.tls().ca.display().to_string();
    let login = "sasl: {mechanism: PLAIN, username: ada, password: s3cret}";
    for (brokers, more, said) in [
        (
            cluster.kafka.bootstrap_sasl_ssl(),
            format!("tls: {{ca: {ca}}}, {login}"),
            "Unsupported SASL mechanism",
        ),
        (cluster.kafka.bootstrap(), login.to_owned(), "not valid in current SASL state"),
    ] {
        let fault = cluster.by(brokers, &more).fault_at_connecting().await;
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert!(fault.text.contains(said), "{fault}");
    }
}

/// A listener without TLS ends the connection, as a broker does that is going away.
pub async fn tells_that_a_port_speaks_no_tls(cluster: &Cluster) {
    let fault = cluster.with("tls: {}").fault_at_connecting().await;
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("SSL"), "{fault}");
}

/// No name of the DNS has a part of 64 bytes: it is not even asked.
pub async fn tells_that_a_name_is_unknown(cluster: &Cluster) {
    let name = format!("{}.example:9092", "x".repeat(64));
    let fault = cluster.by(&name, "").fault_at_connecting().await;
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("Failed to resolve"), "{fault}");
}
