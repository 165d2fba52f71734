//! The receiver against the bare handler: how fast events become durable.

use std::net::SocketAddr;
use std::time::Duration;

use crate::handler::{self, Handler};
use crate::load;
use crate::measure::{Aim, Row, Unit};
use crate::rig::{Bench, blocking, rate, receiver};
use crate::support::relay::Relay;

/// The receiver, the journal and the routing alone: no event of the load goes anywhere. What is done
/// with is given back soon, so that segments are used again as in a journal that has reached its size.
pub const NOWHERE: &str = "
journal: { path: \"@DIR@/journal\", max_size: 4GiB, retention: 1s }
sinks:
  - name: nowhere
    file: { path: \"@DIR@/nowhere.jsonl\" }
routes:
  - name: nobody
    match: { repositories: [\"none/**\"] }
    to: [nowhere]
";

/// How requests are sent: gives the time that all of them took.
type Send = fn(SocketAddr, Vec<Vec<u8>>) -> Duration;

pub async fn one_sender(bench: &Bench) -> Vec<Row> {
    let row = Row::new(
        "one sender, a new connection per event, as a registry does",
        "the bare handler",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.85),
    );
    let send = |to, requests: Vec<_>| load::one_sender(to, &requests);
    vec![against_handler(bench, row, bench.count(20_000), 1, send).await]
}

pub async fn kept_alive(bench: &Bench) -> Vec<Row> {
    let row = Row::new(
        "64 connections kept alive, one event a request, durable",
        "the bare handler, which groups all that wait",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.8),
    );
    let send = |to, requests| load::kept_alive(to, requests, 64);
    vec![against_handler(bench, row, bench.count(150_000), 1, send).await]
}

pub async fn envelopes(bench: &Bench) -> Vec<Row> {
    let row = Row::new(
        "one connection, envelopes of 100 events, durable",
        "the bare handler",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.8),
    );
    let requests = bench.count(3_000);
    let send = |to, requests: Vec<_>| load::one_connection(to, &requests);
    let row = against_handler(bench, row, requests, 100, send).await;
    vec![row.clone(), against_file_alone(bench, row, requests).await]
}

/// `requests` requests of `batch` events each, to the relay and to the handler in turn.
async fn against_handler(bench: &Bench, row: Row, requests: u64, batch: u64, send: Send) -> Row {
    let relay = Relay::start(NOWHERE).await;
    let handler = Handler::start().await;
    let run = async |to: SocketAddr| {
        let took = blocking(move || send(to, load::requests(requests, batch))).await;
        rate(requests * batch, took)
    };
    let row = row.alternate(bench.rounds, || run(receiver(&relay)), || run(handler.address)).await;
    let received = relay.status().await["receiver"]["received"].clone();
    assert_eq!(received, bench.rounds as u64 * requests * batch, "the relay counts each event once");
    row
}

/// For the reader: the same bodies written to the file without HTTP.
async fn against_file_alone(bench: &Bench, measured: Row, requests: u64) -> Row {
    let mut row = Row::new(&measured.what, "the file alone, without HTTP", Unit::EventsPerSecond, Aim::None);
    for relay in &measured.relay[..bench.rounds] {
        let took = blocking(move || handler::file_alone(&load::requests(requests, 100))).await;
        row.add(*relay, rate(requests * 100, took));
    }
    row
}
