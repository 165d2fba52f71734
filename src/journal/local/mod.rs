//! The journal on a local disk: one append-only log of segments, many cursors.
//!
//! `format` says what the bytes are, `scan` walks through them, `recovery` opens a folder, `writer` is the
//! one thread that appends, `spares` makes segments in advance, `tail` keeps the newest events in
//! memory, `reader` fetches older ones, `cursors` are the sinks' places.

mod cursors;
mod disk;
mod duplicates;
mod format;
pub mod inspect;
mod reader;
mod recovery;
mod scan;
mod segments;
mod spares;
mod tail;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

pub use disk::{Disk, RealDisk, SegmentFile};
pub use recovery::OpenError;

use self::cursors::Cursors;
use self::segments::Segments;
use self::spares::Spares;
use self::tail::Tail;
use self::writer::{Command, Writer};
use super::{AppendError, Appended, Chunk, Journal, JournalStats, Micros, Offset, ReadError};
use crate::event::Event;
use crate::telemetry::Metrics;

/// The longest that a confirmed delivery goes unrecorded; a crash within it delivers again.
pub const CURSOR_SAVE_INTERVAL: Duration = Duration::from_millis(250);

/// How often what nobody needs any more is given back, in saves of the cursors.
const SAVES_PER_TRIM: u32 = 8;

/// Requests that may wait for the writer; more wait for a place.
const COMMANDS_MAX: usize = 4096;

/// How a journal is to be kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub folder: PathBuf,
    /// The most it may take on disk, in bytes, spare segments included.
    pub bytes_max: u64,
    /// The size of a segment, in bytes.
    pub segment_bytes: u64,
    /// How long delivered events stay, in microseconds.
    pub retention: Micros,
    /// The window in which second copies are dropped, in microseconds; 0: never.
    pub deduplicate: Micros,
}

impl Options {
    /// What a configuration says.
    pub fn of(config: &crate::config::JournalConfig) -> Self {
        let micros = |duration: Duration| Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX);
        Self {
            folder: config.path.join("journal"),
            bytes_max: config.bytes_max,
            segment_bytes: config.segment_bytes,
            retention: micros(config.retention),
            deduplicate: micros(config.deduplicate),
        }
    }
}

/// The time, in microseconds since 1970.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

/// What the writer, the readers and the cursors share.
struct Shared {
    options: Options,
    identity: String,
    disk: Box<dyn Disk>,
    segments: Segments,
    tail: Tail,
    cursors: Cursors,
    /// The offset that the next event gets.
    head: watch::Sender<Offset>,
    closed: watch::Sender<bool>,
    failed: Mutex<Option<String>>,
    /// Why the last append that wanted a further segment got none.
    refused: Mutex<Option<AppendError>>,
    damaged: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn failure(&self) -> Option<AppendError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone().map(AppendError::Failed)
    }

    fn set_failed(&self, error: &std::io::Error) -> AppendError {
        let text = error.to_string();
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        AppendError::Failed(text)
    }

    fn refused(&self) -> Option<AppendError> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_refused(&self, error: Option<&AppendError>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = error.cloned();
    }

    /// The sink whose backlog keeps the oldest segment.
    fn holder(&self) -> Option<String> {
        let (sink, cursor) = self.cursors.slowest()?;
        (cursor < *self.head.borrow()).then_some(sink)
    }

    fn note_damage(&self, records: u64) {
        self.damaged.fetch_add(records, Ordering::Relaxed);
        self.metrics.journal_damaged.inc_by(records);
    }

    fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// The thread that saves cursors now and then; told to stop when the journal goes.
#[derive(Default)]
struct Saver {
    stop: Mutex<bool>,
    wake: Condvar,
}

/// A journal in a folder. Dropping it writes out what is queued, saves the cursors and gives up the
/// folder's lock.
pub struct LocalJournal {
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    saver: Arc<Saver>,
    threads: Vec<JoinHandle<()>>,
    _lock: std::fs::File,
}

impl LocalJournal {
    /// Opens the journal in `options.folder`, or begins one.
    ///
    /// # Errors
    /// [`OpenError`]: another relay has it, it is no journal of this version, or the disk fails.
    pub fn open(options: Options, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        Self::open_on(options, metrics, Box::new(RealDisk))
    }

    /// [`LocalJournal::open`] with a disk of the caller's.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(options: Options, metrics: Arc<Metrics>, disk: Box<dyn Disk>) -> Result<Self, OpenError> {
        let folder = options.folder.clone();
        let io = |error| OpenError::Io { path: folder.clone(), error };
        std::fs::create_dir_all(&folder).map_err(io)?;
        let lock = recovery::lock(&folder)?;
        let identity = recovery::identity(&folder)?;
        let found = recovery::find(&folder, identity, options.segment_bytes, options.deduplicate, now())?;
        let cursors = Cursors::open(&folder).map_err(io)?;
        let spares = Spares::start(&folder, *identity.as_bytes(), options.segment_bytes).map_err(io)?;
        metrics.journal_damaged.inc_by(found.damaged);
        let last = found.segments.back().cloned().expect("a journal has a segment");
        let shared = Arc::new(Shared {
            options,
            identity: identity.to_string(),
            disk,
            segments: Segments::new(found.segments),
            tail: Tail::default(),
            cursors,
            head: watch::Sender::new(found.next),
            closed: watch::Sender::new(false),
            failed: Mutex::new(None),
            refused: Mutex::new(None),
            damaged: AtomicU64::new(found.damaged),
            metrics,
        });
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let writer = Writer::new(shared.clone(), queue, found.duplicates, spares, last, found.at, found.next);
        let saver = Arc::new(Saver::default());
        let threads = vec![
            spawn("journal-writer", move || writer.run()).map_err(io)?,
            spawn("journal-cursors", {
                let (shared, saver, commands) = (shared.clone(), saver.clone(), commands.downgrade());
                move || save_cursors(&shared, &saver, &commands)
            })
            .map_err(io)?,
        ];
        Ok(Self { shared, commands: Some(commands), saver, threads, _lock: lock })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

fn save_cursors(shared: &Shared, saver: &Saver, commands: &mpsc::WeakSender<Command>) {
    for round in 1.. {
        let stop = saver.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = saver.wake.wait_timeout_while(stop, CURSOR_SAVE_INTERVAL, |stop| !*stop);
        let stop = *waited.unwrap_or_else(PoisonError::into_inner).0;
        if let Err(error) = shared.cursors.save() {
            tracing::error!(%error, "the cursors cannot be saved: a restart would deliver again");
        }
        if stop {
            return;
        }
        if round % SAVES_PER_TRIM == 0
            && let Some(commands) = commands.upgrade()
        {
            // Full: the writer has better to do, and trims when it needs the room.
            let (Ok(()) | Err(_)) = commands.try_send(Command::Trim { now: now() });
        }
    }
}

impl Drop for LocalJournal {
    fn drop(&mut self) {
        self.commands = None; // the writer ends once what is queued is written
        *self.saver.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.saver.wake.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal has panicked");
            }
        }
    }
}

#[async_trait]
impl Journal for LocalJournal {
    async fn append(&self, events: Vec<Event>, arrived: Micros) -> Result<Appended, AppendError> {
        let (reply, answer) = oneshot::channel();
        let since = Instant::now();
        // Here and not by the writer: all senders wait for that one, and this thread has the events at hand.
        let keys = events.iter().map(duplicates::key).collect();
        let command = Command::Append { events, keys, arrived, since, reply };
        let commands = self.commands.as_ref().ok_or(AppendError::Closed)?;
        commands.send(command).await.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Closed)?
    }

    async fn read(&self, from: Offset, bytes_max: usize) -> Result<Chunk, ReadError> {
        let mut head = self.shared.head.subscribe();
        let mut closed = self.shared.closed.subscribe();
        let head = loop {
            let now = *head.borrow_and_update();
            if from < now {
                break now;
            }
            if *closed.borrow_and_update() {
                return Err(ReadError::Closed);
            }
            tokio::select! {
                _ = head.changed() => {}
                _ = closed.changed() => {}
            }
        };
        if let Some(chunk) = self.shared.tail.read(from, bytes_max) {
            return Ok(chunk);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || reader::read(&shared, from, head, bytes_max));
        match read.await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(ReadError::Io(error.to_string())),
            Err(error) => Err(ReadError::Io(error.to_string())),
        }
    }

    fn head(&self) -> Offset {
        *self.shared.head.borrow()
    }

    async fn seek(&self, at: Micros) -> Offset {
        let (shared, head) = (self.shared.clone(), self.head());
        let found = tokio::task::spawn_blocking(move || reader::seek(&shared, at, head)).await;
        match found {
            Ok(Ok(offset)) => offset,
            // From the beginning then: too much rather than too little.
            Ok(Err(_)) | Err(_) => self.shared.segments.first_offset(),
        }
    }

    fn offset_behind(&self, bytes: u64) -> Offset {
        self.shared.segments.offset_behind(bytes)
    }

    fn cursor(&self, sink: &str) -> Option<Offset> {
        let cursors = &self.shared.cursors;
        cursors.get(sink).or_else(|| cursors.are_lost().then(|| self.shared.segments.first_offset()))
    }

    fn save_cursor(&self, sink: &str, offset: Offset) {
        self.shared.cursors.set(sink, offset);
    }

    fn retain_cursors(&self, sinks: &[String]) {
        self.shared.cursors.retain(sinks);
    }

    async fn flush(&self) {
        let shared = self.shared.clone();
        let saved = tokio::task::spawn_blocking(move || shared.cursors.save()).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(%error, "the cursors cannot be saved: a restart would deliver again");
        }
    }

    fn identity(&self) -> &str {
        &self.shared.identity
    }

    fn stats(&self) -> JournalStats {
        let shared = &self.shared;
        let bytes = shared.segments.bytes();
        let held_by = if bytes * 2 > shared.options.bytes_max { shared.holder() } else { None };
        JournalStats {
            first: shared.segments.first_offset(),
            next: self.head(),
            bytes,
            bytes_max: shared.options.bytes_max,
            segments: shared.segments.len(),
            damaged: shared.damaged.load(Ordering::Relaxed),
            failed: shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            refused: shared.refused().map(|error| error.to_string()),
            held_by,
        }
    }
}

#[cfg(test)]
mod tests;
