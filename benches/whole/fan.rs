//! What many routes, many sinks and a dead sink cost the intake. Sinks here are core NATS: each is a
//! connection, a worker and a cursor, and the server costs little beside them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::load::{self, REPOSITORIES};
use crate::measure::{Aim, Row, Unit};
use crate::rig::{BOUND, Bench, blocking, rate, receiver};
use crate::support::relay::Relay;

/// Nobody listens there.
const NOBODY: &str = "nats://127.0.0.1:9";
const CONNECTIONS: usize = 64;
/// Events of one run.
const EVENTS: u64 = 100_000;

pub async fn dead_sink(bench: &Bench) -> Vec<Row> {
    let server = bench.jetstream().await.url().to_owned();
    let row = Row::new(
        "intake while one of 10 sinks is dead",
        "intake with all well",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.9),
    );
    let ten = |first: &str| {
        let mut config = Configuration::default();
        (0..10).for_each(|sink| config.sink(sink, if sink == 0 { first } else { &server }));
        let all: Vec<_> = (0..10).collect();
        config.route("all", "{}", &all);
        config.text()
    };
    let one_dead = Relay::start(&ten(NOBODY)).await;
    let all_well = Relay::start(&ten(&server)).await;
    let events = bench.count(EVENTS);
    let run = async |relay: &Relay| {
        let rate = intake(receiver(relay), events).await;
        delivered(relay, events).await; // so that the next run finds the machine at rest
        rate
    };
    vec![row.alternate(bench.rounds, || run(&one_dead), || run(&all_well)).await]
}

pub async fn routes(bench: &Bench) -> Vec<Row> {
    let row = Row::new(
        "intake with 100 routes (globs on repository and tag) to one sink that keeps up",
        "intake with one route",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.9),
    );
    against_one(bench, row, "routes", |server, count| {
        let mut config = Configuration::default();
        config.sink(0, server);
        for route in 0..count {
            config.route(&format!("r{route}"), &share(route, count), &[0]);
        }
        config.text()
    })
    .await
}

pub async fn sinks(bench: &Bench) -> Vec<Row> {
    let row = Row::new(
        "intake with 100 sinks, each taking one repository in a hundred, all keeping up",
        "intake with one sink taking all",
        Unit::EventsPerSecond,
        Aim::AtLeast(0.7),
    );
    against_one(bench, row, "sinks", |server, count| {
        let mut config = Configuration::default();
        for sink in 0..count {
            config.sink(sink, server);
            config.route(&format!("r{sink}"), &share(sink, count), &[sink]);
        }
        config.text()
    })
    .await
}

/// A hundred of something against one, and ten for the plot. The time runs until every event has
/// arrived everywhere: a sink that does not keep up shows.
async fn against_one(
    bench: &Bench,
    row: Row,
    plot: &'static str,
    config: impl Fn(&str, u64) -> String,
) -> Vec<Row> {
    let server = bench.jetstream().await.url().to_owned();
    let start = async |count| Relay::start(&config(&server, count)).await;
    let (one, ten, hundred) = (start(1).await, start(10).await, start(100).await);
    let events = bench.count(EVENTS);
    let run = async |relay: &Relay, count: f64| {
        let began = Instant::now();
        intake(receiver(relay), events).await;
        let rate = rate(events, delivered(relay, events).await - began);
        bench.plot(plot, "events a second", count, rate);
        rate
    };
    let row = row
        .alternate(
            bench.rounds,
            || run(&hundred, 100.0),
            async || {
                run(&ten, 10.0).await;
                run(&one, 1.0).await
            },
        )
        .await;
    vec![row]
}

/// What one of `count` routes matches: its share of the repositories, and any tag or none.
fn share(route: u64, count: u64) -> String {
    let globs: Vec<_> = (0..REPOSITORIES)
        .filter(|repository| repository % count == route)
        .map(|repository| format!("\"team-*/app-{repository}\""))
        .collect();
    let globs = if count == 1 { "\"team-*/**\"".to_owned() } else { globs.join(", ") };
    format!("{{ repositories: [{globs}], tags: [\"v*\", \"\"] }}")
}

/// Sends events over 64 connections; gives the rate at which they were made durable.
async fn intake(to: SocketAddr, events: u64) -> f64 {
    let took = blocking(move || load::kept_alive(to, load::requests(events, 1), CONNECTIONS)).await;
    rate(events, took)
}

/// Waits until every sink that is connected stands at the journal's head; gives when it was seen.
async fn delivered(relay: &Relay, events: u64) -> Instant {
    let end = Instant::now() + BOUND;
    loop {
        let status = relay.status().await;
        let now = Instant::now();
        let sinks = status["sinks"].as_array().expect("sinks");
        let live = || sinks.iter().filter(|sink| sink["connected"] == true);
        if live().count() > 0 && live().all(|sink| sink["position"] == status["journal"]["next"]) {
            let sum: u64 = live().filter_map(|sink| sink["delivered"].as_u64()).sum();
            assert!(sum >= events, "each event goes somewhere: {status:#}");
            return now;
        }
        assert!(now < end, "not delivered within {BOUND:?}: {status:#}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A configuration in the making.
#[derive(Default)]
struct Configuration {
    sinks: String,
    routes: String,
}

impl Configuration {
    fn sink(&mut self, number: u64, server: &str) {
        let entry = format!(
            "  - name: s{number}\n    nats: {{ servers: \"{server}\" }}\n    topic: \"s{number}.{{action}}\"\n"
        );
        self.sinks += &entry;
    }

    fn route(&mut self, name: &str, matches: &str, to: &[u64]) {
        let to: Vec<_> = to.iter().map(|sink| format!("s{sink}")).collect();
        writeln!(self.routes, "  - name: {name}\n    match: {matches}\n    to: [{}]", to.join(", "))
            .expect("to a string");
    }

    fn text(&self) -> String {
        format!(
            "journal: {{ path: \"@DIR@/journal\", max_size: 4GiB, retention: 1s }}\nsinks:\n{}routes:\n{}",
            self.sinks, self.routes
        )
    }
}
