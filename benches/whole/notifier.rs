//! A registry's own delivery code as the load: a queue of events drained into the relay and into the
//! bare handler. It is a program of its own, in Go; `RELAY_BENCH_NOTIFIER` names it, built.

use std::net::SocketAddr;
use std::process::Command;

use crate::handler::Handler;
use crate::intake::filled;
use crate::measure::{Aim, Row, Unit};
use crate::rig::{BOUND, Bench, receiver};
use crate::support::process::run;

pub async fn drained(bench: &Bench) -> Vec<Row> {
    let events = bench.count(50_000);
    let row = Row::new(
        &format!("a registry's own delivery code: a queue of {events} events drained"),
        "the bare handler",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.9),
    );
    let Ok(notifier) = std::env::var("RELAY_BENCH_NOTIFIER") else {
        return vec![row.skipped("`RELAY_BENCH_NOTIFIER` names no program")];
    };
    let relay = filled().await;
    let handler = Handler::start().await;
    let drain = async |to: SocketAddr| {
        let mut command = Command::new(&notifier);
        command.args(["-url", &format!("http://{to}/events"), "-n", &events.to_string()]);
        let output = run("the notifier", command, BOUND).await;
        let line = output.lines().find(|line| line.starts_with('{')).expect("a line of JSON");
        let report: serde_json::Value = serde_json::from_str(line).expect("JSON");
        report["per_second"].as_f64().expect("a rate")
    };
    vec![row.alternate(bench.rounds, || drain(receiver(&relay)), || drain(handler.address)).await]
}
