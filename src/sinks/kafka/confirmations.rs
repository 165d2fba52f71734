//! What became of the records in flight, in the order in which they were sent.
//!
//! librdkafka confirms partition by partition, so confirmations come out of order; the worker wants
//! to hear of the contiguous prefix. Between the thread that polls librdkafka and the worker's task
//! stands a ring with one slot a record.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::message::{Message, OwnedMessage, Timestamp};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::sinks::{Fault, Rejection, Settled};

/// How one record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Confirmed,
    Rejected(Rejection),
}

/// Why not everything in flight will be confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// All of it is lost.
    Fault(Fault),
    /// A batch was refused for this reason, and which of its records is to blame is not known. What
    /// is not confirmed comes back.
    Batch(Rejection),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

#[derive(Default)]
pub(super) struct Confirmations {
    ring: Mutex<Ring>,
    /// The oldest record is done, or there is trouble.
    settled: Notify,
    /// Some record has left librdkafka's queue.
    progress: Notify,
}

#[derive(Default)]
struct Ring {
    /// The number of the record in the front slot.
    first: usize,
    slots: VecDeque<Slot>,
    /// How many slots are open.
    open: usize,
    trouble: Option<Trouble>,
}

enum Slot {
    /// With librdkafka; the record's time in milliseconds, which librdkafka does not give back.
    Open(i64),
    Done(Outcome),
    /// Unconfirmed, and to be sent again.
    Back(Box<OwnedMessage>),
}

impl Confirmations {
    /// Takes a slot; its number travels through librdkafka as the record's opaque value. After
    /// trouble none is given: what went out now would overtake what came back.
    pub fn begin(&self, millis: i64) -> Result<usize, Trouble> {
        let mut ring = self.lock();
        if let Some(trouble) = &ring.trouble {
            return Err(trouble.clone());
        }
        ring.slots.push_back(Slot::Open(millis));
        ring.open += 1;
        Ok(ring.first.wrapping_add(ring.slots.len() - 1))
    }

    /// Gives the newest slot up, whose record librdkafka did not take.
    pub fn unbegin(&self) {
        let mut ring = self.lock();
        if ring.slots.pop_back_if(|slot| matches!(slot, Slot::Open(_))).is_some() {
            ring.open -= 1;
        }
    }

    pub fn resolve(&self, number: usize, outcome: Outcome) {
        self.close(number, |_| Slot::Done(outcome));
    }

    /// A record of a batch that was refused.
    pub fn give_back(&self, number: usize, record: OwnedMessage, why: Rejection) {
        self.lock().trouble.get_or_insert(Trouble::Batch(why));
        self.close(number, |millis| back(record, millis));
        self.settled.notify_one();
    }

    /// A record that was not confirmed, by no fault of its own. If a batch was refused before, this is
    /// a consequence of that (its successor was out of sequence, or purged).
    pub fn failed(&self, number: usize, record: impl FnOnce() -> OwnedMessage, fault: Fault) {
        match self.trouble() {
            Some(Trouble::Batch(_)) => self.close(number, |millis| back(record(), millis)),
            _ => self.fail(fault),
        }
    }

    /// Everything in flight is lost. The first trouble stands: later ones are its consequences.
    pub fn fail(&self, fault: Fault) {
        self.lock().trouble.get_or_insert(Trouble::Fault(fault));
        self.settled.notify_one();
        self.progress.notify_waiters();
    }

    pub fn trouble(&self) -> Option<Trouble> {
        self.lock().trouble.clone()
    }

    /// How many records are not settled.
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// The records that came back, in order, each with its number; with them the trouble is over.
    pub fn take_back(&self) -> Vec<(usize, OwnedMessage)> {
        let mut ring = self.lock();
        ring.trouble = None;
        let first = ring.first;
        let mut records = Vec::new();
        for (place, slot) in ring.slots.iter_mut().enumerate() {
            if matches!(slot, Slot::Back(_))
                && let Slot::Back(record) = std::mem::replace(slot, Slot::Open(0))
            {
                *slot = Slot::Open(record.timestamp().to_millis().unwrap_or_default());
                records.push((first.wrapping_add(place), *record));
            }
        }
        ring.open += records.len();
        records
    }

    /// Waits until librdkafka has none of the records any more.
    pub async fn landed(&self) -> Result<(), Fault> {
        loop {
            let progress = self.listen();
            {
                let ring = self.lock();
                match &ring.trouble {
                    Some(Trouble::Fault(fault)) => return Err(fault.clone()),
                    _ if ring.open == 0 => return Ok(()),
                    _ => {}
                }
            }
            progress.await;
        }
    }

    /// Done when a record has left librdkafka's queue after this call.
    pub fn listen(&self) -> Pin<Box<Notified<'_>>> {
        let mut progress = Box::pin(self.progress.notified());
        progress.as_mut().enable();
        progress
    }

    /// Waits for the oldest record, then takes all up to the first that is not done. What was
    /// confirmed before the trouble is told before it. Cancel safe: it takes only when it returns.
    pub async fn settle(&self) -> Result<Settled, Trouble> {
        loop {
            let settled = self.settled.notified();
            if let Some(done) = self.lock().take() {
                return done;
            }
            settled.await;
        }
    }

    /// Wakes the worker at most once until it has collected: only the front slot does.
    fn close(&self, number: usize, end: impl FnOnce(i64) -> Slot) {
        let at_front = {
            let mut ring = self.lock();
            let place = number.wrapping_sub(ring.first);
            if let Some(slot) = ring.slots.get_mut(place)
                && let Slot::Open(millis) = *slot
            {
                *slot = end(millis);
                ring.open -= 1;
            }
            place == 0
        };
        if at_front {
            self.settled.notify_one();
        }
        self.progress.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn back(record: OwnedMessage, millis: i64) -> Slot {
    Slot::Back(Box::new(record.set_timestamp(Timestamp::CreateTime(millis))))
}

impl Ring {
    fn take(&mut self) -> Option<Result<Settled, Trouble>> {
        let mut settled = Settled::default();
        while let Some(Slot::Done(outcome)) = self.slots.pop_front_if(|slot| matches!(slot, Slot::Done(_))) {
            if let Outcome::Rejected(rejection) = outcome {
                settled.rejected.push((settled.count, rejection));
            }
            settled.count += 1;
        }
        self.first = self.first.wrapping_add(settled.count);
        if settled.count > 0 {
            return Some(Ok(settled));
        }
        self.trouble.clone().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(ring: &Confirmations) -> usize {
        ring.begin(7).expect("no trouble")
    }

    fn rejection() -> Rejection {
        Rejection { code: "too_large", text: String::new() }
    }

    #[tokio::test]
    async fn settles_the_contiguous_prefix_only() {
        let ring = Confirmations::default();
        let numbers: Vec<_> = (0..5).map(|_| begin(&ring)).collect();
        ring.resolve(numbers[1], Outcome::Rejected(rejection()));
        ring.resolve(numbers[3], Outcome::Confirmed);
        ring.resolve(numbers[0], Outcome::Confirmed);
        let settled = ring.settle().await.expect("two");
        assert_eq!((settled.count, settled.rejected), (2, vec![(1, rejection())]));
        ring.resolve(numbers[2], Outcome::Confirmed);
        assert_eq!(ring.settle().await.expect("two more").count, 2);
        assert_eq!(begin(&ring), numbers[4] + 1);
        ring.unbegin();
        assert_eq!(ring.len(), 1);
    }

    #[tokio::test]
    async fn a_fault_comes_after_what_was_confirmed() {
        let ring = Confirmations::default();
        let (first, second) = (begin(&ring), begin(&ring));
        ring.resolve(first, Outcome::Confirmed);
        ring.fail(Fault::disconnected("gone"));
        ring.fail(Fault::disconnected("a consequence"));
        assert_eq!(ring.settle().await.expect("one").count, 1);
        assert!(ring.begin(7).is_err(), "nothing goes out after trouble");
        let trouble = ring.settle().await.expect_err("then the fault");
        assert_eq!(trouble, Fault::disconnected("gone").into());
        ring.resolve(second, Outcome::Confirmed);
    }

    #[tokio::test]
    async fn a_cancelled_settle_loses_nothing() {
        let ring = Confirmations::default();
        let number = begin(&ring);
        tokio::select! {
            biased;
            _ = ring.settle() => panic!("nothing is confirmed"),
            () = std::future::ready(()) => {}
        }
        ring.resolve(number, Outcome::Confirmed);
        assert_eq!(ring.settle().await.expect("one").count, 1);
    }

    fn record(text: &str) -> OwnedMessage {
        let payload = Some(text.as_bytes().to_vec());
        OwnedMessage::new(payload, None, "t".to_owned(), Timestamp::NotAvailable, 0, 0, None)
    }

    #[tokio::test]
    async fn a_refused_batch_comes_back_in_order_with_what_was_behind_it() {
        let ring = Confirmations::default();
        let numbers: Vec<_> = (0..5).map(|_| begin(&ring)).collect();
        ring.resolve(numbers[0], Outcome::Confirmed);
        ring.give_back(numbers[1], record("one"), rejection());
        ring.resolve(numbers[2], Outcome::Confirmed);
        ring.failed(numbers[4], || record("four"), Fault::disconnected("a consequence"));
        assert_eq!(ring.settle().await.expect("the first").count, 1);
        assert_eq!(ring.settle().await.expect_err("the batch"), Trouble::Batch(rejection()));
        let (landed, ()) = tokio::join!(ring.landed(), async {
            ring.failed(numbers[3], || record("three"), Fault::disconnected("purged"));
        });
        landed.expect("all are back");
        let back = ring.take_back();
        let payloads: Vec<_> =
            back.iter().map(|(number, record)| (*number, record.payload().expect("a payload"))).collect();
        let expected: [(usize, &[u8]); 3] =
            [(numbers[1], b"one"), (numbers[3], b"three"), (numbers[4], b"four")];
        assert_eq!(payloads, expected);
        for (number, record) in back {
            assert_eq!(record.timestamp(), Timestamp::CreateTime(7));
            ring.resolve(number, Outcome::Confirmed);
        }
        assert_eq!(ring.settle().await.expect("the rest").count, 4);
        assert_eq!(ring.len(), 0);
    }

    #[tokio::test]
    async fn waits_until_the_oldest_is_done() {
        let ring = std::sync::Arc::new(Confirmations::default());
        let (first, second) = (begin(&ring), begin(&ring));
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
