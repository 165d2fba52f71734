//! The whole relay, as a process of its own, side by side with what it cannot be faster than.
//!
//! `make bench` runs all lines; `scripts/bench.sh NAME…` those whose names contain one of the words.
//! `BENCH_QUICK=1` does a twentieth of the work. The table comes out on standard output.

#![allow(clippy::disallowed_methods, reason = "the bounds are the relay's; what measures it must not wait")]

mod backlog;
mod brokers;
mod fan;
mod footprint;
mod handler;
mod intake;
mod live;
mod load;
mod measure;
mod notifier;
mod peer;
mod plot;
mod rig;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Instant;

use self::measure::{Row, table};
use self::rig::Bench;

/// The relay's allocator, so that the references in this binary have no better and no worse one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Measure = for<'b> fn(&'b Bench) -> Pin<Box<dyn Future<Output = Vec<Row>> + 'b>>;

/// The lines in the table's order, each with the name by which it is asked for.
const LINES: &[(&str, Measure)] = &[
    ("intake-one-sender", |bench| Box::pin(intake::one_sender(bench))),
    ("intake-notifier", |bench| Box::pin(notifier::drained(bench))),
    ("intake-kept-alive", |bench| Box::pin(intake::kept_alive(bench))),
    ("intake-envelopes", |bench| Box::pin(intake::envelopes(bench))),
    ("backlog-kafka", |bench| Box::pin(backlog::kafka(bench))),
    ("backlog-jetstream", |bench| Box::pin(backlog::jetstream(bench))),
    ("backlog-rabbitmq", |bench| Box::pin(backlog::rabbitmq(bench))),
    ("backlog-webhook", |bench| Box::pin(backlog::webhook(bench))),
    ("live-kafka", |bench| Box::pin(live::kafka(bench))),
    ("live-jetstream", |bench| Box::pin(live::jetstream(bench))),
    ("live-rabbitmq", |bench| Box::pin(live::rabbitmq(bench))),
    ("fan-dead-sink", |bench| Box::pin(fan::dead_sink(bench))),
    ("fan-routes", |bench| Box::pin(fan::routes(bench))),
    ("fan-sinks", |bench| Box::pin(fan::sinks(bench))),
    ("footprint-memory", |bench| Box::pin(footprint::memory(bench))),
    ("footprint-start", |bench| Box::pin(footprint::start(bench))),
    ("peer-kafka", |bench| Box::pin(peer::kafka(bench))),
    ("peer-jetstream", |bench| Box::pin(peer::jetstream(bench))),
    ("peer-jetstream-synced", |bench| Box::pin(peer::jetstream_synced(bench))),
    ("peer-rabbitmq", |bench| Box::pin(peer::rabbitmq(bench))),
];

fn main() {
    // Before any TLS stack in here looks for a default.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(handler::ARGUMENT) => handler::serve(&arguments[1..]),
        Some(brokers::webhook::ARGUMENT) => brokers::webhook::serve(&arguments[1..]),
        _ => {}
    }
    arguments.retain(|argument| argument != "--bench"); // cargo adds it
    if arguments.iter().any(|argument| argument == "--list") {
        LINES.iter().for_each(|(name, _)| println!("{name}"));
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(run(&arguments));
    println!("{}", table(&rows));
}

async fn run(wanted: &[String]) -> Vec<Row> {
    let bench = Bench::from_environment();
    let mut rows = Vec::new();
    for (name, measure) in LINES {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            eprintln!("{name}");
            let began = Instant::now();
            let measured = measure(&bench).await;
            measured.iter().for_each(|row| eprintln!("  {}", row.markdown()));
            eprintln!("  ({:.0} s)", began.elapsed().as_secs_f64());
            rows.extend(measured);
        }
    }
    bench.draw(Path::new("target/bench/plots"));
    rows
}
