//! From the journal to one client of the stream.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::topics::Selector;
use super::{Options, frame};
use crate::admin::start::Start;
use crate::journal::{Chunk, Journal, Micros, Offset};
use crate::telemetry::Metrics;

/// One client's stream. It reads only when the client has taken what was read before.
pub(super) struct Pump {
    pub journal: Arc<dyn Journal>,
    pub selector: Selector,
    pub metrics: Arc<Metrics>,
    pub options: Options,
    pub stopped: watch::Receiver<bool>,
    pub frames: mpsc::Sender<Bytes>,
}

impl Pump {
    /// Runs until the client leaves, the journal is closed, or the listener stops.
    pub(super) async fn run(mut self, start: Start, now: Micros) {
        let streams = self.metrics.streams.clone();
        streams.inc();
        let (mut stopped, frames) = (self.stopped.clone(), self.frames.clone());
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = frames.closed() => {}
            () = self.copy(start, now) => {}
        }
        streams.dec();
    }

    async fn copy(&mut self, start: Start, now: Micros) {
        let mut next = start.resolve(&*self.journal, now).await;
        // Up to where the client's place, its last id, is known to be.
        let mut told = next;
        if !self.send(frame::hello(next)).await {
            return;
        }
        let mut quiet_until = Instant::now() + self.options.heartbeat;
        loop {
            let read = self.journal.read(next, self.options.read_bytes_max);
            let mut frame = match timeout_at(quiet_until, read).await {
                Ok(Ok(chunk)) => {
                    next = chunk.next;
                    self.frame(&chunk, &mut told)
                }
                // The client comes back by itself, to the same place.
                Ok(Err(error)) => return tracing::debug!(%error, "a stream ends"),
                Err(_) => Bytes::new(),
            };
            if frame.is_empty() {
                // Asked of the clock again: where much passes that is not for this client, no read
                // ever waits.
                if Instant::now() < quiet_until {
                    continue;
                }
                frame = frame::heartbeat((told < next).then(|| next.saturating_sub(1)));
                told = next;
            }
            if !self.send(frame).await {
                return;
            }
            quiet_until = Instant::now() + self.options.heartbeat;
        }
    }

    /// What of `chunk` is for this client; empty when nothing is.
    fn frame(&mut self, chunk: &Chunk, told: &mut Offset) -> Bytes {
        let mut out = BytesMut::new();
        if chunk.lost > 0 {
            frame::put_gap(&mut out, chunk.lost, chunk.next);
        }
        for stored in chunk.events.iter() {
            let topics = self.selector.topics_of(&stored.event);
            if !topics.is_empty() {
                frame::put_event(&mut out, stored.offset, &topics, &stored.event);
                self.metrics.stream_events.inc_by(topics.len() as u64);
                *told = stored.offset + 1;
            }
        }
        out.freeze()
    }

    async fn send(&self, frame: Bytes) -> bool {
        self.frames.send(frame).await.is_ok()
    }
}
