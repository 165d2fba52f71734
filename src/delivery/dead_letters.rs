//! Events that a destination will never take, kept on disk until somebody decides.
//!
//! A folder per sink, in it files of JSON Lines named by the first id they hold, each at most about
//! [`FILE_BYTES_MAX`]; a file that is full is followed by another. A line is a [`DeadLetter`]. Lines
//! are appended and synced before the sink's cursor passes the event; removing rewrites one file and
//! renames it into place.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::journal::{Micros, Offset};

/// A file is not appended to beyond this, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Unique for the sink, ascending.
    pub id: u64,
    /// The event's place in the journal.
    pub offset: Offset,
    /// A short word: `too_large`, `unroutable`, …; `docs/failures.md` has them all.
    pub code: String,
    /// What the broker said.
    pub reason: String,
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
}

#[derive(Debug, Default)]
struct State {
    /// By the first id, ascending; with their size.
    files: Vec<(u64, u64)>,
    count: u64,
    next_id: u64,
}

impl State {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl DeadLetters {
    /// Opens the dead letters of one sink, in a folder of their own, which is made if need be. A
    /// line that a crash left torn was never counted on, and is cut.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Self, DeadLetterError> {
        let io = |error| DeadLetterError::Io { path: folder.to_owned(), error };
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut state = State::default();
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".tmp") {
                std::fs::remove_file(&path).map_err(io)?;
                continue;
            }
            let Some(first) = name.strip_suffix(".jsonl").and_then(|first| first.parse().ok()) else {
                continue;
            };
            let bytes = cut_torn_line(&path).map_err(io)?;
            state.files.push((first, bytes));
        }
        state.files.sort_unstable();
        let letters = Self { folder: folder.to_owned(), bytes_max, state: Mutex::new(state) };
        let (mut count, mut next_id) = (0, 1);
        letters.visit(&mut |letter| {
            count += 1;
            next_id = next_id.max(letter.id + 1);
            true
        })?;
        {
            let mut state = letters.lock();
            (state.count, state.next_id) = (count, next_id);
        }
        Ok(letters)
    }

    /// Keeps `letters` durably; their ids are given here.
    ///
    /// # Errors
    /// [`DeadLetterError::Full`], or the disk's: none of them is kept then.
    pub fn append(&self, letters: &mut [DeadLetter]) -> Result<(), DeadLetterError> {
        let mut state = self.lock();
        let mut lines = Vec::new();
        for (n, letter) in letters.iter_mut().enumerate() {
            letter.id = state.next_id + n as u64;
            serde_json::to_writer(&mut lines, letter).expect("numbers and strings are JSON");
            lines.push(b'\n');
        }
        let bytes = state.bytes();
        if bytes + lines.len() as u64 > self.bytes_max {
            return Err(DeadLetterError::Full { bytes, bytes_max: self.bytes_max });
        }
        let (first, size) = match state.files.last() {
            Some(&(first, size)) if size < FILE_BYTES_MAX => (first, size),
            _ => (state.next_id, 0),
        };
        let path = self.path(first);
        let is_new = size == 0;
        append_durably(&path, size, &lines, is_new).map_err(|error| DeadLetterError::Io { path, error })?;
        if is_new {
            state.files.push((first, 0));
        }
        if let Some((_, size)) = state.files.last_mut() {
            *size += lines.len() as u64;
        }
        state.count += letters.len() as u64;
        state.next_id += letters.len() as u64;
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// Shows every dead letter to `visit`, the oldest first, until it answers `false`.
    ///
    /// # Errors
    /// The disk's. Letters removed meanwhile may be shown or not.
    pub fn visit(&self, visit: &mut dyn FnMut(DeadLetter) -> bool) -> Result<(), DeadLetterError> {
        let files = self.lock().files.clone();
        for (first, _) in files {
            if !self.read_file(first, visit)? {
                break;
            }
        }
        Ok(())
    }

    /// Removes those that `gone` says yes to; answers how many.
    ///
    /// # Errors
    /// The disk's; files that were rewritten before stay so.
    pub fn remove(&self, gone: &dyn Fn(&DeadLetter) -> bool) -> Result<u64, DeadLetterError> {
        let mut state = self.lock();
        let mut removed = 0;
        for index in (0..state.files.len()).rev() {
            let (first, _) = state.files[index];
            let (mut kept, mut here) = (Vec::new(), 0);
            self.read_file(first, &mut |letter| {
                if gone(&letter) {
                    here += 1;
                } else {
                    serde_json::to_writer(&mut kept, &letter).expect("numbers and strings are JSON");
                    kept.push(b'\n');
                }
                true
            })?;
            if here == 0 {
                continue;
            }
            self.rewrite(first, &kept)?;
            if kept.is_empty() {
                state.files.remove(index);
            } else {
                state.files[index].1 = kept.len() as u64;
            }
            state.count -= here;
            removed += here;
        }
        Ok(removed)
    }

    fn rewrite(&self, first: u64, lines: &[u8]) -> Result<(), DeadLetterError> {
        let path = self.path(first);
        let draft = path.with_extension("tmp");
        let written = if lines.is_empty() {
            std::fs::remove_file(&path)
        } else {
            File::create(&draft)
                .and_then(|mut file| file.write_all(lines).and_then(|()| file.sync_all()))
                .and_then(|()| std::fs::rename(&draft, &path))
        };
        written.and_then(|()| sync_folder(&self.folder)).map_err(|error| DeadLetterError::Io { path, error })
    }

    /// Answers `false` once `visit` did.
    fn read_file(
        &self,
        first: u64,
        visit: &mut dyn FnMut(DeadLetter) -> bool,
    ) -> Result<bool, DeadLetterError> {
        let path = self.path(first);
        let io = |error| DeadLetterError::Io { path: path.clone(), error };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true), // removed meanwhile
            Err(error) => return Err(io(error)),
        };
        for line in BufReader::new(file).lines() {
            match serde_json::from_str(&line.map_err(io)?) {
                Ok(letter) => {
                    if !visit(letter) {
                        return Ok(false);
                    }
                }
                Err(error) => tracing::error!(path = %path.display(), %error, "a dead letter cannot be read"),
            }
        }
        Ok(true)
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}.jsonl"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes at `at`, over what a failed write may have left there.
fn append_durably(path: &Path, at: u64, lines: &[u8], is_new: bool) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(lines, at)?;
    file.set_len(at + lines.len() as u64)?;
    file.sync_data()?;
    if is_new { path.parent().map_or(Ok(()), sync_folder) } else { Ok(()) }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Cuts what stands behind the last line's end; answers the file's size then.
fn cut_torn_line(path: &Path) -> io::Result<u64> {
    let bytes = std::fs::read(path)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end as u64 + 1);
    if whole < bytes.len() as u64 {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole)?;
        file.sync_data()?;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(offset: Offset, code: &str, bytes: usize) -> DeadLetter {
        DeadLetter {
            id: 0,
            offset,
            code: code.into(),
            reason: "said \"no\"\n".into(),
            attempts: 1,
            first: 1,
            last: 2,
            arrived: 0,
            topic: "registry.push".into(),
            key: "team/app".into(),
            event_id: "e".into(),
            action: "push".into(),
            repository: "team/app".into(),
            event: format!("{{\n  \"pad\": \"{}\"}}", "x".repeat(bytes)),
        }
    }

    fn all(letters: &DeadLetters) -> Vec<DeadLetter> {
        let mut found = Vec::new();
        letters
            .visit(&mut |letter| {
                found.push(letter);
                true
            })
            .expect("visit");
        found
    }

    #[test]
    fn keep_lists_and_remove_across_files_and_restarts() {
        let folder = tempfile::tempdir().expect("a folder");
        let letters = DeadLetters::open(folder.path(), 1 << 30).expect("open");
        for offset in 1..=30 {
            letters
                .append(&mut [letter(offset, if offset % 2 == 0 { "even" } else { "odd" }, 100_000)])
                .expect("append");
        }
        let found = all(&letters);
        assert_eq!(found.iter().map(|letter| letter.id).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
        assert_eq!(found[4].event, letter(5, "", 100_000).event);
        assert!(std::fs::read_dir(folder.path()).expect("dir").count() > 2);
        assert_eq!(letters.remove(&|letter| letter.code == "even").expect("remove"), 15);

        let letters = DeadLetters::open(folder.path(), 1 << 30).expect("open");
        assert_eq!((letters.count(), all(&letters).len()), (15, 15));
        letters.append(&mut [letter(31, "odd", 1)]).expect("append");
        assert_eq!(
            all(&letters).last().map(|letter| letter.id),
            Some(30),
            "an id is free again only at the end"
        );
        assert_eq!(letters.remove(&|_| true).expect("remove"), 16);
        assert_eq!(std::fs::read_dir(folder.path()).expect("dir").count(), 0);
    }

    #[test]
    fn full_takes_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let letters = DeadLetters::open(folder.path(), 1000).expect("open");
        letters.append(&mut [letter(1, "a", 10)]).expect("append");
        let full = letters.append(&mut [letter(2, "a", 10), letter(3, "a", 1000)]);
        assert!(matches!(full, Err(DeadLetterError::Full { .. })));
        assert_eq!(letters.count(), 1);
    }

    #[test]
    fn a_torn_line_is_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        let letters = DeadLetters::open(folder.path(), 1 << 20).expect("open");
        letters.append(&mut [letter(1, "a", 10)]).expect("append");
        let path = letters.path(1);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes.extend_from_slice(b"{\"id\":2,\"off");
        std::fs::write(&path, bytes).expect("write");
        let letters = DeadLetters::open(folder.path(), 1 << 20).expect("open");
        letters.append(&mut [letter(2, "b", 10)]).expect("append");
        assert_eq!(all(&letters).iter().map(|letter| letter.offset).collect::<Vec<_>>(), [1, 2]);
    }
}
