//! What is on its way to one sink: rendered, perhaps sent, not yet settled.

use std::collections::VecDeque;

use super::source::{Room, Taken};
use crate::journal::Micros;
use crate::sinks::Message;

/// The most that one sink's queue holds, in bytes of bodies; one message always fits.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;

/// How often a message has been sent, since when it was to be, and when it last was; and where it
/// came from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tries {
    /// [`Taken::place`] and [`Taken::letter`].
    pub place: u64,
    pub letter: u64,
    pub attempts: u32,
    pub first: Micros,
    pub last: Micros,
}

impl Tries {
    /// Of a message that is to be sent from `now` on.
    pub fn begin(taken: &Taken, now: Micros) -> Self {
        Self { place: taken.place, letter: taken.letter, attempts: 0, first: now, last: now }
    }
}

/// Messages in their source's order. The first `sent` are with the destination.
#[derive(Debug, Default)]
pub struct Queue {
    messages: VecDeque<Message>,
    tries: VecDeque<Tries>,
    sent: usize,
    bytes: usize,
}

impl Queue {
    /// Adds a message, at `now`: from then on it counts as being tried.
    pub fn push(&mut self, taken: Taken, now: Micros) {
        self.bytes += taken.message.body.len();
        self.tries.push_back(Tries::begin(&taken, now));
        self.messages.push_back(taken.message);
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many are with the destination.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Whether there is something to send, with at most `window` messages at the destination.
    pub fn has_unsent(&self, window: usize) -> bool {
        self.sent < self.messages.len().min(window)
    }

    /// How much more fits, given the sink's window.
    pub fn room(&self, window: usize) -> Room {
        Room {
            messages: window.saturating_sub(self.messages.len()),
            bytes: QUEUE_BYTES_MAX.saturating_sub(self.bytes),
        }
    }

    /// The oldest message's place, below which everything is done, and when it arrived.
    pub fn oldest(&self) -> Option<(u64, Micros)> {
        Some((self.tries.front()?.place, self.messages.front()?.arrived))
    }

    /// How many of those that are to be sent next have been sent before.
    pub fn retried(&self) -> usize {
        self.tries.iter().skip(self.sent).take_while(|tries| tries.attempts > 0).count()
    }

    /// What is to be sent, as one run, so that at most `window` messages are at the destination;
    /// counts it as sent at `now`.
    pub fn send(&mut self, window: usize, now: Micros) -> &[Message] {
        let from = self.sent;
        self.sent = self.messages.len().min(window).max(from);
        for tries in self.tries.range_mut(from..self.sent) {
            tries.attempts += 1;
            tries.last = now;
        }
        &self.messages.make_contiguous()[from..self.sent]
    }

    /// The destination has lost what it was sent: all of it is to be sent again.
    pub fn unsend(&mut self) {
        self.sent = 0;
    }

    /// Takes the oldest message out: it is done with.
    pub fn pop(&mut self) -> Option<(Message, Tries)> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.body.len();
        self.sent = self.sent.saturating_sub(1);
        Some((message, self.tries.pop_front().unwrap_or_default()))
    }

    /// Of how many events messages stand below `place`.
    pub fn events_below(&self, place: u64) -> u64 {
        let below = self.tries.iter().map(|tries| tries.place).take_while(|at| *at < place);
        let mut last = None;
        below.filter(|at| last.replace(*at) != Some(*at)).count() as u64
    }

    /// Takes the messages out that stand below `place`; only when none is sent.
    pub fn drop_below(&mut self, place: u64) {
        debug_assert_eq!(self.sent, 0, "none is with the destination");
        while self.tries.front().is_some_and(|tries| tries.place < place) {
            self.pop();
        }
    }

    /// Takes the messages out that have been here since `before` or longer; only when none is sent.
    pub fn take_older(&mut self, before: Micros) -> Vec<(Message, Tries)> {
        debug_assert_eq!(self.sent, 0, "none is with the destination");
        let mut taken = Vec::new();
        while self.tries.front().is_some_and(|tries| tries.first <= before) {
            taken.extend(self.pop());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn message(place: u64, bytes: usize) -> Taken {
        let message = Message {
            offset: place,
            arrived: 0,
            id: String::new(),
            dedup_id: String::new(),
            topic: String::new(),
            key: String::new(),
            headers: Vec::new(),
            content_type: "",
            body: vec![b' '; bytes].into(),
            event: Event::parse("{}".into()).expect("an event"),
        };
        Taken { message, place, letter: 0 }
    }

    #[test]
    fn counts_what_is_sent_and_tried() {
        let mut queue = Queue::default();
        queue.push(message(1, 10), 100);
        queue.push(message(2, 10), 110);
        assert_eq!(queue.send(10, 100).len(), 2);
        queue.push(message(3, 10), 120);
        assert!(queue.has_unsent(10) && queue.retried() == 0);
        assert_eq!(queue.send(10, 200)[0].offset, 3);
        queue.unsend();
        assert_eq!((queue.retried(), queue.sent()), (3, 0));
        let (first, tries) = queue.pop().expect("one");
        assert_eq!((first.offset, tries.attempts, tries.first), (1, 1, 100));
        assert_eq!(queue.take_older(115).len(), 1);
        assert_eq!(queue.oldest(), Some((3, 0)));
    }

    #[test]
    fn never_sends_more_than_the_window() {
        let mut queue = Queue::default();
        for offset in 1..=5 {
            queue.push(message(offset, 10), 0);
        }
        assert_eq!(queue.send(2, 0).len(), 2);
        assert!(!queue.has_unsent(2));
        queue.pop();
        assert_eq!(queue.send(2, 0).iter().map(|message| message.offset).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn is_bounded_in_bytes_but_takes_one_of_any_size() {
        let mut queue = Queue::default();
        assert_eq!(queue.room(5).messages, 5);
        queue.push(message(1, QUEUE_BYTES_MAX * 2), 0);
        assert!(queue.room(5).is_none());
        queue.pop();
        assert!(!queue.room(5).is_none());
    }

    #[test]
    fn drops_whole_events() {
        let mut queue = Queue::default();
        for place in [1, 1, 2, 3] {
            queue.push(message(place, 10), 0);
        }
        assert_eq!((queue.events_below(3), queue.events_below(1)), (2, 0), "events, not messages");
        queue.drop_below(3);
        assert_eq!((queue.oldest(), queue.events_below(9)), (Some((3, 0)), 1));
    }
}
