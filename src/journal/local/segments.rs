//! The segments of a journal, in order, and where in them a record stands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::disk::SegmentFile;
use super::format::SEGMENT_HEADER_BYTES;
use crate::journal::{Micros, Offset};

/// How many known positions a segment keeps.
const MARKS_MAX: usize = 1024;

/// One segment.
#[derive(Debug)]
pub struct Segment {
    pub base: Offset,
    pub created: Micros,
    /// Its size on disk.
    pub bytes: u64,
    pub file: SegmentFile,
    /// When its newest record arrived, as far as known: retention counts from it.
    newest: AtomicI64,
    /// Where some of its records stand, noted as they are written and read.
    marks: Mutex<BTreeMap<Offset, u64>>,
}

impl Segment {
    pub fn new(base: Offset, created: Micros, bytes: u64, file: SegmentFile) -> Self {
        let marks = BTreeMap::from([(base, SEGMENT_HEADER_BYTES)]);
        Self { base, created, bytes, file, newest: AtomicI64::new(created), marks: Mutex::new(marks) }
    }

    /// The nearest known position at or before `offset`.
    pub fn mark_before(&self, offset: Offset) -> (Offset, u64) {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.range(..=offset).next_back().map_or((self.base, SEGMENT_HEADER_BYTES), |(o, at)| (*o, *at))
    }

    /// The last known position: about where the records end.
    fn end(&self) -> u64 {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.values().next_back().copied().unwrap_or(SEGMENT_HEADER_BYTES)
    }

    /// The last record that is known to begin at `at` or before.
    fn offset_at(&self, at: u64) -> Offset {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.iter().rev().find(|(_, known)| **known <= at).map_or(self.base, |(offset, _)| *offset)
    }

    /// Notes that the record `offset` stands, or would stand, at `at`.
    pub fn mark(&self, offset: Offset, at: u64) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() >= MARKS_MAX {
            let mut keep = false; // every other one: as good everywhere, half as fine
            marks.retain(|_, at| {
                keep = !keep;
                keep || *at == SEGMENT_HEADER_BYTES
            });
        }
        marks.insert(offset, at);
    }

    pub fn newest(&self) -> Micros {
        self.newest.load(Ordering::Relaxed)
    }

    pub fn set_newest(&self, at: Micros) {
        self.newest.fetch_max(at, Ordering::Relaxed);
    }
}

/// All segments, the oldest first; the last one is being written.
#[derive(Debug, Default)]
pub struct Segments {
    list: RwLock<VecDeque<Arc<Segment>>>,
}

impl Segments {
    pub fn new(list: VecDeque<Arc<Segment>>) -> Self {
        Self { list: RwLock::new(list) }
    }

    pub fn push(&self, segment: Arc<Segment>) {
        self.write().push_back(segment);
    }

    /// Puts `segment` in the last one's place.
    pub fn replace_last(&self, segment: Arc<Segment>) {
        let mut list = self.write();
        list.pop_back();
        list.push_back(segment);
    }

    /// Takes the oldest `count` segments out, but never the last.
    pub fn drop_oldest(&self, count: usize) -> Vec<Arc<Segment>> {
        let mut list = self.write();
        let count = count.min(list.len().saturating_sub(1));
        list.drain(..count).collect()
    }

    /// The segment that holds `offset`, and the first offset of the next one.
    pub fn find(&self, offset: Offset) -> Option<(Arc<Segment>, Option<Offset>)> {
        let list = self.read();
        let index = list.partition_point(|segment| segment.base <= offset).checked_sub(1)?;
        Some((list[index].clone(), list.get(index + 1).map(|next| next.base)))
    }

    /// The oldest offset there is.
    pub fn first_offset(&self) -> Offset {
        self.read().front().map_or(1, |segment| segment.base)
    }

    /// The last segment that was begun at `at` or before, else the first.
    pub fn begun_before(&self, at: Micros) -> Option<Arc<Segment>> {
        let list = self.read();
        list.iter().rev().find(|segment| segment.created <= at).or(list.front()).cloned()
    }

    /// The last known offset with at least `bytes` bytes behind it; the oldest if there are fewer.
    pub fn offset_behind(&self, bytes: u64) -> Offset {
        let list = self.read();
        let mut left = bytes;
        for (back, segment) in list.iter().rev().enumerate() {
            // Of the one being written, only what is written counts.
            let end = if back == 0 { segment.end() } else { segment.bytes };
            match end.checked_sub(left) {
                Some(at) if at >= SEGMENT_HEADER_BYTES => return segment.offset_at(at),
                _ => left = left.saturating_sub(end - SEGMENT_HEADER_BYTES.min(end)),
            }
        }
        list.front().map_or(1, |segment| segment.base)
    }

    pub fn len(&self) -> usize {
        self.read().len()
    }

    pub fn bytes(&self) -> u64 {
        self.read().iter().map(|segment| segment.bytes).sum()
    }

    /// How many of the oldest segments nobody needs: every record below `cursor`, and older than
    /// `retention` at `now` (which `None` leaves out of account).
    pub fn expendable(&self, cursor: Offset, retention: Option<Micros>, now: Micros) -> usize {
        let list = self.read();
        let ends = list.iter().skip(1).map(|next| next.base);
        list.iter()
            .zip(ends)
            .take_while(|(segment, end)| {
                *end <= cursor && retention.is_none_or(|retention| now - segment.newest() > retention)
            })
            .count()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, VecDeque<Arc<Segment>>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, VecDeque<Arc<Segment>>> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }
}
