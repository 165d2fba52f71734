//! Where each sink stands, on disk.
//!
//! Two files, `cursors.a` and `cursors.b`, are written in turn and in place, so that one of them is
//! whole at any moment and writing changes no metadata:
//!
//! ```text
//!  0  4  CRC32C of all that follows, to the JSON's end
//!  4  4  length of the JSON in bytes
//!  8  8  generation: the greater one counts
//! 16     JSON, {"sink": offset, …}; what stands behind it is left from before
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Buf;

use crate::journal::Offset;

pub const FILES: [&str; 2] = ["cursors.a", "cursors.b"];
const HEADER_BYTES: usize = 16;

/// All cursors, and their files.
#[derive(Debug)]
pub struct Cursors {
    files: [File; 2],
    state: Mutex<State>,
    /// Both files are damaged: where the sinks stood is unknown.
    lost: bool,
    /// Held while a generation is written; says which is durable.
    saved: Mutex<BTreeMap<String, Offset>>,
}

#[derive(Debug, Default)]
struct State {
    cursors: BTreeMap<String, Offset>,
    generation: u64,
    changed: bool,
}

impl Cursors {
    /// Reads the newer whole file of the two; makes them when there are none.
    ///
    /// Damaged files are a warning, not an error: the cursors are then unknown, and the caller
    /// starts every sink at the oldest event, which delivers again but loses nothing.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let open = |name| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(name))
        };
        let files = [open(FILES[0])?, open(FILES[1])?];
        let mut best = State::default();
        let mut damaged = false;
        for (file, name) in files.iter().zip(FILES) {
            let mut bytes = vec![0; file.metadata()?.len() as usize];
            file.read_exact_at(&mut bytes, 0)?;
            match decode(&bytes) {
                Some((generation, cursors)) if generation >= best.generation => {
                    best = State { cursors, generation, changed: false };
                }
                Some(_) => {}
                None if bytes.is_empty() => {}
                None => {
                    damaged = true;
                    tracing::debug!(file = name, "a cursor file is torn or damaged");
                }
            }
        }
        let lost = damaged && best.generation == 0;
        if lost {
            tracing::error!(
                folder = %folder.display(),
                "both cursor files are damaged: every sink starts again at the oldest event"
            );
        }
        let saved = Mutex::new(best.cursors.clone());
        Ok(Self { files, state: Mutex::new(best), lost, saved })
    }

    /// Whether there were cursors that cannot be read any more.
    pub fn are_lost(&self) -> bool {
        self.lost
    }

    pub fn get(&self, sink: &str) -> Option<Offset> {
        self.state().cursors.get(sink).copied()
    }

    pub fn set(&self, sink: &str, offset: Offset) {
        let mut state = self.state();
        match state.cursors.get_mut(sink) {
            Some(cursor) if *cursor == offset => return,
            Some(cursor) => *cursor = offset,
            None => {
                state.cursors.insert(sink.to_owned(), offset);
            }
        }
        state.changed = true;
    }

    pub fn retain(&self, sinks: &[String]) {
        let mut state = self.state();
        let before = state.cursors.len();
        state.cursors.retain(|sink, _| sinks.contains(sink));
        state.changed |= state.cursors.len() != before;
    }

    /// The sink with the smallest durable cursor: below it nothing is needed any more.
    pub fn slowest(&self) -> Option<(String, Offset)> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.iter().min_by_key(|(_, offset)| **offset).map(|(sink, offset)| (sink.clone(), *offset))
    }

    /// Makes the cursors durable, if any has moved since the last time.
    ///
    /// # Errors
    /// The disk's; the older generation still stands then.
    pub fn save(&self) -> io::Result<()> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, cursors) = {
            let mut state = self.state();
            if !state.changed {
                return Ok(());
            }
            state.changed = false;
            state.generation += 1;
            (state.generation, state.cursors.clone())
        };
        let file = &self.files[(generation % 2) as usize];
        let written = file.write_all_at(&encode(generation, &cursors), 0).and_then(|()| file.sync_data());
        if let Err(error) = written {
            self.state().changed = true;
            return Err(error);
        }
        *saved = cursors;
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(generation: u64, cursors: &BTreeMap<String, Offset>) -> Vec<u8> {
    let json = serde_json::to_vec(cursors).expect("a map of strings to numbers is JSON");
    let mut out = vec![0; 4];
    out.extend_from_slice(&(json.len() as u32).to_le_bytes());
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&json);
    let crc = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a cursor file; `None` when it is not whole.
pub fn decode(bytes: &[u8]) -> Option<(u64, BTreeMap<String, Offset>)> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let mut head = bytes;
    let (crc, len, generation) = (head.get_u32_le(), head.get_u32_le() as usize, head.get_u64_le());
    let json = bytes.get(HEADER_BYTES..HEADER_BYTES + len)?;
    if crc32c::crc32c(&bytes[4..HEADER_BYTES + len]) != crc {
        return None;
    }
    Some((generation, serde_json::from_slice(json).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survive_a_torn_write_of_the_newer_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let cursors = Cursors::open(folder.path()).expect("open");
        for offset in [5, 6] {
            cursors.set("bus", offset);
            cursors.save().expect("save");
        }
        drop(cursors);
        assert_eq!(Cursors::open(folder.path()).expect("open").get("bus"), Some(6));

        let newest = folder.path().join(FILES[0]); // generation 2
        let mut bytes = std::fs::read(&newest).expect("read");
        *bytes.last_mut().expect("bytes") ^= 1;
        std::fs::write(&newest, bytes).expect("write");
        let cursors = Cursors::open(folder.path()).expect("open");
        assert_eq!(cursors.get("bus"), Some(5));
        assert_eq!(cursors.slowest(), Some(("bus".into(), 5)));
        assert!(!cursors.are_lost());

        std::fs::write(folder.path().join(FILES[1]), "no cursors").expect("write");
        assert!(Cursors::open(folder.path()).expect("open").are_lost());
    }

    #[test]
    fn only_what_is_saved_counts_as_slowest() {
        let folder = tempfile::tempdir().expect("a folder");
        let cursors = Cursors::open(folder.path()).expect("open");
        cursors.set("a", 9);
        assert_eq!(cursors.slowest(), None);
        cursors.set("b", 4);
        cursors.save().expect("save");
        assert_eq!(cursors.slowest(), Some(("b".into(), 4)));
        cursors.retain(&["a".into()]);
        cursors.save().expect("save");
        assert_eq!(cursors.slowest(), Some(("a".into(), 9)));
    }
}
