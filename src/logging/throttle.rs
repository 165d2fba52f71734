//! A limit on log lines that a sender could cause at any rate.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::journal::Micros;

/// Lets one of a kind through per interval, and counts what it held back in between.
pub struct Throttle {
    interval: Duration,
    /// When the next may pass.
    next: AtomicI64,
    held: AtomicU64,
}

impl Throttle {
    pub const fn new(interval: Duration) -> Self {
        Self { interval, next: AtomicI64::new(Micros::MIN), held: AtomicU64::new(0) }
    }

    /// `Some`: pass, with the number that was held back since the last that did.
    pub fn pass(&self, now: Micros) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let later = now.saturating_add(self.interval.as_micros() as i64);
        let ours = now >= next
            && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !ours {
            self.held.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_per_interval() {
        let throttle = Throttle::new(Duration::from_secs(1));
        let steps = [(5, Some(0)), (6, None), (1_000_004, None), (1_000_005, Some(2)), (2_000_005, Some(0))];
        for (now, passes) in steps {
            assert_eq!(throttle.pass(now), passes, "at {now}");
        }
    }
}
