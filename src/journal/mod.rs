//! Where events are kept between the registry and the sinks.
//!
//! [`Journal`] is all that the receiver and the workers know: append, read from an offset, save a
//! cursor. Nothing of files or segments is in it. What it shows is one *lane*: an ordered log in
//! which a repository's events stand in order of arrival. [`local`] keeps one lane on disk; a
//! journal kept in a Kafka topic or a JetStream stream would offer one per partition, each with a
//! set of workers of its own, and nothing downstream would change.

pub mod local;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::event::Event;

/// An event's place in its lane: the first is 1, each next one greater. Never reused.
pub type Offset = u64;

/// When something happened, in microseconds since 1970-01-01 UTC.
pub type Micros = i64;

/// An event as it was read back.
#[derive(Clone, Debug)]
pub struct Stored {
    pub offset: Offset,
    /// When the receiver took it.
    pub arrived: Micros,
    pub event: Event,
}

/// What became of an append. Sent only once all of it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Events written.
    pub accepted: usize,
    /// Events that were already in the journal, within the duplicate window.
    pub duplicates: usize,
}

/// Why an append was not done. The registry gets a 503 and keeps the event in its own queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// `max_size` is reached; `held_by` names the sink whose backlog keeps the space.
    Full { held_by: Option<String> },
    /// The disk has no room for a further segment. Passes when there is room again.
    NoSpace(String),
    /// A write or an fsync failed: nothing more is acknowledged until a restart.
    Failed(String),
    /// The relay is stopping.
    Closed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { held_by: Some(sink) } => {
                write!(f, "the journal is full; its space is held by the backlog of sink `{sink}`")
            }
            Self::Full { held_by: None } => f.write_str("the journal is full"),
            Self::NoSpace(what) => write!(f, "no room for the journal on its disk: {what}"),
            Self::Failed(what) => {
                write!(f, "the journal failed and takes nothing more until a restart: {what}")
            }
            Self::Closed => f.write_str("the relay is stopping"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Why a read was not done.
#[derive(Debug)]
pub enum ReadError {
    /// The log has been closed and everything in it was read.
    Closed,
    /// The storage failed; the same read may be tried again.
    Io(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the journal is closed"),
            Self::Io(what) => write!(f, "the journal cannot be read: {what}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// A run of events, in order. Never empty unless something was lost.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub events: Arc<[Stored]>,
    /// Where to read on.
    pub next: Offset,
    /// Offsets in this run that are gone: given up, trimmed, or damaged on disk.
    pub lost: u64,
}

/// How a journal stands, for status and metrics.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct JournalStats {
    /// The oldest offset that can still be read.
    pub first: Offset,
    /// The offset that the next event gets.
    pub next: Offset,
    /// Bytes that the journal takes on disk, and the most it may take.
    pub bytes: u64,
    pub bytes_max: u64,
    pub segments: usize,
    /// Records found damaged since the start.
    pub damaged: u64,
    /// Why nothing is acknowledged any more, once that is so.
    pub failed: Option<String>,
    /// Why the last append was refused for want of room, until there is room again.
    pub refused: Option<String>,
    /// The sink with the oldest cursor, when its backlog holds more than half of `bytes_max`.
    pub held_by: Option<String>,
}

/// One lane of durable events.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Makes `events` durable, all or none, in their order, and returns once they are.
    ///
    /// `arrived` is when they came. Events seen within the duplicate window (by
    /// `(source.instanceID, id)`, where the id is not empty) are dropped and counted; the answer
    /// still comes only after their first copies are durable.
    async fn append(&self, events: Vec<Event>, arrived: Micros) -> Result<Appended, AppendError>;

    /// Reads on from `from`, waiting until there is something. At most about `bytes_max` bytes,
    /// but at least one event. Dropping the future loses nothing.
    async fn read(&self, from: Offset, bytes_max: usize) -> Result<Chunk, ReadError>;

    /// The offset that the next event gets: everything below is durable and can be read.
    fn head(&self) -> Offset;

    /// The first offset whose event arrived at `at` or later, as nearly as the journal knows
    /// (never after it); `head()` when there is none.
    async fn seek(&self, at: Micros) -> Offset;

    /// The offset that has about `bytes` bytes of the log from it to the head, as nearly as the
    /// journal knows without reading; the oldest there is when there are fewer.
    fn offset_behind(&self, bytes: u64) -> Offset;

    /// Where `sink` is to go on: below it everything is confirmed. `None` for a new sink.
    fn cursor(&self, sink: &str) -> Option<Offset>;

    /// Notes that everything below `offset` is done for `sink`. Becomes durable within
    /// [`local::CURSOR_SAVE_INTERVAL`], or at once by [`Journal::flush`]; a crash in between
    /// delivers again.
    fn save_cursor(&self, sink: &str, offset: Offset);

    /// Forgets the cursors of sinks that are not in `sinks`, so that they hold no space.
    fn retain_cursors(&self, sinks: &[String]);

    /// Makes the cursors durable now.
    async fn flush(&self);

    /// An identity of the log, made when it was: ids of events that have none derive from it.
    fn identity(&self) -> &str;

    fn stats(&self) -> JournalStats;
}
