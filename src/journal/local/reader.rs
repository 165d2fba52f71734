//! Reading the journal back from disk, for those that lag behind the tail in memory.

use std::io;
use std::sync::Arc;

use super::Shared;
use super::scan::{Scan, Step};
use super::segments::Segment;
use crate::event::Event;
use crate::journal::{Chunk, Micros, Offset, Stored};

/// Reads from `from`, which is below `head`, at most about `bytes_max` bytes and one segment.
///
/// # Errors
/// The disk's; the same read may be tried again.
pub fn read(shared: &Shared, from: Offset, head: Offset, bytes_max: usize) -> io::Result<Chunk> {
    let first = shared.segments.first_offset();
    if from < first {
        return Ok(Chunk { events: Arc::new([]), next: first, lost: first - from });
    }
    let Some((segment, next_base)) = shared.segments.find(from) else {
        return Ok(Chunk { events: Arc::new([]), next: head, lost: head - from });
    };
    let limit = next_base.unwrap_or(head).min(head);
    let chunk = read_segment(&segment, from, limit, bytes_max)?;
    if chunk.lost > 0 && shared.segments.first_offset() > from {
        // Not damaged: given back, and perhaps used again, while it was being read.
        return read(shared, from, head, bytes_max);
    }
    if chunk.lost > 0 {
        shared.note_damage(chunk.lost);
    }
    Ok(chunk)
}

fn read_segment(segment: &Segment, from: Offset, limit: Offset, bytes_max: usize) -> io::Result<Chunk> {
    let (expected, at) = segment.mark_before(from);
    let mut scan = Scan::new(&segment.file, at, segment.bytes, expected, limit, bytes_max);
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut lost = 0;
    let mut next = from;
    while bytes < bytes_max {
        match scan.step()? {
            Step::Record(record) if record.offset < from => {}
            Step::Record(record) => {
                next = record.offset + 1;
                bytes += record.payload.len();
                match Event::decode(record.payload) {
                    Ok(event) => {
                        events.push(Stored { offset: record.offset, arrived: record.arrived, event })
                    }
                    Err(error) => {
                        tracing::error!(%error, offset = record.offset, "an event in the journal cannot be read");
                        lost += 1;
                    }
                }
            }
            Step::Damage { bytes, lost: gone } => {
                tracing::error!(path = %segment.file.path().display(), from = bytes.start, to = bytes.end,
                    first = gone.start, lost = gone.end - gone.start, "damaged records in the journal; what follows is good");
                lost += gone.end.saturating_sub(gone.start.max(from));
                next = next.max(gone.end);
            }
            Step::End { at, .. } => {
                if scan.expected() < limit {
                    tracing::error!(path = %segment.file.path().display(), at,
                        first = scan.expected(), last = limit - 1, "records are missing at a segment's end");
                    lost += limit - scan.expected().max(from);
                }
                return Ok(Chunk { events: events.into(), next: limit, lost });
            }
        }
    }
    segment.mark(scan.expected(), scan.at());
    Ok(Chunk { events: events.into(), next, lost })
}

/// The first offset whose event arrived at `at` or later; `head` when there is none.
///
/// # Errors
/// The disk's.
pub fn seek(shared: &Shared, at: Micros, head: Offset) -> io::Result<Offset> {
    let Some(segment) = shared.segments.begun_before(at) else { return Ok(head) };
    let mut from = segment.base;
    while from < head {
        let chunk = read(shared, from, head, 1 << 20)?;
        if let Some(found) = chunk.events.iter().find(|stored| stored.arrived >= at) {
            return Ok(found.offset);
        }
        from = chunk.next;
    }
    Ok(head)
}
