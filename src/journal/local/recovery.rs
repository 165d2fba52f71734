//! Opening a journal: finding its end, and what the writer must remember.

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{SegmentFile, sync_folder_of};
use super::duplicates::{self, Duplicates};
use super::format::{Record, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::scan::{Scan, Step};
use super::segments::Segment;
use super::spares;
use crate::event::Event;
use crate::journal::{Micros, Offset};

/// How much is read at a time.
const WINDOW_BYTES: usize = 256 << 10;

/// At most this many bytes of older segments are read for the duplicate window, so that a start
/// takes no longer with a long backlog.
const DUPLICATES_BYTES_MAX: u64 = 64 << 20;

/// Why a journal cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another relay runs on the folder.
    Locked(PathBuf),
    /// The folder holds a journal of a later version, or something else.
    Foreign {
        path: PathBuf,
        what: String,
    },
    Io {
        path: PathBuf,
        error: io::Error,
    },
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Locked(path) => write!(
                f,
                "another relay runs on the journal in {}; stop it, or set journal.path to another folder",
                path.display()
            ),
            Self::Foreign { path, what } => write!(f, "{}: {what}", path.display()),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// What is written beside the segments.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Identity {
    pub format: u32,
    pub identity: uuid::Uuid,
}

/// A journal as it was found.
pub struct Found {
    pub segments: VecDeque<Arc<Segment>>,
    /// Where in the last segment the next record goes, and its offset.
    pub at: u64,
    pub next: Offset,
    pub duplicates: Duplicates,
    /// Records that are damaged in the last segment.
    pub damaged: u64,
}

/// Locks the folder against a second relay; the lock lasts as long as the file is open.
///
/// # Errors
/// [`OpenError::Locked`], or the disk's.
pub fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(|error| OpenError::Io { path: path.clone(), error })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::Io { path, error }),
    }
}

/// Reads the journal's identity, or makes one.
///
/// # Errors
/// [`OpenError::Foreign`] when it is a later format's or cannot be read; the disk's.
pub fn identity(folder: &Path) -> Result<uuid::Uuid, OpenError> {
    let path = folder.join("journal.json");
    let io = |error| OpenError::Io { path: path.clone(), error };
    match std::fs::read(&path) {
        Ok(json) => {
            let foreign = |what| OpenError::Foreign { path: path.clone(), what };
            let found: Identity = serde_json::from_slice(&json)
                .map_err(|error| foreign(format!("not a journal's description: {error}")))?;
            if found.format != super::format::VERSION {
                return Err(foreign(format!("format {} is not this relay's", found.format)));
            }
            Ok(found.identity)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = Identity { format: super::format::VERSION, identity: uuid::Uuid::new_v4() };
            let json = serde_json::to_vec(&made).expect("a number and a UUID are JSON");
            let draft = folder.join("journal.json.tmp");
            std::fs::write(&draft, json).map_err(io)?;
            File::open(&draft).and_then(|file| file.sync_all()).map_err(io)?;
            std::fs::rename(&draft, &path).and_then(|()| sync_folder_of(&path)).map_err(io)?;
            Ok(made.identity)
        }
        Err(error) => Err(io(error)),
    }
}

/// The segments' paths by their first offset, oldest first.
///
/// # Errors
/// The disk's.
pub fn list_segments(folder: &Path) -> io::Result<Vec<(Offset, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let base = name.strip_suffix(".seg").filter(|digits| digits.len() == 20);
        if let Some(base) = base.and_then(|digits| digits.parse::<Offset>().ok()) {
            found.push((base, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Finds the journal in `folder`, or begins one. The torn tail of a crash is cut.
///
/// # Errors
/// The disk's.
pub fn find(
    folder: &Path,
    identity: uuid::Uuid,
    segment_bytes: u64,
    window: Micros,
    now: Micros,
) -> Result<Found, OpenError> {
    let io = |error| OpenError::Io { path: folder.to_owned(), error };
    remove_leftovers(folder).map_err(io)?;
    let mut segments = VecDeque::new();
    for (base, path) in list_segments(folder).map_err(io)? {
        let io = |error| OpenError::Io { path: path.clone(), error };
        segments.push_back(Arc::new(open_segment(base, &path, now).map_err(io)?));
    }
    if segments.is_empty() {
        let first = spares::first(folder, *identity.as_bytes(), segment_bytes, now).map_err(io)?;
        segments.push_back(Arc::new(first));
    }
    // A segment's records are all older than the next segment.
    for (older, newer) in segments.iter().zip(segments.iter().skip(1)) {
        older.set_newest(newer.created);
    }
    let last = segments.back().cloned().expect("there is a segment by now");
    let mut memory = Memory { duplicates: Duplicates::new(window), since: now.saturating_sub(window) };
    remember(&segments, &mut memory).map_err(io)?;
    let end = find_end(&last, &mut memory).map_err(io)?;
    let Memory { duplicates, .. } = memory;
    Ok(Found { segments, at: end.at, next: end.next, duplicates, damaged: end.damaged })
}

/// Removes what a crash left half made, and spares: they are made again when needed.
fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(spares::SPARE) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_segment(base: Offset, path: &Path, now: Micros) -> io::Result<Segment> {
    let file = SegmentFile::open(path)?;
    let header = SegmentHeader::decode(&file.read(0, SEGMENT_HEADER_BYTES as usize)?);
    if header.is_none_or(|header| header.base != base) {
        // The name says enough: nothing else of the header is needed to read the records.
        tracing::error!(path = %path.display(), "a segment's header is damaged; its records are read all the same");
    }
    let bytes = file.size()?;
    Ok(Segment::new(base, header.map_or(now, |header| header.created), bytes, file))
}

struct End {
    at: u64,
    next: Offset,
    damaged: u64,
}

/// The duplicate window as it fills, oldest first.
struct Memory {
    duplicates: Duplicates,
    /// Where the window begins.
    since: Micros,
}

impl Memory {
    /// Notes where the record stands, for readers, and that its event has come.
    fn note(&mut self, record: &Record, segment: &Segment) {
        segment.set_newest(record.arrived);
        if record.at % (256 << 10) < record.next_at - record.at {
            segment.mark(record.offset, record.at);
        }
        if record.arrived < self.since {
            return;
        }
        if let Some(key) = Event::decode(record.payload.clone()).ok().as_ref().and_then(duplicates::key) {
            self.duplicates.insert(key, record.arrived);
        }
    }
}

/// Walks through the last segment to its end, notes its events, and cuts a torn tail.
fn find_end(last: &Segment, memory: &mut Memory) -> io::Result<End> {
    let mut damaged = 0;
    let mut scan =
        Scan::new(&last.file, SEGMENT_HEADER_BYTES, last.bytes, last.base, Offset::MAX, WINDOW_BYTES);
    loop {
        match scan.step()? {
            Step::Record(record) => memory.note(&record, last),
            Step::Damage { bytes, lost } => {
                damaged += lost.end - lost.start;
                tracing::error!(path = %last.file.path().display(), from = bytes.start, to = bytes.end,
                    first = lost.start, lost = lost.end - lost.start, "damaged records in the journal; what follows is good");
            }
            Step::End { at, torn } => {
                if torn {
                    tracing::warn!(path = %last.file.path().display(), at,
                        offset = scan.expected(), "the journal's torn tail is cut; nothing in it was acknowledged");
                    last.file.zero(at, (at + 4096).min(last.bytes))?;
                    last.file.sync()?;
                }
                return Ok(End { at, next: scan.expected(), damaged });
            }
        }
    }
}

/// Notes the events of the segments before the last, as far as the window and
/// [`DUPLICATES_BYTES_MAX`] reach back.
fn remember(segments: &VecDeque<Arc<Segment>>, memory: &mut Memory) -> io::Result<()> {
    let mut bytes = 0;
    let newest_first = segments.iter().rev().zip(segments.iter().rev().skip(1));
    let within = newest_first.take_while(|(newer, older)| {
        bytes += older.bytes;
        bytes <= DUPLICATES_BYTES_MAX && newer.created >= memory.since
    });
    let within: Vec<_> = within.collect();
    for (newer, older) in within.into_iter().rev() {
        let mut scan =
            Scan::new(&older.file, SEGMENT_HEADER_BYTES, older.bytes, older.base, newer.base, WINDOW_BYTES);
        loop {
            match scan.step()? {
                Step::Record(record) => memory.note(&record, older),
                Step::Damage { .. } => {}
                Step::End { .. } => break,
            }
        }
    }
    Ok(())
}
