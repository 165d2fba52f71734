//! One attempt: connect, send, hear what became of it, and note how it went.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::{Instant, timeout, timeout_at};

use super::{Trouble, Worker};
use crate::delivery::source::Supply;
use crate::delivery::status::BreakerState;
use crate::journal::Micros;
use crate::journal::local::now;
use crate::sinks::{Fault, FaultKind, Settled};

impl Worker {
    pub(super) async fn connect(&mut self) -> Result<(), Trouble> {
        let tried = timeout(self.timeout, self.sink.connect()).await;
        match tried {
            Ok(Ok(())) => {
                self.connected = true;
                self.progress = Instant::now();
                self.queue.unsend();
                if self.queue.is_empty() {
                    // Nothing will be confirmed before the next event comes: this is the success.
                    self.breaker.succeeded();
                }
                tracing::info!(sink = %self.status.name, target = %self.status.target, "connected");
                self.status.set(self.breaker.state(now()), self.breaker.failures(), true);
                Ok(())
            }
            Ok(Err(fault)) => Err(self.failed(&fault)),
            Err(_) => Err(self.timed_out("no connection")),
        }
    }

    pub(super) async fn send(&mut self) -> Result<(), Trouble> {
        let again = self.queue.retried() as u64;
        if again > 0 {
            self.metrics.retried.inc_by(again);
            self.status.retried.fetch_add(again, Relaxed);
        }
        if self.queue.sent() == 0 {
            self.progress = Instant::now();
        }
        let batch = self.queue.send(self.sink.window(), now());
        let sent = timeout(self.timeout, self.sink.send(batch)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(self.failed(&fault)),
            Err(_) => Err(self.timed_out("nothing could be sent")),
        }
    }

    /// Waits for confirmations, or for more to send while there is room for it; does not wait where
    /// there is more already.
    pub(super) async fn settle(&mut self) -> Result<(), Trouble> {
        let has_room = !self.queue.room(self.sink.window()).is_none();
        let (more, caught_up) = (self.supply == Supply::More, self.supply == Supply::CaughtUp);
        let settled = tokio::select! {
            biased;
            settled = timeout_at(self.progress + self.timeout, self.sink.settle()) => settled,
            () = std::future::ready(()), if has_room && more => return Ok(()),
            () = self.source.wait(), if has_room && caught_up => return Ok(()),
            _ = self.stop.changed() => return Ok(()),
        };
        match settled {
            Ok(Ok(settled)) => {
                self.note(settled);
                Ok(())
            }
            Ok(Err(fault)) => Err(self.failed(&fault)),
            Err(_) => Err(self.timed_out("no confirmation")),
        }
    }

    /// Takes note of what is done with.
    fn note(&mut self, settled: Settled) {
        if settled.count == 0 {
            return;
        }
        self.progress = Instant::now();
        if self.breaker.succeeded() {
            tracing::info!(sink = %self.status.name, "delivers again");
            self.status.set(BreakerState::Closed, 0, true);
        }
        let mut rejected = settled.rejected.into_iter().peekable();
        for place in 0..settled.count {
            let Some((message, tries)) = self.queue.pop() else { break };
            if let Some((_, rejection)) = rejected.next_if(|(at, _)| *at == place) {
                self.condemned.push(message, tries, rejection);
            } else {
                self.metrics.delivered.inc();
                self.status.delivered.fetch_add(1, Relaxed);
                self.source.settled(tries.place, true);
            }
        }
        self.save_cursor();
    }

    fn timed_out(&mut self, what: &str) -> Trouble {
        let text = format!("{what} within {}", humantime::format_duration(self.timeout));
        self.failed(&Fault::disconnected(text))
    }

    /// Takes note of a failed attempt: all that is not settled will be sent again.
    fn failed(&mut self, fault: &Fault) -> Trouble {
        let now = now();
        let retry_after = match fault.kind {
            FaultKind::Busy { retry_after } => retry_after,
            FaultKind::Disconnected | FaultKind::Refused => {
                self.connected = false;
                None
            }
        };
        self.queue.unsend();
        let retry_after = retry_after.map(|time| Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX));
        self.breaker.failed(now, retry_after);
        self.metrics.failures.inc();
        let state = self.breaker.state(now);
        // Once when it begins, once when the breaker opens: not once an attempt, for ever.
        if self.breaker.failures() == 1
            || (state == BreakerState::Open && self.status.breaker() == BreakerState::Closed)
        {
            tracing::warn!(sink = %self.status.name, failures = self.breaker.failures(), breaker = ?state,
                reason = %fault.text, "the sink failed");
        }
        self.status.failed(&fault.text, now, state, self.breaker.failures(), self.connected);
        self.status.in_flight.store(0, Relaxed);
        self.give_up(now);
        self.save_cursor();
        Trouble::Sink
    }
}
