//! The messages in flight, and which of them may be requested next.
//!
//! A message's key decides its lane, and a lane has one request on its way at a time: so the events
//! of a key arrive in order, however many lanes there are. Requests of one message are handed to a
//! lane's task ahead ([`super::lane`] makes one after the other); behind one of several nothing is,
//! since that may have to be taken apart, and more messages may come to go with the next.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};

use crate::sinks::format::{envelope, inside_envelope};
use crate::sinks::{Rejection, Settled};

/// A message's place in the order of all that was sent, from 0.
type Number = u64;

/// The messages in flight.
pub struct Lanes {
    /// Oldest first.
    flight: VecDeque<Entry>,
    /// The oldest one's number.
    first: Number,
    lanes: Vec<Lane>,
    /// The most messages in one request.
    batch: usize,
}

/// What of a message goes into its request.
#[derive(Clone)]
pub struct Content {
    /// All headers but the id.
    pub head: Arc<HeaderMap>,
    pub id: Option<HeaderValue>,
    pub body: Bytes,
}

struct Entry {
    /// `None` once it is in a request of its own: that is never made again.
    content: Option<Content>,
    outcome: Outcome,
}

#[derive(Clone)]
enum Outcome {
    Waiting,
    Taken,
    Rejected(Rejection),
}

#[derive(Clone, Default)]
struct Lane {
    /// Those that wait, in order.
    waiting: VecDeque<Number>,
    /// Those in requests, in order.
    handed: VecDeque<Number>,
    /// How many of the next go alone: a batch that was rejected, to find the one that it is about.
    alone: usize,
}

/// A request to make.
pub struct Job {
    pub ticket: Ticket,
    pub head: Arc<HeaderMap>,
    /// Of a single message; the events of several have ids of their own.
    pub id: Option<HeaderValue>,
    pub body: Bytes,
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub lane: usize,
    first: Number,
    /// How many messages are in it.
    pub count: usize,
}

impl Lanes {
    pub fn new(concurrency: usize, batch: usize) -> Self {
        Self { flight: VecDeque::new(), first: 0, lanes: vec![Lane::default(); concurrency], batch }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Forgets all messages and all requests; tickets that are still out are for none.
    pub fn clear(&mut self) {
        self.first += self.flight.len() as Number;
        self.flight.clear();
        self.lanes.fill(Lane::default());
    }

    pub fn push(&mut self, key: &str, content: Content) {
        let number = self.first + self.flight.len() as Number;
        self.flight.push_back(Entry { content: Some(content), outcome: Outcome::Waiting });
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let lane = (hasher.finish() % self.lanes.len() as u64) as usize;
        self.lanes[lane].waiting.push_back(number);
    }

    /// A lane's next request, if something waits and its turn has come.
    pub fn next(&mut self, lane: usize) -> Option<Job> {
        let is_free = self.batch == 1 || self.lanes[lane].handed.is_empty();
        let first = self.lanes[lane].waiting.pop_front_if(|_| is_free)?;
        let alone = &mut self.lanes[lane].alone;
        let limit = if *alone > 0 { 1 } else { self.batch };
        *alone = alone.saturating_sub(1);
        self.lanes[lane].handed.push_back(first);
        let joined = if limit > 1 { self.join(lane, first, limit) } else { None };
        let ticket = |count| Ticket { lane, first, count };
        if let Some((count, head, body)) = joined {
            return Some(Job { ticket: ticket(count), head, id: None, body });
        }
        let Content { head, id, body } = self.entry(first)?.content.take()?;
        Some(Job { ticket: ticket(1), head, id, body })
    }

    /// Joins those that wait to `first`, up to `limit` in all; `None` if there are none that can be:
    /// only envelopes can.
    fn join(&mut self, lane: usize, first: Number, limit: usize) -> Option<(usize, Arc<HeaderMap>, Bytes)> {
        let content = self.entry(first)?.content.as_ref()?;
        let head = Arc::clone(&content.head);
        let mut events = vec![inside_envelope(&content.body)?];
        while events.len() < limit
            && let Some(&next) = self.lanes[lane].waiting.front()
            && let Some(content) = self.entry(next).and_then(|entry| entry.content.as_ref())
            && let Some(event) = inside_envelope(&content.body)
        {
            self.lanes[lane].waiting.pop_front();
            self.lanes[lane].handed.push_back(next);
            events.push(event);
        }
        (events.len() > 1).then(|| (events.len(), head, envelope(&events)))
    }

    pub fn taken(&mut self, ticket: Ticket) {
        self.done(ticket, &Outcome::Taken);
    }

    /// One message becomes rejected; several wait again, to go one by one.
    pub fn rejected(&mut self, ticket: Ticket, rejection: Rejection) {
        if ticket.count == 1 {
            return self.done(ticket, &Outcome::Rejected(rejection));
        }
        let lane = &mut self.lanes[ticket.lane];
        if lane.handed.front() == Some(&ticket.first) {
            lane.alone = ticket.count;
            lane.handed.drain(..).rev().for_each(|number| lane.waiting.push_front(number));
        }
    }

    /// A ticket that is not for the oldest request of its lane is for none: all was forgotten since.
    fn done(&mut self, ticket: Ticket, outcome: &Outcome) {
        if self.lanes[ticket.lane].handed.front() != Some(&ticket.first) {
            return;
        }
        for _ in 0..ticket.count {
            let number = self.lanes[ticket.lane].handed.pop_front();
            if let Some(entry) = number.and_then(|number| self.entry(number)) {
                entry.outcome = outcome.clone();
            }
        }
    }

    fn entry(&mut self, number: Number) -> Option<&mut Entry> {
        self.flight.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Takes off what is settled, up to the first that is not; `None` when the oldest is not.
    pub fn take_settled(&mut self) -> Option<Settled> {
        let mut settled = Settled::default();
        while let Some(Entry { outcome: Outcome::Taken | Outcome::Rejected(_), .. }) = self.flight.front() {
            if let Some(Entry { outcome: Outcome::Rejected(rejection), .. }) = self.flight.pop_front() {
                settled.rejected.push((settled.count, rejection));
            }
            settled.count += 1;
        }
        self.first += settled.count as Number;
        (settled.count > 0).then_some(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lanes: &mut Lanes, key: &str, event: &str) {
        lanes.push(key, content(envelope(&[Bytes::from(event.to_owned())])));
    }

    fn content(body: Bytes) -> Content {
        Content { head: Arc::default(), id: Some(HeaderValue::from_static("i")), body }
    }

    fn next(lanes: &mut Lanes) -> Option<Job> {
        (0..lanes.count()).find_map(|lane| lanes.next(lane))
    }

    fn rejection() -> Rejection {
        Rejection { code: "rejected", text: "so".into() }
    }

    #[test]
    fn a_key_has_one_lane_and_there_one_request_at_a_time() {
        // What can be taken apart is waited for; else the lane's task has it ahead.
        for (batch, ahead) in [(1, 3), (2, 1)] {
            let mut lanes = Lanes::new(4, batch);
            for _ in 0..3 {
                lanes.push("a", content(Bytes::from("{}")));
            }
            let handed: Vec<_> = std::iter::from_fn(|| next(&mut lanes)).collect();
            assert_eq!(handed.len(), ahead, "{batch}");
            assert!(handed.iter().all(|job| job.ticket.lane == handed[0].ticket.lane));
            for job in handed {
                lanes.taken(job.ticket);
            }
            assert_eq!(lanes.take_settled().expect("some").count, ahead, "{batch}");
            assert_eq!(next(&mut lanes).is_some(), ahead < 3, "{batch}");
        }
    }

    #[test]
    fn keys_run_beside_each_other() {
        let mut lanes = Lanes::new(8, 2);
        for key in 0..100 {
            lanes.push(&key.to_string(), content(Bytes::from("{}")));
        }
        let jobs: Vec<_> = std::iter::from_fn(|| next(&mut lanes)).collect();
        assert_eq!(jobs.len(), 8);
    }

    #[test]
    fn envelopes_are_joined_and_nothing_else() {
        let mut lanes = Lanes::new(1, 3);
        for event in ["1", "2", "3", "4"] {
            push(&mut lanes, "a", event);
        }
        lanes.push("a", content(Bytes::from("{}")));
        for expected in ["{\"events\":[1,2,3]}", "{\"events\":[4]}", "{}"] {
            let job = next(&mut lanes).expect("a job");
            assert_eq!(job.body, expected);
            lanes.taken(job.ticket);
        }
        assert_eq!(lanes.take_settled().expect("all").count, 5);
    }

    #[test]
    fn a_rejected_batch_goes_one_by_one() {
        let mut lanes = Lanes::new(1, 3);
        for event in ["1", "2", "3", "4"] {
            push(&mut lanes, "a", event);
        }
        let job = next(&mut lanes).expect("a batch");
        lanes.rejected(job.ticket, rejection());
        assert!(lanes.take_settled().is_none());
        for expected in ["{\"events\":[1]}", "{\"events\":[2]}", "{\"events\":[3]}"] {
            let job = next(&mut lanes).expect("a job");
            assert_eq!(job.body, expected);
            match expected.contains('2') {
                true => lanes.rejected(job.ticket, rejection()),
                false => lanes.taken(job.ticket),
            }
        }
        let settled = lanes.take_settled().expect("three");
        assert_eq!((settled.count, settled.rejected), (3, vec![(1, rejection())]));
        assert_eq!(next(&mut lanes).expect("the next batch").ticket.count, 1);
    }

    #[test]
    fn late_answers_meet_nobody() {
        let mut lanes = Lanes::new(1, 1);
        push(&mut lanes, "a", "1");
        let old = next(&mut lanes).expect("a job");
        lanes.clear();
        push(&mut lanes, "a", "2");
        let fresh = next(&mut lanes).expect("a job");
        lanes.taken(old.ticket);
        assert!(lanes.take_settled().is_none());
        lanes.taken(fresh.ticket);
        assert_eq!(lanes.take_settled().expect("the fresh one").count, 1);
    }
}
