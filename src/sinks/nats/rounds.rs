//! The markers by which core NATS confirms: what each of them carries, and when one has to go out.
//!
//! Behind each batch goes a marker to our own inbox. When it comes back, the server has taken the batch;
//! but a notice that it has not, for want of permission, comes by another task of the client and may be
//! seen a little later. So a batch counts as taken only when a further marker, sent after the first
//! came back, has made its own way round. As a rule that is the next batch's: each marker carries how
//! far markers had come back when it was sent. One goes out by itself only where no batch follows.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::flight::Number;

/// How long a batch waits for the next one's marker to confirm it. Nothing waits for that but the
/// cursor, which is saved a few times a second.
const PATIENCE: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub struct Rounds {
    /// The last message whose marker has come back.
    returned: Option<Number>,
    /// When the messages up to there get a marker of their own.
    due: Option<Instant>,
}

impl Rounds {
    /// The payload of a marker that is about to be sent.
    pub fn payload(&self) -> Bytes {
        self.returned.map_or_else(Bytes::new, |number| number.to_string().into())
    }

    /// A marker with [`Rounds::payload`] has been sent.
    pub fn sent(&mut self) {
        self.due = None;
    }

    /// The marker of `number` came back with its payload: answers up to where messages are taken.
    /// `hurry`: there is little room for more of them.
    pub fn returned(&mut self, number: Number, payload: &[u8], hurry: bool) -> Option<Number> {
        let taken = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        self.returned = self.returned.max(Some(number));
        if taken < Some(number) {
            let patience = if hurry { Duration::ZERO } else { PATIENCE };
            self.due = Some(Instant::now() + patience);
        }
        taken
    }

    /// The message whose marker is to be sent again, and when; `None` when there is none.
    pub fn due(&self) -> Option<(Number, Instant)> {
        self.returned.zip(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_batch_confirms_the_one_before() {
        let mut rounds = Rounds::default();
        let first = rounds.payload();
        rounds.sent();
        assert_eq!(
            (rounds.returned(4, &first, false), rounds.due().map(|(number, _)| number)),
            (None, Some(4))
        );
        let second = rounds.payload();
        rounds.sent();
        assert!(rounds.due().is_none(), "the second batch's marker will do");
        assert_eq!(rounds.returned(9, &second, false), Some(4));
        assert_eq!(rounds.due().map(|(number, _)| number), Some(9));
    }

    #[test]
    fn what_was_under_way_already_confirms_nothing() {
        let mut rounds = Rounds::default();
        let [first, second] = [(); 2].map(|()| {
            rounds.sent();
            rounds.payload()
        });
        assert_eq!((rounds.returned(4, &first, false), rounds.returned(9, &second, false)), (None, None));
    }

    #[test]
    fn the_last_batch_gets_a_marker_of_its_own() {
        let mut rounds = Rounds::default();
        let first = rounds.payload();
        rounds.returned(4, &first, false);
        let (number, at) = rounds.due().expect("one");
        assert!(number == 4 && at > Instant::now());
        rounds.returned(4, &first, true);
        assert!(rounds.due().expect("one").1 <= Instant::now(), "at once where there is no room");
        let second = rounds.payload();
        rounds.sent();
        assert_eq!((rounds.returned(4, &second, false), rounds.due()), (Some(4), None));
    }
}
