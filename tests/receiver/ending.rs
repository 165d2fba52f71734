//! The end: what is in flight is answered, within its time.

use relay::receiver::Drained;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::rig::{DRAIN, PATIENCE, Rig, until};

const BODY: &[u8] = b"{\"events\":[{\"action\":\"push\"}]}";

async fn refused(addr: std::net::SocketAddr) {
    let refused = timeout(PATIENCE, async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await.expect("the listener is gone in time");
}

#[tokio::test]
async fn what_is_in_flight_is_answered_and_nothing_new_is_taken() {
    let rig = Rig::start();
    let (addr, journal) = (rig.addr, rig.journal.clone());
    let idle = rig.connect().await;
    let mut kept_alive = rig.connect().await;
    assert_eq!(kept_alive.post("/events", BODY).await.status, 202);
    rig.wait_for_connections(2).await;

    journal.shut();
    let mut in_flight = rig.connect().await;
    in_flight
        .send(
            [
                format!("POST / HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n", BODY.len()).as_bytes(),
                BODY,
            ]
            .concat(),
        )
        .await;
    until("the request to reach the journal", || journal.arrivals() == 2).await;

    let served = rig.stop();
    refused(addr).await;
    idle.closed().await;
    kept_alive.closed().await;
    journal.open();
    let answer = in_flight.answer().await;
    assert_eq!(answer.counts(), (1, 0, 0));
    assert_eq!(answer.header("connection"), ["close"]);
    assert_eq!(timeout(PATIENCE, served).await.expect("ends").expect("no panic"), Drained { cut: 0 });
}

#[tokio::test]
async fn what_takes_longer_than_the_drain_is_cut_without_an_answer() {
    let rig = Rig::start();
    let journal = rig.journal.clone();
    journal.shut();
    let mut in_flight = rig.connect().await;
    in_flight
        .send(
            [
                format!("POST / HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n", BODY.len()).as_bytes(),
                BODY,
            ]
            .concat(),
        )
        .await;
    until("the request to reach the journal", || journal.arrivals() == 1).await;
    let began = tokio::time::Instant::now();
    let served = rig.stop();
    assert_eq!(timeout(PATIENCE, served).await.expect("ends").expect("no panic"), Drained { cut: 1 });
    assert!(began.elapsed() >= DRAIN);
    assert!(in_flight.try_answer().await.is_none());
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let rig = Rig::start();
    let mut config = crate::rig::config();
    config.listen = rig.addr;
    let error = relay::receiver::Receiver::bind(&config, rig.intake.clone()).err().expect("taken");
    assert!(error.to_string().contains(&rig.addr.to_string()), "{error}");
}
