//! Giving up what a sink is too far behind with: `backlog_max`.

use std::sync::atomic::Ordering::Relaxed;

use super::{Trouble, Worker};
use crate::delivery::gaps::Gap;
use crate::journal::ReadError;
use crate::journal::local::now;
use crate::telemetry::Metrics;

impl Worker {
    /// Leaves the oldest events out if the backlog is too large, once that is written down.
    ///
    /// What is with the destination may be confirmed yet and stays; so does, until it is, what
    /// waits to be a dead letter.
    pub(super) async fn shed(&mut self) -> Result<(), Trouble> {
        let Some(backlog) = self.backlog.clone() else { return Ok(()) };
        let (at, oldest) = (now(), self.queue.oldest().map(|(_, arrived)| arrived));
        let Some(to) = backlog.excess(self.cursor(), oldest, at).await else { return Ok(()) };
        let queue_too = self.queue.sent() == 0 && self.condemned.is_empty();
        let from = if queue_too { self.cursor() } else { self.source.at() };
        if to <= from {
            return Ok(());
        }
        let mut events = self.source.count_below(to).await.map_err(|error| match error {
            ReadError::Closed => Trouble::Closed,
            ReadError::Io(what) => Trouble::Own(what),
        })?;
        if queue_too {
            events += self.queue.events_below(to);
        }
        if events > 0 {
            backlog.note(Gap { from, to, events, at }).await.map_err(Trouble::Own)?;
            self.tell_given_up(from, to, events);
        }
        if queue_too {
            self.queue.drop_below(to);
        }
        self.source.skip_to(to);
        self.save_cursor();
        Ok(())
    }

    fn tell_given_up(&self, from: u64, to: u64, events: u64) {
        tracing::error!(sink = %self.status.name, events, from, to,
            "the sink is behind by more than its backlog_max: its oldest events are given up; while they \
             are in the journal, `relay replay --sink … --from … --to …` with these offsets delivers them");
        let label = Metrics::label(&self.metrics.sink);
        self.metrics.all.sink_given_up.get_or_create(&label).inc_by(events);
        self.status.given_up.fetch_add(events, Relaxed);
    }
}
