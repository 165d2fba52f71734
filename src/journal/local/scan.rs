//! Walks through a segment's records, around damage.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::disk::SegmentFile;
use super::format::{ALIGN, RECORD_HEADER_BYTES, Record, RecordHeader, record_bytes};
use crate::journal::Offset;

/// The smallest record, in bytes: bounds how many can be lost in a damaged stretch.
const RECORD_BYTES_MIN: u64 = 32;

/// What zeros are compared with: nearly all of a fresh segment is zeros, and going through them byte by
/// byte made a start take seconds in a build without optimisation.
const ZEROS: [u8; 4096] = [0; 4096];

/// What stands next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Record(Record),
    /// Bytes that hold no valid record, with a valid one behind them.
    Damage {
        bytes: Range<u64>,
        lost: Range<Offset>,
    },
    /// Nothing more. `torn`: a record was begun at `at` and is not whole.
    End {
        at: u64,
        torn: bool,
    },
}

/// What can be walked through: a segment's file, or its bytes.
pub trait ReadAt {
    /// At most `len` bytes from byte `at`; fewer where it ends.
    ///
    /// # Errors
    /// The disk's.
    fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes>;
}

impl ReadAt for SegmentFile {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        self.read(at, len)
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(self.len());
        Ok(self.slice(start..self.len().min(start.saturating_add(len))))
    }
}

/// A walk. Holds at most about `window_bytes` (or one record) of the file in memory.
pub struct Scan<'f, F: ReadAt = SegmentFile> {
    file: &'f F,
    at: u64,
    end: u64,
    expected: Offset,
    limit: Offset,
    window_bytes: usize,
    window: Bytes,
    window_at: u64,
}

impl<'f, F: ReadAt> Scan<'f, F> {
    /// Walks from byte `at`, where the record `expected` should stand, to byte `end`; no offset of
    /// the segment reaches `limit`.
    pub fn new(file: &'f F, at: u64, end: u64, expected: Offset, limit: Offset, window_bytes: usize) -> Self {
        Self { file, at, end, expected, limit, window_bytes, window: Bytes::new(), window_at: at }
    }

    /// The offset that is expected next.
    pub fn expected(&self) -> Offset {
        self.expected
    }

    /// Where the walk stands in the file.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// # Errors
    /// What the file says; the walk may be tried again.
    pub fn step(&mut self) -> io::Result<Step> {
        if self.expected >= self.limit {
            return Ok(Step::End { at: self.at, torn: false });
        }
        if let Some(record) = self.record_at(self.at, self.expected..self.expected + 1)? {
            return Ok(Step::Record(self.accept(record)));
        }
        self.resync()
    }

    fn accept(&mut self, record: Record) -> Record {
        self.at = record.next_at;
        self.expected = record.offset + 1;
        record
    }

    /// Looks for a later record behind an invalid one.
    fn resync(&mut self) -> io::Result<Step> {
        let damaged_at = self.at;
        let torn = self.is_begun(damaged_at)?;
        let mut at = damaged_at + ALIGN as u64;
        while at + RECORD_HEADER_BYTES as u64 <= self.end {
            if let Some(past) = self.past_zeros(at)? {
                at = past;
                continue;
            }
            let lost_max = (at - damaged_at) / RECORD_BYTES_MIN + 1;
            let candidates = self.expected..self.limit.min(self.expected.saturating_add(lost_max + 1));
            if let Some(record) = self.record_at(at, candidates)? {
                let step = Step::Damage { bytes: damaged_at..at, lost: self.expected..record.offset };
                self.at = at;
                self.expected = record.offset;
                return Ok(step);
            }
            at += ALIGN as u64;
        }
        Ok(Step::End { at: damaged_at, torn })
    }

    /// Where the zeros end that stand at `at`, as far as the window shows; `None` when there is
    /// another byte among a record's first. No record begins with zeros: its length is not 0.
    fn past_zeros(&mut self, at: u64) -> io::Result<Option<u64>> {
        self.bytes(at, RECORD_HEADER_BYTES)?;
        let start = at.saturating_sub(self.window_at) as usize;
        let window = &self.window[start.min(self.window.len())..];
        let blocks = window.chunks_exact(ZEROS.len()).take_while(|block| *block == ZEROS).count();
        let blocks = blocks * ZEROS.len();
        let zeros = blocks + window[blocks..].iter().take_while(|&&byte| byte == 0).count();
        let steps = zeros / ALIGN;
        Ok((steps > 0).then(|| at + (steps * ALIGN) as u64))
    }

    /// Whether the bytes at `at` claim to be the record that is expected.
    fn is_begun(&mut self, at: u64) -> io::Result<bool> {
        let Some(head) = self.bytes(at, RECORD_HEADER_BYTES)? else { return Ok(false) };
        Ok(RecordHeader::decode(&head).is_some_and(|header| header.offset == self.expected))
    }

    /// The valid record at `at`, if its offset is among `candidates`.
    fn record_at(&mut self, at: u64, candidates: Range<Offset>) -> io::Result<Option<Record>> {
        let Some(head) = self.bytes(at, RECORD_HEADER_BYTES)? else { return Ok(None) };
        let Some(header) = RecordHeader::decode(&head) else { return Ok(None) };
        if !candidates.contains(&header.offset) {
            return Ok(None);
        }
        let Some(record) = self.bytes(at, RECORD_HEADER_BYTES + header.len)? else { return Ok(None) };
        if !header.fits(&record) {
            return Ok(None);
        }
        Ok(Some(Record {
            offset: header.offset,
            arrived: header.arrived,
            payload: record.slice(RECORD_HEADER_BYTES..),
            at,
            next_at: at + record_bytes(header.len) as u64,
        }))
    }

    /// `len` bytes of the file from `at`; `None` when the walk's end comes before.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<Option<Bytes>> {
        if at + len as u64 > self.end {
            return Ok(None);
        }
        let inside = at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let want = (len.max(self.window_bytes) as u64).min(self.end - at);
            self.window = self.file.read_at(at, want as usize)?;
            self.window_at = at;
            if self.window.len() < len {
                return Ok(None); // the file is shorter than it should be
            }
        }
        let start = (at - self.window_at) as usize;
        Ok(Some(self.window.slice(start..start + len)))
    }
}
