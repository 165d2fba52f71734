//! Reads what is at each sink, one message at a time, into the oracle.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

use lapin::{options::QueueDeleteOptions, types::FieldTable};
use relay::delivery::DeadLetters;

use crate::{
    oracle::Oracle,
    plan::SINKS,
    support::trio::{Place, Trio},
};

const BOUND: Duration = Duration::from_secs(900);

pub async fn kafka(trio: &Trio, topic: &str, oracle: &mut Oracle) {
    let count = usize::try_from(trio.kafka.count(&[topic]).await).expect("a count");
    trio.kafka
        .consume_each(&[topic], count, BOUND, |record| {
            oracle.arrival(0, record.header("id").unwrap_or(""), Some(record.key_text()), &record.value);
        })
        .await;
}

/// Reads a queue and deletes it.
pub async fn rabbitmq(trio: &Trio, queue: &str, oracle: &mut Oracle) {
    let count = trio.rabbitmq.depth(queue).await as usize;
    trio.rabbitmq
        .consume_each(queue, count, BOUND, |delivery| {
            oracle.arrival(1, delivery.message_id().unwrap_or(""), None, &delivery.body);
        })
        .await;
    let connection = trio.rabbitmq.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("delete a queue");
    let _ = connection.close(200, "done".into()).await;
}

/// A new queue takes the place of `old` at the exchange. Nothing may be under way meanwhile.
pub async fn next_queue(trio: &Trio, exchange: &str, old: &str) -> String {
    let new = trio.rabbitmq.declare_queue_bound(exchange, "#").await;
    let connection = trio.rabbitmq.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    let none = FieldTable::default();
    let unbound = channel.queue_unbind(old.into(), exchange.into(), "#".into(), none);
    unbound.await.expect("unbind a queue");
    let _ = connection.close(200, "done".into()).await;
    new
}

pub async fn jetstream(trio: &Trio, place: &Place, oracle: &mut Oracle) {
    let count = usize::try_from(trio.nats.count(&place.name).await).expect("a count");
    trio.nats
        .consume_stream_each(&place.name, count, BOUND, |message| {
            oracle.arrival(2, message.header("id").unwrap_or(""), None, &message.payload);
        })
        .await;
}

pub fn file(path: &Path, oracle: &mut Oracle) {
    let mut lines = BufReader::with_capacity(1 << 16, File::open(path).expect("the file sink's file"));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).expect("read a line") > 0 {
        let body = line.strip_suffix(b"\n").unwrap_or(&line);
        // The id is what an event begins with.
        let id = body.strip_prefix(b"{\"id\":\"").and_then(|rest| rest.split(|&byte| byte == b'"').next());
        let id = String::from_utf8_lossy(id.unwrap_or_default()).into_owned();
        oracle.arrival(3, &id, None, body);
        line.clear();
    }
}

/// The dead letters of every sink, whose relay has ended.
pub fn letters(data: &Path, oracle: &mut Oracle) {
    for (number, sink) in SINKS.iter().enumerate() {
        let letters =
            DeadLetters::open(&data.join("dead-letters").join(sink), u64::MAX).expect("dead letters");
        let visited = letters.visit(0, &mut |letter| {
            oracle.letter(number, &letter.event_id, &letter.code, &letter.event);
            true
        });
        visited.expect("read dead letters");
    }
}

/// How many bodies the quarantine holds.
pub fn quarantined(data: &Path) -> u64 {
    let files = std::fs::read_dir(data.join("quarantine")).expect("the quarantine's folder");
    let names = files.map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".body")).count() as u64
}
