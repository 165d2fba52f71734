//! Finding the record for which a batch was refused.
//!
//! A broker refuses a batch as a whole, with no word on which record it was, or because the batch
//! itself was larger than the topic allows (`max.message.bytes`), which is nobody's fault. So all
//! records that were in flight are sent again in batches of one: who is refused then is to blame.
//! If nobody is, the batches were too large, and smaller ones are made from then on.

use crate::sinks::Settled;

#[derive(Debug)]
pub(super) struct Isolation {
    /// The most that a batch may hold once this is over, in bytes.
    batch_max: u64,
    left: usize,
    too_large: bool,
    convicted: bool,
}

impl Isolation {
    pub fn new(batch_max: u64) -> Self {
        Self { batch_max, left: 0, too_large: false, convicted: false }
    }

    /// Begins, or begins anew, after a batch was refused with `in_flight` records unsettled.
    pub fn begin(&mut self, in_flight: usize, too_large: bool) {
        *self = Self { batch_max: self.batch_max, left: in_flight, too_large, convicted: false };
    }

    /// Whether batches have to hold a single record.
    pub fn active(&self) -> bool {
        self.left > 0
    }

    pub fn batch_max(&self) -> u64 {
        self.batch_max
    }

    /// Takes note of settled records; true when the last of the suspects is among them.
    pub fn settled(&mut self, settled: &Settled) -> bool {
        if self.left == 0 {
            return false;
        }
        self.convicted |= settled.rejected.iter().any(|(place, _)| *place < self.left);
        self.left = self.left.saturating_sub(settled.count);
        if self.left == 0 && self.too_large && !self.convicted {
            // Each step costs a failure of the sink, and small batches cost little.
            self.batch_max = (self.batch_max / 4).max(1);
            tracing::warn!(
                batch_bytes_max = self.batch_max,
                "the broker takes smaller batches than `batch_max` says; making smaller ones"
            );
        }
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::Rejection;

    fn settled(count: usize, rejected: &[usize]) -> Settled {
        let rejection = Rejection { code: "too_large", text: String::new() };
        Settled { count, rejected: rejected.iter().map(|&place| (place, rejection.clone())).collect() }
    }

    #[test]
    fn a_convicted_record_keeps_the_batches_large() {
        let mut isolation = Isolation::new(1000);
        assert!(!isolation.settled(&settled(5, &[1])), "not begun");
        isolation.begin(10, true);
        assert!(!isolation.settled(&settled(6, &[5])) && isolation.active());
        assert!(isolation.settled(&settled(6, &[])) && !isolation.active());
        assert_eq!(isolation.batch_max(), 1000);
    }

    #[test]
    fn without_one_the_batches_were_too_large() {
        let mut isolation = Isolation::new(1000);
        isolation.begin(2, true);
        // The rejected one is behind the suspects.
        assert!(isolation.settled(&settled(4, &[3])));
        assert_eq!(isolation.batch_max(), 250);
        isolation.begin(2, false);
        assert!(isolation.settled(&settled(2, &[])));
        assert_eq!(isolation.batch_max(), 250, "an invalid record says nothing about sizes");
    }
}
