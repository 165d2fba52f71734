//! The parts, each alone: what one event costs of a processor, without sockets and without waiting for
//! the disk. The whole is `benches/whole`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use relay::cli::emit::Sample;
use relay::config::{self, Config, Surroundings};
use relay::event::{Envelope, Event};
use relay::journal::local::{LocalJournal, Options, now};
use relay::journal::{Journal, Stored};
use relay::sinks::format::Renderer;
use relay::telemetry::Metrics;

const EVENTS: u64 = 100;

fn bodies(batch: u64) -> Vec<Bytes> {
    let sample = Sample::new(7, 100, "2026-11-24T00:00:00Z".parse().expect("a time"));
    (0..EVENTS / batch).map(|place| sample.envelope(place * batch..(place + 1) * batch).into()).collect()
}

fn events() -> Vec<Event> {
    Envelope::parse(&bodies(EVENTS)[0]).expect("an envelope").events
}

fn envelope(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope");
    group.throughput(Throughput::Elements(EVENTS));
    for batch in [1, EVENTS] {
        let bodies = bodies(batch);
        group.bench_function(format!("parse, {batch} events each"), |b| {
            b.iter(|| {
                for body in &bodies {
                    black_box(Envelope::parse(black_box(body)).expect("an envelope"));
                }
            });
        });
    }
}

/// A configuration with `count` routes by globs to one sink.
fn config(count: usize) -> Config {
    let mut text = String::from("sinks:\n  - name: out\n    stdout: {}\nroutes:\n");
    for route in 0..count {
        text += &format!(
            "  - name: r{route}\n    match: {{ repositories: [\"team-*/app-{route}\"], tags: [\"v*\", \"\"] }}\n    to: [out]\n"
        );
    }
    let around = Surroundings { env: &|_| None, read: &|_: &Path| Err(std::io::Error::other("no files")) };
    match config::parse(&text, "bench", &around) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems:?}"),
    }
}

fn route(c: &mut Criterion) {
    let events = events();
    let mut group = c.benchmark_group("route");
    group.throughput(Throughput::Elements(EVENTS));
    for count in [1, 10, 100] {
        let table = config(count).table;
        group.bench_function(format!("{count} routes"), |b| {
            let mut targets = Vec::new();
            b.iter(|| {
                for event in &events {
                    targets.clear();
                    table.route(black_box(event), &mut targets);
                    black_box(&targets);
                }
            });
        });
    }
}

fn render(c: &mut Criterion) {
    let config = config(1);
    let renderer = Renderer::new(&config.sinks[0], "00000000-0000-4000-8000-000000000000");
    let stored: Vec<_> =
        (1..).zip(events()).map(|(offset, event)| Stored { offset, arrived: 0, event }).collect();
    let mut group = c.benchmark_group("render");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("event", |b| {
        let mut messages = Vec::new();
        b.iter(|| {
            messages.clear();
            for stored in &stored {
                renderer.render(stored, config.table.targets(), &mut messages);
            }
            black_box(&messages);
        });
    });
}

fn encode(c: &mut Criterion) {
    let events = events();
    let bytes: usize = events.iter().map(Event::encoded_len).sum();
    let mut group = c.benchmark_group("journal");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("encode and checksum", |b| {
        let mut out = Vec::with_capacity(bytes);
        b.iter(|| {
            out.clear();
            for event in &events {
                let from = out.len();
                event.encode(&mut out);
                black_box(crc32c::crc32c(&out[from..]));
            }
        });
    });
    let stored: Vec<_> = events
        .iter()
        .map(|event| {
            let mut out = Vec::new();
            event.encode(&mut out);
            Bytes::from(out)
        })
        .collect();
    group.bench_function("decode", |b| {
        b.iter_batched(
            || stored.clone(),
            |stored| stored.into_iter().for_each(|stored| drop(black_box(Event::decode(stored)))),
            BatchSize::SmallInput,
        );
    });
}

/// Reads a megabyte back from segments, as a sink that lags does: walk, checksum, decode.
fn scan(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        folder: folder.path().to_owned(),
        bytes_max: 1 << 30,
        segment_bytes: 64 << 20,
        retention: i64::MAX,
        deduplicate: 0,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let journal = LocalJournal::open(options, Arc::new(Metrics::new())).expect("a journal");
    // Twice what the journal keeps in memory of the newest.
    for _ in 0..200 {
        runtime.block_on(journal.append(events(), now())).expect("appended");
    }
    let read = || runtime.block_on(journal.read(1, 1 << 20)).expect("read").events.len() as u64;
    let mut group = c.benchmark_group("journal");
    group.throughput(Throughput::Elements(read()));
    group.bench_function("read back, 1 MiB", |b| b.iter(|| black_box(read())));
}

criterion_group!(parts, envelope, route, render, encode, scan);
criterion_main!(parts);
