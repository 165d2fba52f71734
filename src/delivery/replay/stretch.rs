//! A stretch of the journal, delivered again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;

use super::Plan;
use crate::delivery::source::{Room, Source, Supply, Taken};
use crate::journal::{Journal, Offset, ReadError, Stored};
use crate::route::{Matcher, Target};

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 1 << 20;

/// The sink's events in `from..to` that the conditions fit, at most `left` of them.
pub struct Stretch {
    plan: Plan,
    journal: Arc<dyn Journal>,
    matcher: Matcher,
    /// Where to read on, and where to end.
    next: Offset,
    to: Offset,
    left: u64,
    /// Read, fitting, and not yet handed out.
    waiting: VecDeque<Stored>,
    lost: Arc<AtomicU64>,
    lost_untold: u64,
}

impl Stretch {
    pub fn new(
        plan: Plan,
        journal: Arc<dyn Journal>,
        matcher: Matcher,
        range: std::ops::Range<Offset>,
        limit: Option<u64>,
        lost: Arc<AtomicU64>,
    ) -> Self {
        Self {
            plan,
            journal,
            matcher,
            next: range.start,
            to: range.end,
            left: limit.unwrap_or(u64::MAX),
            waiting: VecDeque::new(),
            lost,
            lost_untold: 0,
        }
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let chunk = self.journal.read(self.next, READ_BYTES).await?;
        if chunk.lost > 0 {
            let lost = chunk.lost.min(self.to - self.next);
            self.lost.fetch_add(lost, Relaxed);
            self.lost_untold += lost;
        }
        self.next = chunk.next;
        let fits = |stored: &&Stored| stored.offset < self.to && self.matcher.is_match(&stored.event);
        self.waiting.extend(chunk.events.iter().filter(fits).cloned());
        Ok(())
    }
}

#[async_trait]
impl Source for Stretch {
    async fn take(&mut self, room: Room, _idle: bool, out: &mut Vec<Taken>) -> Result<Supply, ReadError> {
        let begin = out.len();
        if self.waiting.is_empty() && self.next < self.to {
            self.read().await?;
        }
        while self.left > 0 && !room.without(&out[begin..]).is_none() {
            let Some(stored) = self.waiting.pop_front() else { break };
            let targets: Vec<&Target> = self.plan.targets(&stored.event).collect();
            if !targets.is_empty() {
                self.left -= 1;
                self.plan.render(&stored, targets, stored.offset, 0, out);
            }
        }
        if self.left == 0 || (self.waiting.is_empty() && self.next >= self.to) {
            return Ok(Supply::Ended);
        }
        Ok(Supply::More)
    }

    async fn wait(&self) {
        std::future::pending().await
    }

    fn at(&self) -> u64 {
        self.waiting.front().map_or(self.next.min(self.to), |stored| stored.offset)
    }

    fn has_more(&self) -> bool {
        false
    }

    fn done_below(&mut self, _place: u64) {}

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost_untold)
    }
}
