//! The contract's destination, a small disk; and what happens when it is full, or read-only.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use relay::sinks::{FaultKind, Sink};

use crate::{
    id, ids, lines, sink,
    support::{
        contract::{Destination, Driver, Received, Variant, message, messages},
        disk::SmallDisk,
        process::eventually,
        unique,
    },
};

const DISK_BYTES: u64 = 16 << 20;

pub struct Disk {
    disk: SmallDisk,
}

impl Disk {
    pub async fn mount() -> Self {
        Self { disk: SmallDisk::mount(DISK_BYTES) }
    }

    fn out(&self) -> PathBuf {
        self.disk.path().join("out")
    }

    /// A line has no white space and no headers: both are put back, since the contract compares.
    fn received(&self, topic: &str, line: &str) -> Received {
        let id = id(line);
        let index: usize = id.rsplit_once('#').expect("an id of ours").1.parse().expect("a number");
        let sent = message(topic, index);
        let compact = relay::event::compact(&sent.body);
        let body = if compact == line.as_bytes() { sent.body.to_vec() } else { line.as_bytes().to_vec() };
        let headers = sent.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        Received { topic: topic.to_owned(), key: None, id, headers, body }
    }
}

impl Destination for Disk {
    async fn topic(&self) -> String {
        unique("push") + ".jsonl"
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        match variant {
            Variant::Missing => sink(Path::new("/dev/null/folder"), ""),
            _ => sink(&self.out(), ""),
        }
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let path = self.out().join(topic);
        let what = format!("{count} lines in {topic}");
        let lines = eventually(&what, bound, async || Some(lines(&path)).filter(|l| l.len() >= count)).await;
        lines.iter().map(|line| self.received(topic, line)).collect()
    }

    /// A disk does not go away; it fills up.
    async fn stop(&self) {
        self.disk.fill(0);
    }

    async fn kill(&self) {
        self.disk.fill(0);
    }

    async fn start_again(&self) {
        self.disk.free();
    }

    fn freeze(&self) {
        unreachable!("a disk is not frozen in these tests");
    }

    fn thaw(&self) {
        unreachable!("a disk is not frozen in these tests");
    }

    fn too_large_bytes(&self) -> usize {
        unreachable!("no line is too large for a file");
    }

    fn load(&self) -> usize {
        10_000
    }
}

pub async fn a_full_disk_is_busy_and_tears_no_line(disk: &Disk) {
    let topic = disk.topic().await;
    let path = disk.out().join(&topic);
    let sent = messages(&topic, disk.load());
    let mut driver = Driver::new(disk.sink(&topic, Variant::Good), sent.clone());
    driver.step().await.expect("room enough");
    disk.disk.fill(0);
    let fault = loop {
        if let Err(fault) = driver.step().await {
            break fault;
        }
    };
    assert!(matches!(fault.kind, FaultKind::Busy { .. }), "{fault:?}");
    assert!(fault.text.contains("No space left"), "{fault}");
    // What was confirmed is there, and no half of a line behind it.
    let confirmed: Vec<_> = driver.outcome.settled.iter().map(|message| message.id.clone()).collect();
    assert_eq!(ids(&path)[..confirmed.len()], confirmed);
    driver.faulted(fault).await;
    disk.start_again().await;
    // Without a new connect: `Busy` says that the connection is good.
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty());
    driver.sink.close().await;
}

/// Neither somebody who comes nor somebody who was there may write.
pub async fn a_disk_that_becomes_read_only_is_refused() {
    let disk = SmallDisk::mount(DISK_BYTES);
    let sent = messages("push.jsonl", 20);
    disk.read_only(true);
    let mut driver = Driver::new(sink(&disk.path().join("out"), ""), sent);
    let fault = driver.step().await.expect_err("read-only");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("Read-only"), "{fault}");
    driver.faulted(fault).await;
    disk.read_only(false);
    driver.finish().await;
    assert_eq!(ids(&disk.path().join("out/push.jsonl")).len(), 20);
    driver.sink.close().await;
}
