//! Files that are open, so that all instances of one sink write to the same ones: a replay runs
//! beside the live flow, and a second opening of a file would meet the first one's lock.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::lines::{Lines, OpenError};

/// A file that several threads may write to, line by line.
pub type SharedLines = Arc<Mutex<Lines>>;

/// By the sink's name and the file's path.
type Open = HashMap<(String, PathBuf), Weak<Mutex<Lines>>>;

static OPEN: LazyLock<Mutex<Open>> = LazyLock::new(Mutex::default);

/// The file of sink `sink` at `path`: as another instance has it open, or newly opened.
///
/// # Errors
/// The opening's. Another sink's file is locked, whether in this process or not.
pub fn open(sink: &str, path: &Path) -> Result<SharedLines, OpenError> {
    let mut all = lock(&OPEN);
    all.retain(|_, lines| lines.strong_count() > 0);
    let key = (sink.to_owned(), path.to_owned());
    if let Some(lines) = all.get(&key).and_then(Weak::upgrade) {
        return Ok(lines);
    }
    let lines = Arc::new(Mutex::new(Lines::open(path)?));
    all.insert(key, Arc::downgrade(&lines));
    Ok(lines)
}

/// What a thread left when it panicked is good: a line is added in one step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sinks_instances_share_and_others_do_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.jsonl");
        let first = open("archive", &path).expect("open");
        let second = open("archive", &path).expect("open again");
        assert!(Arc::ptr_eq(&first, &second));
        assert!(matches!(open("other", &path), Err(OpenError::Locked)));
        drop((first, second));
        open("other", &path).expect("free again");
    }
}
