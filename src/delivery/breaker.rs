//! When to try again: the registry's `threshold` and `backoff`.
//!
//! As distribution's `notifications/sinks.go` (`retryingSink`): until `threshold` failures in a row
//! the next try follows at once; from then on each is preceded by `backoff`; one success closes the
//! breaker again. Pure: the time is passed in.

use crate::delivery::BreakerState;
use crate::journal::Micros;

/// One sink's breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    threshold: u32,
    backoff: Micros,
    failures: u32,
    /// No try before this.
    rests_until: Micros,
}

impl Breaker {
    /// `threshold` of 0 counts as 1; `backoff` in microseconds.
    pub fn new(threshold: u32, backoff: Micros) -> Self {
        Self { threshold: threshold.max(1), backoff, failures: 0, rests_until: 0 }
    }

    /// Notes a failure; `retry_after`, in microseconds, is what the destination asked for.
    pub fn failed(&mut self, now: Micros, retry_after: Option<Micros>) {
        self.failures = self.failures.saturating_add(1);
        let rest = if self.failures >= self.threshold { self.backoff } else { 0 };
        self.rests_until = now.saturating_add(rest.max(retry_after.unwrap_or(0)));
    }

    /// Notes a success; answers whether that ends a row of failures.
    pub fn succeeded(&mut self) -> bool {
        self.rests_until = 0;
        std::mem::take(&mut self.failures) > 0
    }

    /// How long to wait before the next try; 0: none.
    pub fn rest(&self, now: Micros) -> Micros {
        (self.rests_until - now).max(0)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn state(&self, now: Micros) -> BreakerState {
        if self.failures < self.threshold {
            BreakerState::Closed
        } else if self.rest(now) > 0 {
            BreakerState::Open
        } else {
            BreakerState::HalfOpen
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_from_the_threshold_on_until_a_success() {
        let mut breaker = Breaker::new(3, 1000);
        for now in [0, 1] {
            breaker.failed(now, None);
            assert_eq!((breaker.state(now), breaker.rest(now)), (BreakerState::Closed, 0));
        }
        breaker.failed(2, None);
        assert_eq!((breaker.state(2), breaker.rest(2)), (BreakerState::Open, 1000));
        assert_eq!((breaker.state(1002), breaker.rest(1002)), (BreakerState::HalfOpen, 0));
        breaker.failed(1002, None);
        assert_eq!((breaker.state(1003), breaker.rest(1003)), (BreakerState::Open, 999));
        assert!(breaker.succeeded() && !breaker.succeeded());
        assert_eq!((breaker.state(1003), breaker.failures()), (BreakerState::Closed, 0));
    }

    #[test]
    fn heeds_what_the_destination_asks_for() {
        let mut breaker = Breaker::new(3, 1000);
        breaker.failed(0, Some(5000));
        assert_eq!((breaker.state(0), breaker.rest(0)), (BreakerState::Closed, 5000));
        for _ in 0..3 {
            breaker.failed(10, Some(1));
        }
        assert_eq!(breaker.rest(10), 1000, "but never less than the backoff");
    }

    #[test]
    fn a_clock_that_jumps_back_only_lengthens_the_rest_by_the_jump() {
        let mut breaker = Breaker::new(1, 1000);
        breaker.failed(10_000, None);
        assert_eq!(breaker.rest(9_000), 2000);
    }
}
