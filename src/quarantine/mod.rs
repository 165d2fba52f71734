//! Bodies that could not be read, kept whole until somebody looks at them.
//!
//! A registry retries a refused event for ever, with everything behind it; so what the receiver
//! cannot read it takes all the same, and keeps here, as durably as the journal keeps events. The
//! files' form stands in `file`. When the quarantine is full the receiver refuses such bodies with
//! a 503: nothing that was acknowledged is ever dropped to make room.
//!
//! A folder belongs to one running relay. Others reach it through the admin listener.

mod file;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::journal::Micros;

/// Bodies on their way to the writer. Beyond it [`Quarantine::put`] waits.
const QUEUE_MAX: usize = 256;

/// What a file takes on disk is counted in blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// Names a body: when it came, in microseconds since 1970, moved on where two came at once. Unique
/// for as long as the folder lives, and in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Id {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What is known of a body beside its bytes. Never holds credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// Why it could not be read.
    pub reason: String,
    /// The path that it was posted to.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// The sender's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

/// A line of [`Quarantine::list`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    pub id: Id,
    /// The body's length; the file's, when its header cannot be read.
    pub bytes: u64,
    /// `None`: the file's header is damaged. [`Quarantine::get`] says how.
    pub note: Option<Note>,
}

/// A body as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: Id,
    pub note: Note,
    pub body: Bytes,
}

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuarantineError {
    /// There is no room; bodies must be discarded or replayed first.
    Full { bytes: u64, bytes_max: u64 },
    /// The disk failed. The same may succeed later.
    Io(String),
    /// This body is damaged on disk; says how. Its file is left as it is.
    Damaged(String),
    /// The relay is stopping.
    Closed,
}

impl fmt::Display for QuarantineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { bytes, bytes_max } => write!(
                f,
                "the quarantine is full ({bytes} of {bytes_max} bytes): replay or discard what is in it"
            ),
            Self::Io(what) => write!(f, "the quarantine's disk failed: {what}"),
            Self::Damaged(what) => write!(f, "the quarantined body is damaged: {what}"),
            Self::Closed => f.write_str("the relay is stopping"),
        }
    }
}

impl std::error::Error for QuarantineError {}

impl From<io::Error> for QuarantineError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// How full the quarantine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QuarantineStats {
    pub bodies: usize,
    /// Bytes on disk, in whole blocks, and the most they may be.
    pub bytes: u64,
    pub bytes_max: u64,
}

/// A folder of bodies. One writer groups those that come at once.
pub struct Quarantine {
    dir: PathBuf,
    index: Arc<Mutex<Index>>,
    puts: mpsc::Sender<writer::Put>,
}

impl Quarantine {
    /// Opens the folder, making it if it is not there, and starts its writer. Blocks for the time of
    /// a directory listing.
    ///
    /// What a crash left half-written was never acknowledged; it is moved into the folder
    /// `set-aside`, with a line in the log.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>, bytes_max: u64) -> io::Result<Self> {
        let dir = dir.into();
        let found = file::scan(&dir)?;
        let index = Arc::new(Mutex::new(Index::new(found, bytes_max)));
        let (puts, received) = mpsc::channel(QUEUE_MAX);
        let writer = writer::Writer::new(dir.clone(), Arc::clone(&index));
        std::thread::Builder::new().name("quarantine".to_owned()).spawn(move || writer.run(received))?;
        Ok(Self { dir, index, puts })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps a body that came at `arrived`; returns once it is durable.
    ///
    /// # Errors
    /// `Full`, `Io` or `Closed`: nothing was kept.
    pub async fn put(&self, body: Bytes, arrived: Micros, note: Note) -> Result<Id, QuarantineError> {
        let (answer, answered) = oneshot::channel();
        let put = writer::Put { body, arrived, note, answer };
        self.puts.send(put).await.map_err(|_| QuarantineError::Closed)?;
        answered.await.map_err(|_| QuarantineError::Closed)?
    }

    /// Up to `limit` bodies, oldest first, beginning behind `after`.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub async fn list(&self, after: Option<Id>, limit: usize) -> Result<Vec<Entry>, QuarantineError> {
        let dir = self.dir.clone();
        let ids = lock(&self.index).range(after, limit);
        blocking(move || {
            let entries = ids.into_iter().filter_map(|(id, len)| file::entry(&dir, id, len).transpose());
            entries.collect::<io::Result<_>>().map_err(QuarantineError::from)
        })
        .await
    }

    /// One body; `None` when there is none of this id.
    ///
    /// # Errors
    /// `Damaged` or `Io`.
    pub async fn get(&self, id: Id) -> Result<Option<Kept>, QuarantineError> {
        let Some(len) = lock(&self.index).len_of(id) else { return Ok(None) };
        let dir = self.dir.clone();
        blocking(move || file::read(&dir, id, len)).await
    }

    /// Forgets a body, durably; `false` when there is none of this id.
    ///
    /// # Errors
    /// `Io`: it is still there.
    pub async fn discard(&self, id: Id) -> Result<bool, QuarantineError> {
        let Some(len) = lock(&self.index).len_of(id) else { return Ok(false) };
        let (dir, index) = (self.dir.clone(), Arc::clone(&self.index));
        blocking(move || {
            file::remove(&dir, id, len)?;
            lock(&index).remove(id);
            Ok(true)
        })
        .await
    }

    pub fn stats(&self) -> QuarantineStats {
        lock(&self.index).stats()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QuarantineError> + Send + 'static,
) -> Result<T, QuarantineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(QuarantineError::Io(error.to_string())),
    }
}

fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is in the folder, and how much room is left.
struct Index {
    /// Lengths of files, by id.
    files: BTreeMap<Id, u64>,
    /// Of the files, and of those that are being written.
    bytes: u64,
    bytes_max: u64,
    last: Id,
    warned: bool,
}

impl Index {
    fn new(files: BTreeMap<Id, u64>, bytes_max: u64) -> Self {
        let bytes = files.values().map(|len| on_disk(*len)).sum();
        let last = files.last_key_value().map_or(Id(0), |(id, _)| *id);
        let mut index = Self { files, bytes, bytes_max, last, warned: false };
        index.warn_when_filling();
        index
    }

    /// Sets room aside for a file of `len` bytes.
    fn reserve(&mut self, len: u64) -> Result<(), QuarantineError> {
        if self.bytes + on_disk(len) > self.bytes_max {
            return Err(QuarantineError::Full { bytes: self.bytes, bytes_max: self.bytes_max });
        }
        self.bytes += on_disk(len);
        self.warn_when_filling();
        Ok(())
    }

    fn release(&mut self, len: u64) {
        self.bytes -= on_disk(len);
        self.warned &= self.is_filling();
    }

    /// An id for what came at `arrived`, greater than all before, whatever the clock did.
    fn next_id(&mut self, arrived: Micros) -> Id {
        self.last = Id((self.last.0 + 1).max(arrived.try_into().unwrap_or(0)));
        self.last
    }

    /// Notes a file whose room was reserved.
    fn add(&mut self, id: Id, len: u64) {
        self.files.insert(id, len);
    }

    fn remove(&mut self, id: Id) {
        if let Some(len) = self.files.remove(&id) {
            self.release(len);
        }
    }

    fn len_of(&self, id: Id) -> Option<u64> {
        self.files.get(&id).copied()
    }

    fn range(&self, after: Option<Id>, limit: usize) -> Vec<(Id, u64)> {
        let from = after.map_or(Id(0), |id| Id(id.0.saturating_add(1)));
        self.files.range(from..).take(limit).map(|(id, len)| (*id, *len)).collect()
    }

    fn stats(&self) -> QuarantineStats {
        QuarantineStats { bodies: self.files.len(), bytes: self.bytes, bytes_max: self.bytes_max }
    }

    fn is_filling(&self) -> bool {
        self.bytes > self.bytes_max / 5 * 4
    }

    /// Once per filling: at its end unreadable bodies are refused, and their senders stand still.
    fn warn_when_filling(&mut self) {
        if self.is_filling() && !self.warned {
            self.warned = true;
            tracing::warn!(
                bytes = self.bytes,
                bytes_max = self.bytes_max,
                "the quarantine is more than four fifths full; when it is full, unreadable bodies are \
                 refused: replay or discard what is in it"
            );
        }
    }
}

fn on_disk(len: u64) -> u64 {
    len.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

#[cfg(test)]
mod tests;
