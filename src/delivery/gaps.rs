//! What was given up because of `backlog_max`, written down: a replay can fetch what of it is still
//! in the journal.
//!
//! One file of JSON Lines a sink, a [`Gap`] a line, the oldest first; at most [`GAPS_MAX`], beyond
//! which the two oldest become one.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::lines;
use crate::journal::{Micros, Offset};

/// How many are kept of a sink.
const GAPS_MAX: usize = 1000;

/// A stretch of the journal that a sink passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first offset, and the one behind the last.
    pub from: Offset,
    pub to: Offset,
    /// How many of the sink's events stood there.
    pub events: u64,
    /// When they were given up.
    pub at: Micros,
}

impl Gap {
    /// Both, and what is between them.
    fn joined(&self, later: &Self) -> Self {
        Self { from: self.from, to: later.to, events: self.events + later.events, at: later.at }
    }
}

/// The gaps of one sink.
#[derive(Debug)]
pub struct Gaps {
    path: PathBuf,
    gaps: Mutex<Vec<Gap>>,
}

impl Gaps {
    /// Reads what is there; a line that cannot be read is left out, with a word in the log.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut gaps = Vec::new();
        lines::read(&path, u64::MAX, &mut |line| {
            match serde_json::from_slice(line) {
                Ok(gap) => gaps.push(gap),
                Err(error) => tracing::error!(path = %path.display(), %error, "a gap cannot be read"),
            }
            true
        })?;
        Ok(Self { path, gaps: Mutex::new(gaps) })
    }

    /// Notes a gap, durably. Blocks.
    ///
    /// # Errors
    /// The disk's: it is not noted then.
    pub fn add(&self, gap: Gap) -> io::Result<()> {
        let mut gaps = self.lock();
        let mut next = gaps.clone();
        match next.last_mut() {
            Some(last) if last.to == gap.from => *last = last.joined(&gap),
            _ => next.push(gap),
        }
        if next.len() > GAPS_MAX {
            next[1] = next[0].joined(&next[1]);
            next.remove(0);
        }
        let mut out = Vec::new();
        for gap in &next {
            serde_json::to_writer(&mut out, gap).expect("numbers are JSON");
            out.push(b'\n');
        }
        lines::replace(&self.path, &out)?;
        *gaps = next;
        Ok(())
    }

    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<Gap> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Gap>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(from: Offset, to: Offset, events: u64) -> Gap {
        Gap { from, to, events, at: 1 }
    }

    #[test]
    fn what_follows_on_becomes_one_gap_and_all_of_it_lasts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gaps/bus.jsonl");
        let gaps = Gaps::open(path.clone()).expect("open");
        for (from, to) in [(1, 5), (5, 9), (20, 30)] {
            gaps.add(gap(from, to, to - from)).expect("add");
        }
        let expected = [gap(1, 9, 8), gap(20, 30, 10)];
        assert_eq!(gaps.list(), expected);
        assert_eq!(Gaps::open(path).expect("open").list(), expected);
    }

    #[test]
    fn there_are_never_more_than_so_many_and_none_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let gaps = Gaps::open(folder.path().join("bus.jsonl")).expect("open");
        *gaps.lock() = (0..GAPS_MAX as u64).map(|n| gap(n * 10, n * 10 + 5, 5)).collect();
        let end = GAPS_MAX as u64 * 10;
        gaps.add(gap(end, end + 5, 5)).expect("add");
        let list = gaps.list();
        assert_eq!((list.len(), list[0].clone()), (GAPS_MAX, gap(0, 15, 10)));
        assert_eq!(list.iter().map(|gap| gap.events).sum::<u64>(), 5 * (GAPS_MAX as u64 + 1));
    }
}
