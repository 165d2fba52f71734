//! A peer: `mq-bridge` of PyPI, an HTTP-to-broker bridge written in Rust, with each broker.
//!
//! It answers a request once the broker has confirmed; the relay answers once its journal has it, on the
//! disk. Both are sent the same requests over 64 connections. Two rates count: that of the answers, which
//! is what a registry waits for, and that at which the broker got all of it, for which the relay has to
//! deliver all that it has answered. `scripts/bench.sh` installs the peer below `target/bench`.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::brokers::{Broker, JetStream};
use crate::load;
use crate::measure::{Aim, Row, Unit};
use crate::rig::{BOUND, Bench, blocking, rate, receiver};
use crate::support::process::{Proc, accepts, free_ports};
use crate::support::relay::Relay;
use crate::support::{Folder, unique};

const CONNECTIONS: usize = 64;
const EVENTS: u64 = 40_000;
const PROGRAM: &str = "import sys\nfrom mq_bridge import Route\nRoute.from_file(sys.argv[1], 'r').run()\n";

pub async fn kafka(bench: &Bench) -> Vec<Row> {
    measure(bench, bench.kafka().await, "Kafka", EVENTS).await
}

/// As it comes, JetStream confirms before it syncs.
pub async fn jetstream(bench: &Bench) -> Vec<Row> {
    measure(bench, bench.jetstream().await, "JetStream", EVENTS).await
}

/// What the peer acknowledges is durable only if JetStream syncs first; what the relay does always is.
pub async fn jetstream_synced(bench: &Bench) -> Vec<Row> {
    let server = JetStream::start(true).await;
    measure(bench, &server, "JetStream that syncs before it confirms", EVENTS / 4).await
}

pub async fn rabbitmq(bench: &Bench) -> Vec<Row> {
    measure(bench, bench.rabbitmq().await, "RabbitMQ", EVENTS).await
}

async fn measure<B: Broker>(bench: &Bench, broker: &B, name: &str, events: u64) -> Vec<Row> {
    let row = |what: &str| {
        let what = format!("from HTTP to {name}, {what}");
        Row::new(&what, "the peer `mq-bridge`", Unit::EventsPerSecond, Aim::AtLeast(2.0))
    };
    let (acknowledged, mut arrived) =
        (row("acknowledged durably"), row("until the broker has confirmed the last"));
    let Some(python) = std::env::var_os("RELAY_BENCH_PEER_PYTHON") else {
        return vec![acknowledged.skipped("mq-bridge could not be installed from PyPI")];
    };
    let [relayed, bridged] = ["relayed", "bridged"].map(unique);
    broker.prepare(&relayed).await;
    broker.prepare(&bridged).await;
    let sink = broker.sink(&relayed);
    let relay =
        Relay::start(&format!("sinks:\n  - name: bus\n    {sink}\nroutes:\n  - name: all\n    to: [bus]\n"))
            .await;
    let peer = Peer::start(&python, &broker.peer_output(&bridged)).await;
    let events = bench.count(events);
    let send = async |to: SocketAddr| {
        blocking(move || load::kept_alive(to, load::requests(events, 1), CONNECTIONS)).await
    };
    let all_of_it = RefCell::new(Vec::new());
    let through_relay = async || {
        let took = send(receiver(&relay)).await;
        let answered = Instant::now();
        let all = took + (all_delivered(&relay).await - answered);
        all_of_it.borrow_mut().push(rate(events, all));
        rate(events, took)
    };
    let through_peer = async || rate(events, send(peer.address).await);
    let acknowledged = acknowledged.alternate(bench.rounds, through_relay, through_peer).await;
    (arrived.relay, arrived.reference) = (all_of_it.into_inner(), acknowledged.reference.clone());
    let sent = bench.rounds as u64 * events;
    assert!(broker.count(&relayed).await >= sent && broker.count(&bridged).await >= sent, "all arrived");
    broker.remove(&relayed).await;
    broker.remove(&bridged).await;
    vec![acknowledged, arrived]
}

/// Waits until the broker has confirmed all that the relay has; gives when it was seen.
async fn all_delivered(relay: &Relay) -> Instant {
    let end = Instant::now() + BOUND;
    loop {
        let status = relay.status().await;
        let now = Instant::now();
        if status["sinks"][0]["position"] == status["journal"]["next"] {
            return now;
        }
        assert!(now < end, "not delivered within {BOUND:?}: {status:#}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

struct Peer {
    address: SocketAddr,
    _process: Proc,
    _folder: Folder,
}

impl Peer {
    async fn start(python: &std::ffi::OsStr, output: &str) -> Self {
        let folder = Folder::new("peer");
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let input = format!("{{ http: {{ url: \"{address}\", method: POST }} }}");
        let route = folder.write("r.yaml", format!("r:\n  input: {input}\n  output: {output}\n"));
        let program = folder.write("peer.py", PROGRAM);
        let mut command = Command::new(python);
        command.arg(program).arg(route);
        let mut process = Proc::spawn("mq-bridge", command, &folder.join("log"));
        process.ready("accepts connections", Duration::from_secs(30), || accepts(&address)).await;
        Self { address: address.parse().expect("an address"), _process: process, _folder: folder }
    }
}
