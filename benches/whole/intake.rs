//! The receiver against the bare handler: how fast events become durable.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use crate::handler::{self, Handler};
use crate::load;
use crate::measure::{Aim, Row, Unit};
use crate::rig::{Bench, blocking, processor_time, rate, receiver};
use crate::support::relay::Relay;

/// The receiver, the journal and the routing alone: no event of the load goes anywhere. The journal is
/// as large as the bare handler's file, and filled before anything is measured ([`filled`]).
pub const NOWHERE: &str = "
journal: { path: \"@DIR@/journal\", max_size: 256MiB }
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
    against_handler(bench, row, bench.count(20_000), 1, send).await
}

pub async fn kept_alive(bench: &Bench) -> Vec<Row> {
    let row = Row::new(
        "64 connections kept alive, one event a request, durable",
        "the bare handler, which groups all that wait",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.8),
    );
    let send = |to, requests| load::kept_alive(to, requests, 64);
    against_handler(bench, row, bench.count(150_000), 1, send).await
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
    let mut rows = against_handler(bench, row, requests, 100, send).await;
    rows.push(against_file_alone(bench, &rows[0], requests).await);
    rows
}

/// A relay whose journal has reached its size and uses its segments again, as it does all its later life.
/// One that still grows writes as much again in zeros, in advance; so the handler's file was too.
pub async fn filled() -> Relay {
    let relay = Relay::start(NOWHERE).await;
    let to = receiver(&relay);
    blocking(move || load::one_connection(to, &load::requests(2_500, 100))).await;
    relay
}

/// `requests` requests of `batch` events each, to the relay and to the handler in turn. Beside the rates
/// it gives the processor time that each took for an event, which says where a difference comes from.
async fn against_handler(bench: &Bench, row: Row, requests: u64, batch: u64, send: Send) -> Vec<Row> {
    let relay = filled().await;
    let before = received(&relay).await;
    let handler = Handler::start().await;
    let (relay_pid, handler_pid) = (relay.pid(), handler.pid());
    let events = requests * batch;
    let costs = RefCell::new((Vec::new(), Vec::new()));
    let run = async |to: SocketAddr, pid: u32| {
        let requests = blocking(move || load::requests(requests, batch)).await;
        let before = processor_time(pid);
        let took = blocking(move || send(to, requests)).await;
        let cost = (processor_time(pid) - before).as_secs_f64() * 1e6 / events as f64;
        let mut costs = costs.borrow_mut();
        if pid == relay_pid {
            costs.0.push(cost)
        } else {
            costs.1.push(cost)
        }
        rate(events, took)
    };
    let through_relay = || run(receiver(&relay), relay_pid);
    let row = row.alternate(bench.rounds, through_relay, || run(handler.address, handler_pid)).await;
    let counted = received(&relay).await - before;
    assert_eq!(counted, bench.rounds as u64 * events, "the relay counts each event once");
    let mut cost =
        Row::new("… its process's own time for an event", &row.reference_is, Unit::Microseconds, Aim::None);
    (cost.relay, cost.reference) = costs.into_inner();
    vec![row, cost]
}

async fn received(relay: &Relay) -> u64 {
    relay.status().await["receiver"]["received"].as_u64().expect("a count")
}

/// For the reader: the same bodies written to the file without HTTP.
async fn against_file_alone(bench: &Bench, measured: &Row, requests: u64) -> Row {
    let mut row = Row::new(&measured.what, "the file alone, without HTTP", Unit::EventsPerSecond, Aim::None);
    for relay in &measured.relay[..bench.rounds] {
        let took = blocking(move || handler::file_alone(&load::requests(requests, 100))).await;
        row.add(*relay, rate(requests * 100, took));
    }
    row
}
