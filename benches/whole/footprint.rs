//! What a backlog costs a relay in memory, and in time to start.

use std::sync::Arc;
use std::time::Instant;

use relay::event::Event;
use relay::journal::Journal as _;
use relay::journal::local::{LocalJournal, Options, now};
use relay::telemetry::Metrics;

use crate::measure::{Aim, Row, Unit};
use crate::rig::Bench;
use crate::support::relay::Relay;
use crate::support::{Folder, process};

/// Sizes of backlogs, in events; the largest takes 4 GiB.
const SIZES: [u64; 3] = [100, 100_000, 10_000_000];
const LARGEST: u64 = SIZES[2];
/// How many events one append writes while a journal is filled.
const FILL_BATCH: u64 = 2_000;

pub async fn memory(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for size in SIZES {
        let size = if size == LARGEST { bench.count(size) } else { size };
        let what = format!("memory with a backlog of {size} events, its sink away");
        let row = Row::new(&what, "with none", Unit::Mebibytes, Aim::AddedAtMost(32.0));
        let (backlog, empty) = (Journal::of(size).await, Journal::of(0).await);
        let run = async |journal: &Journal| {
            let relay = Relay::start(&journal.config()).await;
            tried(&relay).await;
            let memory = resident(relay.pid());
            bench.plot("backlog", "memory, MiB", journal.events.max(1) as f64, memory);
            memory
        };
        rows.push(row.alternate(bench.rounds, || run(&backlog), || run(&empty)).await);
    }
    rows
}

pub async fn start(bench: &Bench) -> Vec<Row> {
    let size = bench.count(LARGEST);
    let row = Row::new(
        &format!("time to start with a backlog of {size} events"),
        "an empty start",
        Unit::Seconds,
        Aim::AddedAtMost(0.5),
    );
    let (backlog, empty) = (Journal::of(size).await, Journal::of(0).await);
    let run = async |journal: &Journal| {
        let began = Instant::now();
        let relay = Relay::prepare(&journal.config(), &[]);
        relay.wait_ready().await;
        let took = began.elapsed().as_secs_f64();
        bench.plot("backlog", "time to start, ms", journal.events.max(1) as f64, took * 1e3);
        took
    };
    vec![row.alternate(bench.rounds, || run(&backlog), || run(&empty)).await]
}

/// Waits until the sink has read what it can of its backlog, and met nobody.
async fn tried(relay: &Relay) {
    let bound = std::time::Duration::from_secs(30);
    relay.status_when("the sink has tried", bound, |status| status["sinks"][0]["failures"] != 0).await;
}

/// The resident memory of a process, in MiB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib / 1024.0
}

/// A journal's folder with so many events for a sink named `bus`.
struct Journal {
    folder: Folder,
    events: u64,
}

impl Journal {
    async fn of(events: u64) -> Self {
        let this = Self { folder: Folder::new("backlog"), events };
        let options = Options {
            folder: this.folder.join("journal"),
            bytes_max: 64 << 30,
            segment_bytes: 64 << 20,
            retention: i64::MAX,
            deduplicate: 0,
        };
        let journal = LocalJournal::open(options, Arc::new(Metrics::new())).expect("a journal");
        journal.save_cursor("bus", journal.head());
        let mut left = events;
        while left > 0 {
            let batch = left.min(FILL_BATCH);
            let events = (0..batch).map(|number| small(left - number)).collect();
            journal.append(events, now()).await.expect("appended");
            left -= batch;
        }
        journal.flush().await;
        drop(journal);
        this
    }

    fn config(&self) -> String {
        let [nobody] = process::free_ports();
        format!(
            "journal: {{ path: \"{}\", max_size: 64GiB }}\n\
             sinks:\n  - name: bus\n    nats: {{ servers: \"nats://127.0.0.1:{nobody}\" }}\n\
             routes:\n  - name: all\n    to: [bus]\n",
            self.folder.path().display()
        )
    }
}

/// A small event, a deletion of a tag for instance: with its record's head 430 bytes on disk.
fn small(number: u64) -> Event {
    let json = format!(
        r#"{{"id":"00000000-0000-4000-8000-{number:012}","timestamp":"2026-11-24T01:58:26.927777128Z","action":"delete","target":{{"repository":"team-{}/app","tag":"v{number}"}},"request":{{"method":"DELETE"}},"source":{{"addr":"registry-0:5000","instanceID":"7ecfda6d-a3e0-4130-90cf-d4b59cf93121"}}}}"#,
        number % 7
    );
    Event::parse(json.into()).expect("an event")
}
