//! How far a sink may fall behind: `backlog_max`, and a word about who fills the journal.
//!
//! A sink's backlog keeps the journal's segments, so that one dead sink would in the end stop the
//! receiver for all. With `backlog_max` its oldest events are given up instead, once the backlog is
//! a sixteenth over the limit and down to the limit: so an event that is within the limit is never
//! given up, and it does not come to a gap an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::gaps::{Gap, Gaps};
use crate::config::BacklogMax;
use crate::journal::{Journal, Micros, Offset};

/// How often a backlog is looked at, in microseconds: finding an age's place reads the journal.
const CHECK_INTERVAL: Micros = if cfg!(test) { 0 } else { 1_000_000 };

/// How often it is looked at who holds the journal.
const HOLDER_INTERVAL: Duration = Duration::from_secs(1);

/// One sink's `backlog_max`.
pub struct Backlog {
    max: BacklogMax,
    journal: Arc<dyn Journal>,
    gaps: Arc<Gaps>,
    checked: AtomicI64,
}

impl Backlog {
    pub fn new(max: BacklogMax, journal: Arc<dyn Journal>, gaps: Arc<Gaps>) -> Self {
        Self { max, journal, gaps, checked: AtomicI64::new(Micros::MIN) }
    }

    /// The offset below which a sink's events are to be given up at `now`, if the backlog is over
    /// its limit. `cursor` is where the sink stands, `oldest` when its oldest event arrived, where
    /// that is known.
    pub async fn excess(&self, cursor: Offset, oldest: Option<Micros>, now: Micros) -> Option<Offset> {
        let since = now.saturating_sub(self.checked.load(Ordering::Relaxed));
        if (0..CHECK_INTERVAL).contains(&since) {
            return None;
        }
        self.checked.store(now, Ordering::Relaxed);
        let to = match self.max {
            BacklogMax::Bytes(bytes) => {
                let trigger = self.journal.offset_behind(with_slack(bytes));
                if cursor >= trigger {
                    return None;
                }
                self.journal.offset_behind(bytes)
            }
            BacklogMax::Age(age) => {
                let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
                if oldest? >= ago(now, with_slack(age)) {
                    return None;
                }
                self.journal.seek(ago(now, age)).await
            }
        };
        (to > cursor).then_some(to)
    }

    /// Writes a gap down, durably.
    ///
    /// # Errors
    /// What the disk said.
    pub async fn note(&self, gap: Gap) -> Result<(), String> {
        let gaps = self.gaps.clone();
        let noted = tokio::task::spawn_blocking(move || gaps.add(gap)).await;
        match noted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the gap cannot be written down: {error}")),
            Err(error) => Err(format!("the gap cannot be written down: {error}")),
        }
    }
}

fn with_slack(limit: u64) -> u64 {
    limit.saturating_add(limit / 16)
}

fn ago(now: Micros, age: u64) -> Micros {
    now.saturating_sub(Micros::try_from(age).unwrap_or(Micros::MAX))
}

/// Says in the log which sink's backlog holds most of the journal, once when that begins and once
/// when it ends. Runs until dropped.
pub async fn watch_holder(journal: Arc<dyn Journal>) {
    let mut ticks = tokio::time::interval(HOLDER_INTERVAL);
    let mut before = None;
    loop {
        ticks.tick().await;
        let stats = journal.stats();
        if stats.held_by == before {
            continue;
        }
        match &stats.held_by {
            Some(sink) => tracing::warn!(%sink, bytes = stats.bytes, bytes_max = stats.bytes_max,
                "the backlog of this sink holds more than half of the journal; when it is full the \
                 receiver answers 503, unless the sink has a backlog_max"),
            None => tracing::info!("no sink's backlog holds most of the journal any more"),
        }
        before = stats.held_by;
    }
}
