//! The newest events, kept in memory: who keeps up with the journal never reads the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::{Chunk, Offset, Stored};

/// How much is kept, in bytes of events, and in batches.
const TAIL_BYTES_MAX: usize = 8 << 20;
const TAIL_BATCHES_MAX: usize = 16_384;

#[derive(Debug, Default)]
struct Batches {
    batches: VecDeque<Arc<[Stored]>>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub struct Tail {
    batches: Mutex<Batches>,
}

impl Tail {
    /// Adds a batch that has just become durable.
    pub fn push(&self, batch: Arc<[Stored]>) {
        let mut tail = self.lock();
        tail.bytes += weight(&batch);
        tail.batches.push_back(batch);
        while (tail.bytes > TAIL_BYTES_MAX || tail.batches.len() > TAIL_BATCHES_MAX) && tail.batches.len() > 1
        {
            if let Some(oldest) = tail.batches.pop_front() {
                tail.bytes -= weight(&oldest);
            }
        }
    }

    /// What is kept from `from` on: at most about `bytes_max` bytes, or one batch.
    pub fn read(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        let tail = self.lock();
        let index = tail.batches.partition_point(|batch| batch[batch.len() - 1].offset < from);
        let first = tail.batches.get(index)?;
        if first[0].offset > from {
            return None; // older than what is kept
        }
        let skip = first.partition_point(|stored| stored.offset < from);
        let single = tail.batches.get(index + 1).is_none_or(|next| weight(first) + weight(next) > bytes_max);
        if skip == 0 && single {
            return Some(chunk(first.clone()));
        }
        let mut events = first[skip..].to_vec();
        let mut bytes = weight(&events);
        for batch in tail.batches.iter().skip(index + 1) {
            bytes += weight(batch);
            if bytes > bytes_max {
                break;
            }
            events.extend_from_slice(batch);
        }
        Some(chunk(events.into()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chunk(events: Arc<[Stored]>) -> Chunk {
    let next = events[events.len() - 1].offset + 1;
    Chunk { events, next, lost: 0 }
}

fn weight(events: &[Stored]) -> usize {
    events.iter().map(|stored| stored.event.weight()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn batch(offsets: std::ops::Range<Offset>, bytes: usize) -> Arc<[Stored]> {
        let json = format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes));
        let event = Event::parse(json.into()).expect("an event");
        offsets.map(|offset| Stored { offset, arrived: 0, event: event.clone() }).collect()
    }

    fn offsets(chunk: Option<Chunk>) -> Vec<Offset> {
        chunk.map(|chunk| chunk.events.iter().map(|stored| stored.offset).collect()).unwrap_or_default()
    }

    #[test]
    fn reads_from_any_offset_and_joins_small_batches() {
        let tail = Tail::default();
        tail.push(batch(1..4, 10));
        tail.push(batch(4..5, 10));
        assert_eq!(offsets(tail.read(1, 1 << 20)), [1, 2, 3, 4]);
        assert_eq!(offsets(tail.read(3, 1 << 20)), [3, 4]);
        assert_eq!(offsets(tail.read(1, 1)), [1, 2, 3]);
        assert!(tail.read(5, 1).is_none());
    }

    #[test]
    fn is_bounded() {
        let tail = Tail::default();
        for offset in 1..40 {
            tail.push(batch(offset..offset + 1, 1 << 20));
        }
        assert!(tail.read(1, 1).is_none());
        assert!(tail.lock().bytes <= TAIL_BYTES_MAX);
        assert_eq!(offsets(tail.read(39, 1)), [39]);
    }
}
