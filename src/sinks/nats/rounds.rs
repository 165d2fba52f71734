//! The markers by which core NATS confirms: what each of them carries, and when one has to go out.
//!
//! Behind messages goes a marker to our own inbox. When it comes back, the server has taken them;
//! but a notice that it has not, for want of permission, comes by another task of the client and may be
//! seen a little later. So a message counts as taken only when a further marker, sent after the first
//! came back, has made its own way round. As a rule that is a later batch's: each marker carries how
//! far markers had come back when it was sent. One goes out by itself only where no batch follows.
//!
//! A marker costs the server a write and us a read and a wake-up, as much as a message itself: with many
//! sinks that have little to send each, more than anything else. So not each batch has one.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::flight::Number;

/// Batches that follow each other faster than this share a marker.
const SHARED: Duration = Duration::from_millis(10);

/// How long messages wait for a later batch's marker to confirm them. Nothing waits for that but the
/// cursor, which is saved a few times a second.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Rounds {
    /// The last message that was published.
    last: Option<Number>,
    /// The last message whose marker has come back.
    returned: Option<Number>,
    /// When a marker was sent last.
    sent: Option<Instant>,
    /// When one has to go out, if none does before.
    due: Option<Instant>,
}

impl Rounds {
    /// A batch up to message `last` has been published. Answers whether a marker is to follow at once.
    /// `hurry`: there is little room for more.
    pub fn published(&mut self, last: Number, hurry: bool, now: Instant) -> bool {
        self.last = Some(last);
        self.due.get_or_insert(now + PATIENCE);
        hurry || self.sent.is_none_or(|sent| now - sent >= SHARED)
    }

    /// The marker to send: the message that it is for, and its payload.
    pub fn marker(&self) -> Option<(Number, Bytes)> {
        let payload = self.returned.map_or_else(Bytes::new, |number| number.to_string().into());
        self.last.map(|last| (last, payload))
    }

    /// It has been sent.
    pub fn sent(&mut self, now: Instant) {
        self.due = None;
        self.sent = Some(now);
    }

    /// The marker of `number` came back with its payload: answers up to where messages are taken.
    /// `hurry`: there is little room for more of them.
    pub fn returned(&mut self, number: Number, payload: &[u8], hurry: bool, now: Instant) -> Option<Number> {
        let taken = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        self.returned = self.returned.max(Some(number));
        if taken < self.last {
            let patience = if hurry { Duration::ZERO } else { PATIENCE };
            let at = now + patience;
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
        taken
    }

    /// When a marker is to be sent; `None` when none is needed.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload of a marker that is sent now.
    fn marker(rounds: &mut Rounds, now: Instant) -> Bytes {
        let (_, payload) = rounds.marker().expect("something was published");
        rounds.sent(now);
        payload
    }

    #[test]
    fn the_next_batch_confirms_the_one_before() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        assert!(rounds.published(4, false, now));
        let first = marker(&mut rounds, now);
        assert_eq!((rounds.returned(4, &first, false, now), rounds.due()), (None, Some(now + PATIENCE)));
        let now = now + SHARED;
        assert!(rounds.published(9, false, now));
        let second = marker(&mut rounds, now);
        assert!(rounds.due().is_none(), "the second batch's marker will do");
        assert_eq!(rounds.returned(9, &second, false, now), Some(4));
        assert_eq!(rounds.due(), Some(now + PATIENCE), "the second batch needs one too");
    }

    #[test]
    fn what_was_under_way_already_confirms_nothing() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        let [first, second] = [4, 9].map(|last| {
            rounds.published(last, true, now);
            marker(&mut rounds, now)
        });
        let mut taken = |number, payload| rounds.returned(number, payload, false, now);
        assert_eq!((taken(4, &first), taken(9, &second)), (None, None));
    }

    #[test]
    fn batches_that_follow_fast_share_a_marker() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        assert!(rounds.published(4, false, now));
        let first = marker(&mut rounds, now);
        assert!(!rounds.published(9, false, now), "one has just gone");
        assert_eq!(rounds.due(), Some(now + PATIENCE), "but one will");
        assert!(rounds.published(10, true, now), "at once where there is no room");
        rounds.returned(4, &first, false, now + SHARED);
        assert_eq!(rounds.due(), Some(now + PATIENCE), "no later than was said");
        assert_eq!(rounds.marker(), Some((10, "4".into())), "it is for all that was published");
    }

    #[test]
    fn the_last_batch_gets_a_marker_of_its_own() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        rounds.published(4, false, now);
        let first = marker(&mut rounds, now);
        rounds.returned(4, &first, false, now);
        assert_eq!(rounds.due(), Some(now + PATIENCE));
        rounds.returned(4, &first, true, now);
        assert_eq!(rounds.due(), Some(now), "at once where there is no room");
        let second = marker(&mut rounds, now);
        assert_eq!((rounds.returned(4, &second, false, now), rounds.due()), (Some(4), None));
    }
}
