//! A receiver on a port of its own, with a folder of its own.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use relay::config::ReceiverConfig;
use relay::event::Event;
use relay::journal::local::{LocalJournal, Options};
use relay::journal::{
    AppendError, Appended, Chunk, Journal, JournalStats, Micros, Offset, ReadError, Stored,
};
use relay::quarantine::{Kept, Quarantine};
use relay::receiver::{Drained, Intake, Receiver};
use relay::telemetry::Metrics;
use tempfile::TempDir;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::wire::{Answer, Connection};

/// The longest that any test waits for something that is to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    pub addr: std::net::SocketAddr,
    pub journal: Arc<GatedJournal>,
    pub quarantine: Arc<Quarantine>,
    pub intake: Arc<Intake>,
    pub metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Drained>,
    _folder: TempDir,
}

pub fn config() -> ReceiverConfig {
    ReceiverConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        paths: Vec::new(),
        tokens: Vec::new(),
        users: Vec::new(),
        body_bytes_max: 16 << 20,
        header_timeout: PATIENCE,
        body_timeout: PATIENCE,
        connections_max: 1024,
        tls: None,
    }
}

impl Rig {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ReceiverConfig)) -> Self {
        Self::with_quarantine(256 << 20, change)
    }

    pub fn with_quarantine(quarantine_bytes_max: u64, change: impl FnOnce(&mut ReceiverConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Arc::new(Metrics::new());
        let options = Options {
            folder: folder.path().join("journal"),
            bytes_max: 1 << 30,
            segment_bytes: 32 << 20,
            retention: Micros::MAX,
            deduplicate: 600_000_000,
        };
        let local = LocalJournal::open(options, Arc::clone(&metrics)).expect("a journal");
        let journal = Arc::new(GatedJournal::new(local));
        let quarantine = Quarantine::open(folder.path().join("quarantine"), quarantine_bytes_max);
        let quarantine = Arc::new(quarantine.expect("a quarantine"));
        let intake = Arc::new(Intake::new(
            Arc::clone(&journal) as Arc<dyn Journal>,
            Arc::clone(&quarantine),
            Arc::clone(&metrics),
        ));
        let mut config = config();
        change(&mut config);
        let receiver = Receiver::bind(&config, Arc::clone(&intake)).expect("bound");
        let addr = receiver.local_addr();
        let (stop, stopped) = oneshot::channel();
        // Told to, or the rig was dropped: the test is over.
        let shutdown = async { drop(stopped.await) };
        let served = tokio::spawn(async { receiver.serve(shutdown, DRAIN).await.expect("no panic") });
        Self { addr, journal, quarantine, intake, metrics, stop, served, _folder: folder }
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(self.addr).await
    }

    /// Posts a body to `/events` on a connection of its own.
    pub async fn post(&self, body: impl AsRef<[u8]>) -> Answer {
        self.connect().await.post("/events", body.as_ref()).await
    }

    /// All events in the journal, in their order.
    pub async fn events(&self) -> Vec<Stored> {
        let (mut all, mut from) = (Vec::new(), 1);
        while from < self.journal.head() {
            let chunk = self.journal.read(from, 1 << 20).await.expect("readable");
            all.extend_from_slice(&chunk.events);
            from = chunk.next;
        }
        all
    }

    /// All that is in the quarantine, oldest first.
    pub async fn quarantined(&self) -> Vec<Kept> {
        let mut all = Vec::new();
        for entry in self.quarantine.list(None, usize::MAX).await.expect("a list") {
            all.push(self.quarantine.get(entry.id).await.expect("readable").expect("there"));
        }
        all
    }

    /// Begins the end; the result of [`Receiver::serve`] comes from the handle.
    pub fn stop(self) -> JoinHandle<Drained> {
        self.stop.send(()).expect("it serves");
        self.served
    }

    pub async fn wait_for_connections(&self, count: i64) {
        until("connections", || self.metrics.connections.get() == count).await;
    }
}

/// How long a rig's receiver may take to end.
pub const DRAIN: Duration = Duration::from_millis(500);

/// Waits until a condition holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("in vain waited for: {what}"));
}

/// The local journal, with a gate before its `append`: tests hold it shut, or have it refuse.
pub struct GatedJournal {
    local: LocalJournal,
    refusal: Mutex<Option<AppendError>>,
    gate: Semaphore,
    arrivals: AtomicUsize,
}

impl GatedJournal {
    fn new(local: LocalJournal) -> Self {
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { local, refusal: Mutex::new(None), gate, arrivals: AtomicUsize::new(0) }
    }

    /// Appends wait from now on.
    pub fn shut(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS);
    }

    /// Appends are refused from now on.
    pub fn refuse(&self, error: Option<AppendError>) {
        *self.refusal.lock().expect("not poisoned") = error;
    }

    /// Calls of `append` so far, those at the gate included.
    pub fn arrivals(&self) -> usize {
        self.arrivals.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Journal for GatedJournal {
    async fn append(&self, events: Vec<Event>, arrived: Micros) -> Result<Appended, AppendError> {
        self.arrivals.fetch_add(1, Ordering::SeqCst);
        let _permit = self.gate.acquire().await.expect("never closed");
        let refusal = self.refusal.lock().expect("not poisoned").clone();
        match refusal {
            Some(error) => Err(error),
            None => self.local.append(events, arrived).await,
        }
    }

    async fn read(&self, from: Offset, bytes_max: usize) -> Result<Chunk, ReadError> {
        self.local.read(from, bytes_max).await
    }

    fn head(&self) -> Offset {
        self.local.head()
    }

    async fn seek(&self, at: Micros) -> Offset {
        self.local.seek(at).await
    }

    fn offset_behind(&self, bytes: u64) -> Offset {
        self.local.offset_behind(bytes)
    }

    fn cursor(&self, sink: &str) -> Option<Offset> {
        self.local.cursor(sink)
    }

    fn save_cursor(&self, sink: &str, offset: Offset) {
        self.local.save_cursor(sink, offset);
    }

    fn retain_cursors(&self, sinks: &[String]) {
        self.local.retain_cursors(sinks);
    }

    async fn flush(&self) {
        self.local.flush().await;
    }

    fn identity(&self) -> &str {
        self.local.identity()
    }

    fn stats(&self) -> JournalStats {
        self.local.stats()
    }
}
