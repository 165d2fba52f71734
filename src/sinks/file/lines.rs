//! One file of lines: opened for us alone, its end mended, appended to, set aside.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::Rotate;

/// How much is gathered before it is written, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// A file of lines, locked (`flock`) so that no other sink and no other relay writes into it.
pub struct Lines {
    path: PathBuf,
    file: File,
    /// Lines not yet written.
    buffer: Vec<u8>,
    /// The file's length without the buffer.
    len: u64,
    /// The file's length when it was last made durable, or opened.
    synced: u64,
    /// How often what was added was taken out again.
    failures: u64,
    /// Something behind `len` is still to be cut off.
    is_torn: bool,
    born: SystemTime,
    /// Written or made since the last [`Lines::sync`].
    dirty: bool,
    is_new: bool,
    #[cfg(test)]
    fails_next_sync: bool,
}

/// Why a file could not be opened.
#[derive(Debug)]
pub enum OpenError {
    Io(io::Error),
    /// Another sink, or another relay, has it.
    Locked,
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Lines {
    /// Opens or makes the file, with the folders above it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let open = || OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(path))?;
                open()?
            }
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let metadata = file.metadata()?;
        let mut lines = Self {
            path: path.to_owned(),
            file,
            buffer: Vec::new(),
            len: metadata.len(),
            synced: 0,
            failures: 0,
            is_torn: false,
            // Not every file system knows when a file was made.
            born: metadata.created().or_else(|_| metadata.modified())?,
            dirty: false,
            is_new: metadata.len() == 0,
            #[cfg(test)]
            fails_next_sync: false,
        };
        lines.mend()?;
        lines.synced = lines.len;
        Ok(lines)
    }

    /// Opens what stands at the path now, in place of this.
    pub fn reopen(&mut self) -> Result<(), OpenError> {
        *self = Self { failures: self.failures, ..Self::open(&self.path)? };
        Ok(())
    }

    /// Ends the last line, should a crash have torn it. A whole event gets its line's end; part of
    /// one is cut off: it was never confirmed, so it comes again.
    fn mend(&mut self) -> io::Result<()> {
        let tail = self.last_line()?;
        if tail.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        if serde_json::from_slice::<serde::de::IgnoredAny>(&tail).is_ok() {
            self.file.write_all(b"\n")?;
            self.len += 1;
        } else {
            self.len -= tail.len() as u64;
            self.file.set_len(self.len)?;
            warn!(path = %self.path.display(), bytes = tail.len(), "cut off a line torn by a crash");
        }
        Ok(())
    }

    /// What stands behind the last line's end.
    fn last_line(&mut self) -> io::Result<Vec<u8>> {
        let mut start = self.len;
        let mut tail = Vec::new();
        while start > 0 {
            let take = start.min(64 * 1024);
            start -= take;
            let mut part = vec![0; take as usize];
            self.file.seek(SeekFrom::Start(start))?;
            self.file.read_exact(&mut part)?;
            let line_end = part.iter().rposition(|&byte| byte == b'\n');
            part.extend_from_slice(&tail);
            if let Some(at) = line_end {
                return Ok(part.split_off(at + 1));
            }
            tail = part;
        }
        Ok(tail)
    }

    /// Whether the file that is open still stands at its path: an operator, or `logrotate`, may have
    /// moved or deleted it.
    pub fn is_in_place(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it is to be set aside before a line of `bytes` is added.
    pub fn is_due(&self, rotate: &Rotate, bytes: usize, now: SystemTime) -> bool {
        let age = now.duration_since(self.born).unwrap_or(Duration::ZERO);
        rotate.is_due(self.len + self.buffer.len() as u64, bytes as u64, age)
    }

    /// Adds a line; `line` has no end of its own. It is written when the buffer is full, or by
    /// [`Lines::sync`].
    ///
    /// # Errors
    /// Whatever was added since the last sync is taken out again.
    pub fn push(&mut self, line: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        let written = self.write();
        written.inspect_err(|_| self.take_back())
    }

    /// Writes and makes durable all that was pushed, and the file's name if it is new.
    ///
    /// # Errors
    /// As for [`Lines::push`].
    pub fn sync(&mut self) -> io::Result<()> {
        let synced = self.write().and_then(|()| self.make_durable());
        synced.inspect_err(|_| self.take_back())
    }

    /// How often something was taken out again: by it, each of several that add to this file sees
    /// whether what it added is still there.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Writes what is in the buffer.
    fn write(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.cut()?;
            self.is_torn = false;
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        self.file.write_all(&self.buffer)?;
        self.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    #[cfg(test)]
    pub fn fail_next_sync(&mut self) {
        self.fails_next_sync = true;
    }

    fn make_durable(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if std::mem::take(&mut self.fails_next_sync) {
            return Err(io::Error::other("a disk that fails"));
        }
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        if self.is_new {
            sync_folders(&self.path)?;
            self.is_new = false;
        }
        self.synced = self.len;
        Ok(())
    }

    /// Takes out what was added since the last sync: a part of a line may have gone in, and Linux tells
    /// only once what the disk did not take. A second `fdatasync` would say that all is well.
    fn take_back(&mut self) {
        self.failures += 1;
        self.buffer.clear();
        self.len = self.synced;
        self.dirty = true;
        // Should this fail as well, it is done before the next write, or by `mend` at the next opening.
        self.is_torn = self.cut().is_err();
    }

    /// Cuts off what is behind `len`; never lengthens a file that somebody else has shortened.
    fn cut(&self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.len { self.file.set_len(self.len) } else { Ok(()) }
    }

    /// Sets the file aside, under its name and the time, and deletes those set aside beyond `keep`.
    /// What it holds is durable before it goes; what is added from then on goes after it.
    pub fn set_aside(&mut self, keep: Option<usize>, now: SystemTime) -> io::Result<()> {
        self.sync()?;
        let to = aside_name(&self.path, now)?;
        fs::rename(&self.path, &to)?;
        sync_folders(&self.path)?;
        info!(path = %self.path.display(), to = %to.display(), bytes = self.len, "rotated");
        let Some(keep) = keep else { return Ok(()) };
        let aside = all_aside(&self.path)?;
        for old in &aside[..aside.len().saturating_sub(keep)] {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// Makes the names in a file's folder durable, and the folder's own name in the one above it.
fn sync_folders(path: &Path) -> io::Result<()> {
    for folder in path.ancestors().skip(1).take(2) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// `push.jsonl` becomes `push.jsonl.20261124T065800.123Z`: names set aside sort by time.
fn aside_name(path: &Path, now: SystemTime) -> io::Result<PathBuf> {
    let time = jiff::Timestamp::try_from(now).map_err(io::Error::other)?;
    let stem = format!("{}.{}", path.display(), time.strftime("%Y%m%dT%H%M%S%.3fZ"));
    let numbered = |n: u32| if n == 0 { stem.clone() } else { format!("{stem}-{n:03}") };
    for n in 0..1000 {
        let name = PathBuf::from(numbered(n));
        if !name.try_exists()? {
            return Ok(name);
        }
    }
    Err(io::Error::other("a thousand files set aside in one millisecond"))
}

/// What was set aside of `path`, oldest first.
fn all_aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = path.file_name().map(|name| format!("{}.", name.to_string_lossy())).unwrap_or_default();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().strip_prefix(&prefix).is_some_and(is_time) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name's end is one that [`aside_name`] makes: nobody else's files are deleted.
fn is_time(end: &str) -> bool {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let (time, number) = end.split_once("Z-").or(end.split_once('Z')).unwrap_or_default();
    let (date, time) = time.split_once('T').unwrap_or_default();
    let (time, millis) = time.split_once('.').unwrap_or_default();
    digits(date, 8) && digits(time, 6) && digits(millis, 3) && (number.is_empty() || digits(number, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).expect("the file")
    }

    #[test]
    fn mends_a_torn_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.jsonl");
        let long = format!("{{\"a\":\"{}", "x".repeat(200_000));
        for (before, after) in [
            ("", ""),
            ("{\"a\":1}\n", "{\"a\":1}\n"),
            ("{\"a\":1}\n{\"a\":2}", "{\"a\":1}\n{\"a\":2}\n"),
            ("{\"a\":1}\n{\"a\":", "{\"a\":1}\n"),
            ("{\"a\":", ""),
            (&format!("{{}}\n{long}"), "{}\n"),
            (&long, ""),
        ] {
            fs::write(&path, before).expect("write");
            let mut lines = Lines::open(&path).expect("open");
            lines.push(b"{}").and_then(|()| lines.sync()).expect("append");
            assert_eq!(read(&path), format!("{after}{{}}\n"));
        }
    }

    #[test]
    fn one_writer_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/below/a.jsonl");
        let first = Lines::open(&path).expect("open");
        assert!(matches!(Lines::open(&path), Err(OpenError::Locked)));
        drop(first);
        Lines::open(&path).expect("open again");
    }

    #[test]
    fn sees_that_it_was_moved() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.jsonl");
        let lines = Lines::open(&path).expect("open");
        assert!(lines.is_in_place().expect("look"));
        fs::rename(&path, folder.path().join("b")).expect("move");
        assert!(!lines.is_in_place().expect("look"));
        fs::write(&path, "").expect("another");
        assert!(!lines.is_in_place().expect("look"));
    }

    #[test]
    fn keeps_so_many_and_touches_nobody_elses() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.jsonl");
        let others = ["a.jsonl.bak", "a.jsonl.20261124", "aa.jsonl.20261124T065800.123Z"];
        for other in others {
            fs::write(folder.path().join(other), "").expect("write");
        }
        for round in 0..5 {
            let mut lines = Lines::open(&path).expect("open");
            lines.push(format!("{round}").as_bytes()).expect("append");
            // Twice at the same time: names must still differ.
            lines.set_aside(Some(3), at(1_764_000_000 + round / 2)).expect("set aside");
        }
        let aside = all_aside(&path).expect("list");
        let contents: Vec<_> = aside.iter().map(|path| read(path)).collect();
        assert_eq!(contents, ["2\n", "3\n", "4\n"]);
        assert!(others.iter().all(|other| folder.path().join(other).exists()));
        assert!(!path.exists());
    }
}
