//! A second broker for a cluster: partitions with two replicas, leaders that move, disks that fail.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{
    super::{
        Folder,
        process::{Slot, eventually, free_ports},
    },
    Kafka, START_BOUND, STOP_BOUND, blocking, server,
};

/// A broker that is no controller, with two disks beside the one of its metadata.
pub struct Second {
    slot: Slot,
    folder: Folder,
}

const DISKS: [&str; 2] = ["disk-a", "disk-b"];

impl Second {
    /// Its id in the cluster; the first one's is 1.
    pub const ID: i32 = 2;

    /// Starts it, and waits until the cluster tells clients of it. `more`: further lines of
    /// `server.properties`.
    pub async fn join(first: &Kafka, more: &str) -> Self {
        let folder = Folder::new("kafka-second");
        let [port] = free_ports();
        let disks = DISKS.map(|disk| folder.join(disk).display().to_string()).join(",");
        let properties = format!(
            "process.roles=broker\nnode.id={id}\ncontroller.quorum.voters=1@{controller}\n\
             controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://127.0.0.1:{port}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\nnum.network.threads=2\nnum.io.threads=4\n\
             log.dirs={disks}\nmetadata.log.dir={metadata}\n{authorizer}{more}",
            id = Self::ID,
            controller = first.controller,
            metadata = folder.join("metadata").display(),
            authorizer = server::AUTHORIZER,
        );
        folder.write("server.properties", properties);
        server::format_storage(&folder, &[]).await;
        let this = Self { slot: Slot::new("kafka", server::spawn(&folder)), folder };
        this.wait_until_known(first).await;
        this
    }

    /// SIGTERM, and wait for its end: it hands its partitions over first.
    pub async fn stop(&self) {
        self.slot.stop(STOP_BOUND).await;
    }

    pub fn freeze(&self) {
        self.slot.freeze();
    }

    pub fn thaw(&self) {
        self.slot.thaw();
    }

    /// Kills it if it runs, and starts it with what it had stored.
    pub async fn start_again(&self, first: &Kafka) {
        self.slot.kill();
        self.slot.put(server::spawn(&self.folder));
        self.wait_until_known(first).await;
    }

    /// Where it keeps the records of a topic's only partition, on whichever disk.
    pub fn partition_folder(&self, topic: &str) -> PathBuf {
        let name = format!("{topic}-0");
        let on = |disk: &str| fs::exists(self.folder.join(disk).join(&name)).unwrap_or(false);
        let disk = DISKS.into_iter().find(|disk| on(disk)).expect("a partition on one of its disks");
        self.folder.join(disk).join(name)
    }

    async fn wait_until_known(&self, first: &Kafka) {
        let end = Instant::now() + START_BOUND;
        eventually("the second broker joins", START_BOUND, async || {
            self.slot.with(|proc| {
                let ended = proc.exited().is_some() && Instant::now() < end;
                assert!(!ended, "the second broker has ended; end of its log:\n{}", proc.tail());
            });
            let client = first.client();
            blocking(move || {
                let consumer: BaseConsumer = client.create().ok()?;
                let found = consumer.fetch_metadata(None, Duration::from_secs(2)).ok()?;
                found.brokers().iter().any(|broker| broker.id() == Self::ID).then_some(())
            })
            .await
        })
        .await;
    }
}
