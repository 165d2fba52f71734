//! Bounds: on bodies, on time, on connections.

use std::time::Duration;

use relay::telemetry::StatusLabel;
use tokio::time::Instant;

use crate::rig::{PATIENCE, Rig};
use crate::wire::Connection;

const SHORT: Duration = Duration::from_millis(200);

/// An envelope of one event of exactly `bytes` bytes.
fn envelope(bytes: usize) -> Vec<u8> {
    let (head, tail) = (r#"{"events":[{"action":"push","pad":""#, r#""}]}"#);
    format!("{head}{}{tail}", "x".repeat(bytes - head.len() - tail.len())).into_bytes()
}

async fn chunked(connection: &mut Connection, body: &[u8]) {
    connection.send("POST /events HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in body.chunks(10_000) {
        connection.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    connection.send("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_body_at_the_cap_is_taken_and_one_above_it_is_not() {
    const CAP: usize = 100_000;
    let rig = Rig::with(|config| config.body_bytes_max = CAP as u64);
    let mut connection = rig.connect().await;
    assert_eq!(connection.post("/events", &envelope(CAP)).await.counts(), (1, 0, 0));
    chunked(&mut connection, &envelope(CAP)).await;
    assert_eq!(connection.answer().await.counts(), (1, 0, 0));

    // All of the body is read before the answer, or a sender would see a reset and not the 413.
    let problem = rig.post(envelope(CAP + 1)).await.problem(413, "body-too-large");
    assert!(problem["detail"].as_str().expect("a text").contains("100000"), "{problem}");
    rig.post(envelope(CAP * 4)).await.problem(413, "body-too-large");
    let mut connection = rig.connect().await;
    chunked(&mut connection, &envelope(CAP + 1)).await;
    connection.answer().await.problem(413, "body-too-large");

    assert_eq!(rig.events().await.len(), 2);
    assert!(rig.quarantined().await.is_empty(), "what is too large is not kept either");
}

#[tokio::test]
async fn a_sender_that_asks_first_is_spared_the_body() {
    let rig = Rig::with(|config| config.body_bytes_max = 1000);
    let mut connection = rig.connect().await;
    connection
        .send("POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        .await;
    connection.answer().await.problem(413, "body-too-large");
    connection.closed().await;
}

#[tokio::test]
async fn a_registry_s_largest_event_passes() {
    let rig = Rig::start();
    let body = envelope(4_300_000);
    assert_eq!(rig.post(&body).await.counts(), (1, 0, 0));
    let mut connection = rig.connect().await;
    chunked(&mut connection, &body).await;
    assert_eq!(connection.answer().await.counts(), (1, 0, 0));
    for stored in rig.events().await {
        assert_eq!(stored.event.raw()[..], body[11..body.len() - 2]);
    }
}

#[tokio::test]
async fn a_header_that_does_not_end_is_cut() {
    let rig = Rig::with(|config| config.header_timeout = SHORT);
    for begun in ["", "POST /events HT", "POST /events HTTP/1.1\r\nHost: r\r\n"] {
        let began = Instant::now();
        let mut connection = rig.connect().await;
        connection.send(begun).await;
        connection.closed().await;
        let took = began.elapsed();
        assert!(took >= SHORT && took < PATIENCE / 2, "{took:?} after {begun:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_is_answered_408() {
    let rig = Rig::with(|config| config.body_timeout = SHORT);
    for head in ["Content-Length: 50", "Transfer-Encoding: chunked"] {
        let mut connection = rig.connect().await;
        connection.send(format!("POST /events HTTP/1.1\r\nHost: r\r\n{head}\r\n\r\n5\r\n{{\"eve")).await;
        connection.answer().await.problem(408, "body-timeout");
        connection.closed().await;
    }
    assert!(rig.events().await.is_empty() && rig.quarantined().await.is_empty());
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let rig = Rig::start();
    let mut connection = rig.connect().await;
    connection.send("POST /events HTTP/1.1\r\nHost: r\r\nContent-Length: 50\r\n\r\n{\"events\":[]}").await;
    drop(connection);
    let mut connection = rig.connect().await;
    connection
        .send("POST /events HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n")
        .await;
    connection.answer().await.problem(400, "body-broken");
    rig.wait_for_connections(0).await;
    assert!(rig.events().await.is_empty() && rig.quarantined().await.is_empty());
}

#[tokio::test]
async fn connections_above_the_bound_wait_and_are_then_answered() {
    let rig = Rig::with(|config| config.connections_max = 2);
    let first = rig.connect().await;
    let mut second = rig.connect().await;
    assert_eq!(second.post("/events", b"{\"events\":[{}]}").await.status, 202);
    rig.wait_for_connections(2).await;

    // The kernel takes the third; we do not.
    let mut third = rig.connect().await;
    third.send("POST /events HTTP/1.1\r\nHost: r\r\nContent-Length: 15\r\n\r\n{\"events\":[{}]}").await;
    assert!(third.is_silent_for(SHORT).await);
    assert_eq!(rig.metrics.connections.get(), 2);
    drop(first);
    assert_eq!(third.answer().await.counts(), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_connections_is_answered_through_a_narrow_bound() {
    let rig = std::sync::Arc::new(Rig::with(|config| config.connections_max = 8));
    let posts: Vec<_> = (0..500)
        .map(|_| {
            let rig = std::sync::Arc::clone(&rig);
            tokio::spawn(async move { rig.post("{\"events\":[{\"action\":\"push\"}]}").await.status })
        })
        .collect();
    for post in posts {
        assert_eq!(post.await.expect("no panic"), 202);
    }
    assert_eq!(rig.events().await.len(), 500);
    assert_eq!(rig.metrics.requests.get_or_create(&StatusLabel { status: 202 }).get(), 500);
    rig.wait_for_connections(0).await;
}
