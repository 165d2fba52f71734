//! The one thread that writes: it groups all that wait into one write and one `fdatasync`.
//!
//! It never waits for company: what is there when it looks is a batch. While the disk is busy with
//! one batch the next gathers by itself, so that batches grow with the load and with the disk's
//! latency, and a single sender gets one write and one sync an event.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::duplicates::{self, Duplicates};
use super::format::{SEGMENT_HEADER_BYTES, encode_record, record_bytes};
use super::segments::Segment;
use super::spares::Spares;
use crate::event::Event;
use crate::journal::{AppendError, Appended, Micros, Offset, Stored};

/// One batch takes at most about this many bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// What the writer is asked to do.
pub enum Command {
    Append {
        events: Vec<Event>,
        /// Of each event.
        keys: Vec<Option<duplicates::Key>>,
        arrived: Micros,
        since: Instant,
        reply: oneshot::Sender<Result<Appended, AppendError>>,
    },
    /// Give back what nobody needs any more.
    Trim { now: Micros },
}

/// A request whose events stand in the batch, waiting for its sync.
struct Waiting {
    reply: oneshot::Sender<Result<Appended, AppendError>>,
    appended: Appended,
    since: Instant,
}

/// An event of the batch: where its stored form stands in the buffer.
struct Placed {
    offset: Offset,
    arrived: Micros,
    event: Event,
    payload: std::ops::Range<usize>,
}

pub struct Writer {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    duplicates: Duplicates,
    spares: Spares,
    segment: Arc<Segment>,
    /// Where in the segment the next batch goes, and the next record's offset.
    at: u64,
    next: Offset,
    buffer: Vec<u8>,
    placed: Vec<Placed>,
    waiting: Vec<Waiting>,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        duplicates: Duplicates,
        spares: Spares,
        segment: Arc<Segment>,
        at: u64,
        next: Offset,
    ) -> Self {
        Self {
            shared,
            commands,
            duplicates,
            spares,
            segment,
            at,
            next,
            buffer: Vec::new(),
            placed: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Runs until every sender of commands is gone.
    pub fn run(mut self) {
        self.want_spare(self.shared.segments.bytes());
        while let Some(command) = self.commands.blocking_recv() {
            self.take(command);
            while self.buffer.len() < BATCH_BYTES_MAX {
                match self.commands.try_recv() {
                    Ok(command) => self.take(command),
                    Err(_) => break,
                }
            }
            self.commit();
        }
        self.shared.close();
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Append { events, keys, arrived, since, reply } => {
                match self.gather(events, keys, arrived) {
                    Ok(appended) => self.waiting.push(Waiting { reply, appended, since }),
                    // The caller may have gone; then nobody wants to know.
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Trim { now } => {
                self.trim(Some(self.shared.options.retention), now, 0);
                self.reconsider(now);
            }
        }
    }

    /// Puts a request's new events into the batch, all of them or none.
    fn gather(
        &mut self,
        events: Vec<Event>,
        keys: Vec<Option<duplicates::Key>>,
        arrived: Micros,
    ) -> Result<Appended, AppendError> {
        if let Some(error) = self.shared.failure() {
            return Err(error);
        }
        self.duplicates.expire(arrived);
        let mut bytes = events.iter().map(|event| record_bytes(event.encoded_len())).sum();
        if !self.has_room(bytes) {
            // Only what is new needs any: second copies are answered in a full journal too.
            let is_new = |key: &Option<_>| key.is_none_or(|key| !self.duplicates.contains(key));
            let fresh = events.iter().zip(&keys).filter(|(_, key)| is_new(key));
            bytes = fresh.map(|(event, _)| record_bytes(event.encoded_len())).sum();
            self.make_room(bytes, arrived)?;
        }
        self.buffer.reserve(bytes);

        let mut appended = Appended::default();
        for (event, key) in events.into_iter().zip(keys) {
            if key.is_some_and(|key| !self.duplicates.insert(key, arrived)) {
                appended.duplicates += 1;
                continue;
            }
            let offset = self.next + self.placed.len() as Offset;
            let payload = encode_record(&mut self.buffer, offset, arrived, |out| event.encode(out));
            self.placed.push(Placed { offset, arrived, event, payload });
            appended.accepted += 1;
        }
        Ok(appended)
    }

    /// Whether `bytes` more fit behind the batch.
    fn has_room(&self, bytes: usize) -> bool {
        let used = self.at + self.buffer.len() as u64;
        bytes == 0 || used + bytes as u64 <= self.segment.bytes
    }

    /// Makes sure that `bytes` more fit behind the batch, in one segment: a request is never torn
    /// across two.
    fn make_room(&mut self, bytes: usize, now: Micros) -> Result<(), AppendError> {
        if self.has_room(bytes) {
            return Ok(());
        }
        self.commit();
        if let Some(error) = self.shared.failure() {
            return Err(error);
        }
        let rolled = self.roll(bytes as u64, now);
        self.shared.set_refused(rolled.as_ref().err());
        rolled
    }

    /// Begins a segment that has room for `bytes`.
    fn roll(&mut self, bytes: u64, now: Micros) -> Result<(), AppendError> {
        if self.at == SEGMENT_HEADER_BYTES && bytes + SEGMENT_HEADER_BYTES <= self.segment.bytes {
            return Ok(()); // still empty
        }
        let segment_bytes = self.shared.options.segment_bytes;
        let size = segment_bytes.max(bytes + SEGMENT_HEADER_BYTES);
        self.trim(None, now, size);
        let (total, bytes_max) = (self.shared.segments.bytes(), self.shared.options.bytes_max);
        if total + size > bytes_max {
            return Err(AppendError::Full { held_by: self.shared.holder() });
        }
        let segment = self.spares.begin(size, self.next, now).map_err(|error| {
            tracing::error!(%error, "no room on disk for a further segment of the journal");
            AppendError::NoSpace(error.to_string())
        })?;
        let segment = Arc::new(segment);
        self.want_spare(total + size);
        if self.segment.base == segment.base {
            // The last one was empty and too small; the new one has taken its name and its file's place.
            self.shared.segments.replace_last(segment.clone());
        } else {
            self.segment.set_newest(now);
            self.shared.segments.push(segment.clone());
        }
        self.segment = segment;
        self.at = SEGMENT_HEADER_BYTES;
        Ok(())
    }

    /// Has a further segment made in advance, where it may be used: it counts as the journal's.
    fn want_spare(&self, total: u64) {
        let options = &self.shared.options;
        if total + options.segment_bytes <= options.bytes_max {
            self.spares.want();
        }
    }

    /// Gives back the segments that nobody needs: those older than `retention`, or, when it is
    /// `None`, as many as it takes to fit `needed` further bytes under the limit.
    fn trim(&mut self, retention: Option<Micros>, now: Micros, needed: u64) {
        let cursor = self.shared.cursors.slowest().map_or(self.next, |(_, cursor)| cursor);
        loop {
            let over = self.shared.segments.bytes() + needed > self.shared.options.bytes_max;
            if retention.is_none() && !over {
                return;
            }
            if self.shared.segments.expendable(cursor, retention, now) == 0 {
                return;
            }
            for segment in self.shared.segments.drop_oldest(1) {
                tracing::debug!(first = segment.base, "a segment of the journal is given back");
                self.spares.recycle(segment);
            }
        }
    }

    /// After a refusal: whether there is room again. Whoever sends elsewhere while the relay is not
    /// ready would else never find out.
    fn reconsider(&mut self, now: Micros) {
        if self.shared.refused().is_none() {
            return;
        }
        let needed = self.shared.options.segment_bytes;
        self.trim(None, now, needed);
        if self.shared.segments.bytes() + needed <= self.shared.options.bytes_max {
            self.shared.set_refused(None);
        }
    }

    /// Writes and syncs the batch, answers everybody in it, and wakes the readers. Whoever has an
    /// answer can read what it was given for; but nobody is woken before the answers are out.
    fn commit(&mut self) {
        let published = !self.placed.is_empty();
        if published {
            let buffer = std::mem::take(&mut self.buffer);
            if let Err(error) = self.write_durably(&buffer) {
                self.fail(&error);
                return;
            }
            self.publish(buffer.into());
        }
        let now = Instant::now();
        for Waiting { reply, appended, since } in self.waiting.drain(..) {
            let took = now.saturating_duration_since(since);
            self.shared.metrics.journal_append_seconds.observe(took.as_secs_f64());
            drop(reply.send(Ok(appended))); // as above
        }
        if published {
            self.shared.head.send_modify(|_| {});
            self.duplicates.trim(); // nobody waits for this
        }
    }

    fn write_durably(&self, buffer: &[u8]) -> std::io::Result<()> {
        self.shared.disk.write(&self.segment.file, self.at, buffer)?;
        let before = Instant::now();
        self.shared.disk.sync(&self.segment.file)?;
        self.shared.metrics.journal_fsync_seconds.observe(before.elapsed().as_secs_f64());
        Ok(())
    }

    /// The batch is durable: readers may have it, once they look. Its events now share the buffer that was
    /// written, so that the requests' bodies can go.
    fn publish(&mut self, buffer: Bytes) {
        self.shared.metrics.journal_batch_events.observe(self.placed.len() as f64);
        self.segment.mark(self.next, self.at);
        self.at += buffer.len() as u64;
        self.next += self.placed.len() as Offset;
        let batch: Arc<[Stored]> = self
            .placed
            .drain(..)
            .map(|Placed { offset, arrived, event, payload }| {
                let event = event.moved_to(buffer.slice(payload));
                Stored { offset, arrived, event }
            })
            .collect();
        self.segment.set_newest(batch[batch.len() - 1].arrived);
        self.shared.tail.push(batch);
        let next = self.next;
        self.shared.head.send_if_modified(|head| {
            *head = next;
            false // waking them is for later
        });
    }

    /// After a failed write or sync nobody knows what is on disk, and the kernel may report the
    /// next sync as a success: nothing more is acknowledged until a restart has read back what is
    /// really there.
    fn fail(&mut self, error: &std::io::Error) {
        tracing::error!(%error, path = %self.segment.file.path().display(),
            "the journal cannot write: the relay answers 503 until it is restarted");
        let error = self.shared.set_failed(error);
        self.placed.clear();
        for waiting in self.waiting.drain(..) {
            drop(waiting.reply.send(Err(error.clone())));
        }
    }
}
