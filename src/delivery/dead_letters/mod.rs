//! Events that a destination will never take, kept on disk until somebody decides.
//!
//! A folder per sink, in it files of JSON Lines named by the first id they hold, each at most about
//! [`FILE_BYTES_MAX`]; a file that is full is followed by another. A line is a [`DeadLetter`]. Lines
//! are appended and synced before the sink's cursor passes the event; removing and replacing
//! rewrites one file and renames it into place. The last file stays when it is empty: its name
//! keeps ids from being given twice.

mod filter;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::lines;
use crate::journal::{Micros, Offset};

pub use filter::LetterFilter;

/// A file is not appended to beyond this, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Unique for the sink, ascending, from 1 on.
    pub id: u64,
    /// The event's place in the journal.
    pub offset: Offset,
    /// A short word: `too_large`, `unroutable`, …; `docs/failures/` has them all.
    pub code: String,
    /// What the broker said.
    pub reason: String,
    /// How often it was sent in all, replays included; 0: it was never worth it.
    pub attempts: u32,
    /// When the event was first and last tried.
    pub first: Micros,
    pub last: Micros,
    pub arrived: Micros,
    /// Where it was to go.
    pub topic: String,
    pub key: String,
    /// The event's own id.
    pub event_id: String,
    pub action: String,
    pub repository: String,
    /// The event's JSON, byte for byte.
    pub event: String,
}

/// Why a dead letter could not be kept; the sink then waits rather than lose it.
#[derive(Debug)]
pub enum DeadLetterError {
    /// `dead_letters.max_size` is reached.
    Full {
        bytes: u64,
        bytes_max: u64,
    },
    Io {
        path: PathBuf,
        error: io::Error,
    },
}

impl std::fmt::Display for DeadLetterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full { bytes, bytes_max } => write!(
                f,
                "the dead letters are full ({bytes} of {bytes_max} bytes): replay or discard some, or raise \
                 dead_letters.max_size; the sink waits meanwhile"
            ),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DeadLetterError {}

/// One sink's dead letters.
#[derive(Debug)]
pub struct DeadLetters {
    folder: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
    /// Beside the state, which is locked while the disk writes.
    count: AtomicU64,
    added: Notify,
}

#[derive(Clone, Copy, Debug)]
struct LettersFile {
    /// The first id that it may hold.
    first: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of their ids.
    files: Vec<LettersFile>,
    next_id: u64,
}

impl State {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Which ids file number `index` may hold.
    fn ids_of(&self, index: usize) -> std::ops::Range<u64> {
        let end = self.files.get(index + 1).map_or(self.next_id, |next| next.first);
        self.files[index].first..end
    }
}

impl DeadLetters {
    /// Opens the dead letters of one sink, in a folder of their own, which is made if need be. A
    /// line that a crash left torn was never counted on, and is cut.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Self, DeadLetterError> {
        let files = find(folder).map_err(|error| DeadLetterError::Io { path: folder.to_owned(), error })?;
        let next_id = files.last().map_or(1, |file| file.first);
        let state = Mutex::new(State { files, next_id });
        let letters = Self {
            folder: folder.to_owned(),
            bytes_max,
            state,
            count: AtomicU64::new(0),
            added: Notify::new(),
        };
        let (mut count, mut last) = (0, 0);
        letters.visit(0, &mut |letter| {
            count += 1;
            last = letter.id;
            true
        })?;
        letters.count.store(count, Ordering::Relaxed);
        letters.lock().next_id = next_id.max(last + 1);
        Ok(letters)
    }

    /// Keeps `letters` durably. Those of id 0 are new and given their ids here; each other one
    /// takes the place of the letter of its id, whose tries are added to its own (and which is new
    /// again if that is gone).
    ///
    /// # Errors
    /// [`DeadLetterError::Full`], or the disk's. What was replaced before stays so; of those that
    /// are new none is kept.
    pub fn keep(&self, letters: &mut Vec<DeadLetter>) -> Result<(), DeadLetterError> {
        let mut again: Vec<_> = letters.iter().filter(|letter| letter.id != 0).cloned().collect();
        again.sort_by_key(|letter| letter.id);
        let ids: Vec<_> = again.iter().map(|letter| letter.id).collect();
        let mut found = Vec::new();
        if !again.is_empty() {
            self.edit(&ids, &mut |old| {
                let Some(letter) = again.iter().find(|letter| letter.id == old.id) else { return Some(old) };
                found.push(old.id);
                Some(merged(&old, letter.clone()))
            })?;
        }
        letters.retain(|letter| letter.id == 0 || !found.contains(&letter.id));
        self.append(letters)
    }

    /// Keeps new letters; their ids are given here.
    fn append(&self, letters: &mut [DeadLetter]) -> Result<(), DeadLetterError> {
        if letters.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let mut added = Vec::new();
        for (id, letter) in (state.next_id..).zip(letters.iter_mut()) {
            letter.id = id;
            write_line(letter, &mut added);
        }
        let bytes = state.bytes();
        if bytes + added.len() as u64 > self.bytes_max {
            return Err(DeadLetterError::Full { bytes, bytes_max: self.bytes_max });
        }
        let (is_new, file) = match state.files.last() {
            Some(&last) if last.bytes < FILE_BYTES_MAX => (false, last),
            _ => (true, LettersFile { first: state.next_id, bytes: 0 }),
        };
        let path = self.path(file.first);
        lines::append(&path, file.bytes, &added, is_new)
            .map_err(|error| DeadLetterError::Io { path, error })?;
        if is_new {
            state.files.push(file);
        }
        if let Some(last) = state.files.last_mut() {
            last.bytes += added.len() as u64;
        }
        state.next_id += letters.len() as u64;
        self.count.fetch_add(letters.len() as u64, Ordering::Relaxed);
        self.added.notify_one();
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until there are more than when it was last called. For one listener.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// A file beside the letters.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The id that the next one gets: all now there are below it.
    pub fn next_id(&self) -> u64 {
        self.lock().next_id
    }

    /// Shows each dead letter with an id above `after` to `visit`, the oldest first, until it
    /// answers `false`.
    ///
    /// # Errors
    /// The disk's. Letters removed meanwhile may be shown or not.
    pub fn visit(
        &self,
        after: u64,
        visit: &mut dyn FnMut(DeadLetter) -> bool,
    ) -> Result<(), DeadLetterError> {
        let files = {
            let state = self.lock();
            let from = state.files.partition_point(|file| file.first <= after).saturating_sub(1);
            state.files[from..].to_vec()
        };
        for file in files {
            if !self.read_file(file, &mut |letter| letter.id <= after || visit(letter))? {
                break;
            }
        }
        Ok(())
    }

    /// One dead letter; `None` when there is none of this id.
    ///
    /// # Errors
    /// The disk's.
    pub fn get(&self, id: u64) -> Result<Option<DeadLetter>, DeadLetterError> {
        let mut found = None;
        self.visit(id.saturating_sub(1), &mut |letter| {
            found = Some(letter).filter(|letter| letter.id == id);
            false
        })?;
        Ok(found)
    }

    /// Removes those with these ids, which are ascending; answers how many there were.
    ///
    /// # Errors
    /// The disk's; files that were rewritten before stay so.
    pub fn remove(&self, ids: &[u64]) -> Result<u64, DeadLetterError> {
        let mut removed = 0;
        self.edit(ids, &mut |letter| {
            let gone = ids.binary_search(&letter.id).is_ok();
            removed += u64::from(gone);
            (!gone).then_some(letter)
        })?;
        Ok(removed)
    }

    /// Rewrites the files that may hold one of `ids`, which are ascending, by what `change` makes
    /// of each letter in them.
    fn edit(
        &self,
        ids: &[u64],
        change: &mut dyn FnMut(DeadLetter) -> Option<DeadLetter>,
    ) -> Result<(), DeadLetterError> {
        let mut state = self.lock();
        for index in (0..state.files.len()).rev() {
            let held = state.ids_of(index);
            let from = ids.partition_point(|id| *id < held.start);
            if ids.get(from).is_none_or(|id| *id >= held.end) {
                continue;
            }
            self.edit_file(&mut state, index, change)?;
        }
        Ok(())
    }

    fn edit_file(
        &self,
        state: &mut State,
        index: usize,
        change: &mut dyn FnMut(DeadLetter) -> Option<DeadLetter>,
    ) -> Result<(), DeadLetterError> {
        let (mut kept, mut gone) = (Vec::new(), 0);
        self.read_file(state.files[index], &mut |letter| {
            match change(letter) {
                Some(letter) => write_line(&letter, &mut kept),
                None => gone += 1,
            }
            true
        })?;
        self.rewrite(state, index, &kept)?;
        self.count.fetch_sub(gone, Ordering::Relaxed);
        Ok(())
    }

    fn rewrite(&self, state: &mut State, index: usize, kept: &[u8]) -> Result<(), DeadLetterError> {
        let path = self.path(state.files[index].first);
        let io = |path: &Path, error| DeadLetterError::Io { path: path.to_owned(), error };
        if !kept.is_empty() {
            lines::replace(&path, kept).map_err(|error| io(&path, error))?;
            state.files[index].bytes = kept.len() as u64;
            return Ok(());
        }
        if index + 1 == state.files.len() {
            let empty = LettersFile { first: state.next_id, bytes: 0 };
            let path = self.path(empty.first);
            lines::append(&path, 0, &[], true).map_err(|error| io(&path, error))?;
            state.files.push(empty);
        }
        lines::remove(&path).map_err(|error| io(&path, error))?;
        state.files.remove(index);
        Ok(())
    }

    /// Answers `false` once `visit` did.
    fn read_file(
        &self,
        file: LettersFile,
        visit: &mut dyn FnMut(DeadLetter) -> bool,
    ) -> Result<bool, DeadLetterError> {
        let path = self.path(file.first);
        let mut show = |line: &[u8]| match serde_json::from_slice(line) {
            Ok(letter) => visit(letter),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a dead letter cannot be read");
                true
            }
        };
        lines::read(&path, file.bytes, &mut show)
            .map_err(|error| DeadLetterError::Io { path: path.clone(), error })
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}.jsonl"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files of a folder, which is made if need be; drafts that a crash left are removed.
fn find(folder: &Path) -> io::Result<Vec<LettersFile>> {
    std::fs::create_dir_all(folder)?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".tmp") {
            std::fs::remove_file(&path)?;
        } else if let Some(first) = name.strip_suffix(".jsonl").and_then(|first| first.parse().ok()) {
            files.push(LettersFile { first, bytes: lines::cut_torn(&path)? });
        }
    }
    files.sort_unstable_by_key(|file| file.first);
    Ok(files)
}

/// What is known of a letter that was tried again in vain.
fn merged(old: &DeadLetter, new: DeadLetter) -> DeadLetter {
    DeadLetter { attempts: old.attempts.saturating_add(new.attempts), first: old.first, ..new }
}

fn write_line(letter: &DeadLetter, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, letter).expect("numbers and strings are JSON");
    out.push(b'\n');
}
