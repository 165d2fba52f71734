//! What became of the records in flight, in the order in which they were sent.
//!
//! librdkafka confirms partition by partition, so confirmations come out of order; the worker wants
//! to hear of the contiguous prefix. Between the thread that polls librdkafka and the worker's task
//! stands a ring with one slot a record.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::sinks::{Fault, Rejection, Settled};

/// How one record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Confirmed,
    Rejected(Rejection),
}

#[derive(Default)]
pub(super) struct Confirmations {
    ring: Mutex<Ring>,
    /// The oldest record is done, or there is a fault.
    settled: Notify,
    /// Some record is done: librdkafka's queue has room again.
    progress: Notify,
}

#[derive(Default)]
struct Ring {
    /// The number of the record in the front slot.
    first: usize,
    slots: VecDeque<Option<Outcome>>,
    fault: Option<Fault>,
}

impl Confirmations {
    /// Takes a slot; its number travels through librdkafka as the record's opaque value.
    pub fn begin(&self) -> usize {
        let mut ring = self.lock();
        ring.slots.push_back(None);
        ring.first.wrapping_add(ring.slots.len() - 1)
    }

    /// Wakes the worker at most once until it has collected: only the front slot does.
    pub fn resolve(&self, number: usize, outcome: Outcome) {
        let at_front = {
            let mut ring = self.lock();
            let place = number.wrapping_sub(ring.first);
            if let Some(slot) = ring.slots.get_mut(place) {
                *slot = Some(outcome);
            }
            place == 0
        };
        if at_front {
            self.settled.notify_one();
        }
        self.progress.notify_waiters();
    }

    /// Everything in flight is lost. The first fault stands: later ones are its consequences.
    pub fn fail(&self, fault: Fault) {
        self.lock().fault.get_or_insert(fault);
        self.settled.notify_one();
        self.progress.notify_waiters();
    }

    pub fn fault(&self) -> Option<Fault> {
        self.lock().fault.clone()
    }

    /// Enabled before a look at the queue and awaited after it, so that no progress between is missed.
    pub fn progress(&self) -> Notified<'_> {
        self.progress.notified()
    }

    /// Waits for the oldest record, then takes all up to the first that is not done. What was
    /// confirmed before a fault is told before the fault. Cancel safe: it takes only when it returns.
    pub async fn settle(&self) -> Result<Settled, Fault> {
        loop {
            let settled = self.settled.notified();
            if let Some(done) = self.lock().take() {
                return done;
            }
            settled.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn take(&mut self) -> Option<Result<Settled, Fault>> {
        let mut settled = Settled::default();
        while let Some(Some(outcome)) = self.slots.front_mut().map(Option::take) {
            if let Outcome::Rejected(rejection) = outcome {
                settled.rejected.push((settled.count, rejection));
            }
            settled.count += 1;
            self.slots.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        if settled.count > 0 {
            return Some(Ok(settled));
        }
        self.fault.clone().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection() -> Rejection {
        Rejection { code: "too_large", text: String::new() }
    }

    #[tokio::test]
    async fn settles_the_contiguous_prefix_only() {
        let ring = Confirmations::default();
        let numbers: Vec<_> = (0..5).map(|_| ring.begin()).collect();
        ring.resolve(numbers[1], Outcome::Rejected(rejection()));
        ring.resolve(numbers[3], Outcome::Confirmed);
        ring.resolve(numbers[0], Outcome::Confirmed);
        let settled = ring.settle().await.expect("two");
        assert_eq!((settled.count, settled.rejected), (2, vec![(1, rejection())]));
        ring.resolve(numbers[2], Outcome::Confirmed);
        assert_eq!(ring.settle().await.expect("two more").count, 2);
        assert_eq!(ring.begin(), numbers[4] + 1);
    }

    #[tokio::test]
    async fn a_fault_comes_after_what_was_confirmed() {
        let ring = Confirmations::default();
        let (first, second) = (ring.begin(), ring.begin());
        ring.resolve(first, Outcome::Confirmed);
        ring.fail(Fault::disconnected("gone"));
        ring.fail(Fault::disconnected("a consequence"));
        assert_eq!(ring.settle().await.expect("one").count, 1);
        assert_eq!(ring.settle().await.expect_err("then the fault").text, "gone");
        ring.resolve(second, Outcome::Confirmed);
    }

    #[tokio::test]
    async fn a_cancelled_settle_loses_nothing() {
        let ring = Confirmations::default();
        let number = ring.begin();
        tokio::select! {
            biased;
            _ = ring.settle() => panic!("nothing is confirmed"),
            () = std::future::ready(()) => {}
        }
        ring.resolve(number, Outcome::Confirmed);
        assert_eq!(ring.settle().await.expect("one").count, 1);
    }

    #[tokio::test]
    async fn waits_until_the_oldest_is_done() {
        let ring = std::sync::Arc::new(Confirmations::default());
        let (first, second) = (ring.begin(), ring.begin());
        let waiting = tokio::spawn({
            let ring = std::sync::Arc::clone(&ring);
            async move { ring.settle().await }
        });
        ring.resolve(second, Outcome::Confirmed);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        ring.resolve(first, Outcome::Confirmed);
        assert_eq!(waiting.await.expect("joined").expect("both").count, 2);
    }
}
