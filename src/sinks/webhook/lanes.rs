//! The messages in flight, and which of them may be requested next.
//!
//! A message's key decides its lane, and a lane has one request on its way at a time: so the events
//! of a key arrive in order, however many lanes there are.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use reqwest::header::HeaderMap;

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

struct Entry {
    headers: HeaderMap,
    body: Bytes,
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
    is_busy: bool,
    /// How many of the next go alone: a batch that was rejected, to find the one that it is about.
    alone: usize,
}

/// A request to make.
pub struct Job {
    pub lane: usize,
    /// How many messages are in it.
    pub count: usize,
    pub headers: HeaderMap,
    pub body: Bytes,
    numbers: Vec<Number>,
}

/// What a request was about, once it has its answer.
pub struct Ticket {
    lane: usize,
    numbers: Vec<Number>,
}

impl Job {
    pub fn ticket(&mut self) -> Ticket {
        Ticket { lane: self.lane, numbers: std::mem::take(&mut self.numbers) }
    }
}

impl Lanes {
    pub fn new(concurrency: usize, batch: usize) -> Self {
        Self { flight: VecDeque::new(), first: 0, lanes: vec![Lane::default(); concurrency], batch }
    }

    /// Forgets all messages and all requests; tickets that are still out are for none.
    pub fn clear(&mut self) {
        self.first += self.flight.len() as Number;
        self.flight.clear();
        self.lanes.fill(Lane::default());
    }

    pub fn push(&mut self, key: &str, headers: HeaderMap, body: Bytes) {
        let number = self.first + self.flight.len() as Number;
        self.flight.push_back(Entry { headers, body, outcome: Outcome::Waiting });
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let lane = (hasher.finish() % self.lanes.len() as u64) as usize;
        self.lanes[lane].waiting.push_back(number);
    }

    /// The next request of any lane that has none and of which something waits.
    pub fn next(&mut self) -> Option<Job> {
        let lane = self.lanes.iter().position(|lane| !lane.is_busy && !lane.waiting.is_empty())?;
        let (numbers, body) = self.take_batch(lane)?;
        self.lanes[lane].is_busy = true;
        let headers = self.entry(*numbers.first()?)?.headers.clone();
        Some(Job { lane, count: numbers.len(), headers, body, numbers })
    }

    /// Takes off a lane what goes into one request, with its body. Only envelopes can be joined.
    fn take_batch(&mut self, lane: usize) -> Option<(Vec<Number>, Bytes)> {
        let alone = &mut self.lanes[lane].alone;
        let limit = if *alone > 0 { 1 } else { self.batch };
        *alone = alone.saturating_sub(1);
        let first = self.lanes[lane].waiting.pop_front()?;
        let body = self.entry(first)?.body.clone();
        let Some(event) = inside_envelope(&body).filter(|_| limit > 1) else {
            return Some((vec![first], body));
        };
        let (mut numbers, mut events) = (vec![first], vec![event]);
        while numbers.len() < limit
            && let Some(next) = self.lanes[lane].waiting.front().copied()
            && let Some(event) = self.entry(next).and_then(|entry| inside_envelope(&entry.body))
        {
            self.lanes[lane].waiting.pop_front();
            numbers.push(next);
            events.push(event);
        }
        let body = if numbers.len() == 1 { body } else { envelope(&events) };
        Some((numbers, body))
    }

    pub fn taken(&mut self, ticket: Ticket) {
        self.done(&ticket, &Outcome::Taken);
    }

    /// One message becomes rejected; several wait again, to go one by one.
    pub fn rejected(&mut self, ticket: Ticket, rejection: Rejection) {
        if ticket.numbers.len() == 1 {
            return self.done(&ticket, &Outcome::Rejected(rejection));
        }
        let lane = &mut self.lanes[ticket.lane];
        lane.is_busy = false;
        lane.alone = ticket.numbers.len();
        ticket.numbers.into_iter().rev().for_each(|number| lane.waiting.push_front(number));
    }

    fn done(&mut self, ticket: &Ticket, outcome: &Outcome) {
        self.lanes[ticket.lane].is_busy = false;
        for &number in &ticket.numbers {
            if let Some(entry) = self.entry(number) {
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
        lanes.push(key, HeaderMap::new(), envelope(&[Bytes::from(event.to_owned())]));
    }

    fn rejection() -> Rejection {
        Rejection { code: "rejected", text: "so".into() }
    }

    #[test]
    fn a_key_has_one_request_at_a_time() {
        let mut lanes = Lanes::new(4, 1);
        for event in ["1", "2"] {
            push(&mut lanes, "a", event);
        }
        let mut job = lanes.next().expect("the first");
        assert_eq!(job.body, "{\"events\":[1]}");
        assert!(lanes.next().is_none());
        lanes.taken(job.ticket());
        assert_eq!(lanes.take_settled().expect("the first").count, 1);
        assert_eq!(lanes.next().expect("the second").body, "{\"events\":[2]}");
    }

    #[test]
    fn keys_run_beside_each_other() {
        let mut lanes = Lanes::new(8, 1);
        for key in 0..100 {
            push(&mut lanes, &key.to_string(), "{}");
        }
        let jobs: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
        assert_eq!(jobs.len(), 8);
    }

    #[test]
    fn envelopes_are_joined_and_nothing_else() {
        let mut lanes = Lanes::new(1, 3);
        for event in ["1", "2", "3", "4"] {
            push(&mut lanes, "a", event);
        }
        lanes.push("a", HeaderMap::new(), Bytes::from("{}"));
        for expected in ["{\"events\":[1,2,3]}", "{\"events\":[4]}", "{}"] {
            let mut job = lanes.next().expect("a job");
            assert_eq!(job.body, expected);
            lanes.taken(job.ticket());
        }
        assert_eq!(lanes.take_settled().expect("all").count, 5);
    }

    #[test]
    fn a_rejected_batch_goes_one_by_one() {
        let mut lanes = Lanes::new(1, 3);
        for event in ["1", "2", "3", "4"] {
            push(&mut lanes, "a", event);
        }
        let mut job = lanes.next().expect("a batch");
        lanes.rejected(job.ticket(), rejection());
        assert!(lanes.take_settled().is_none());
        for expected in ["{\"events\":[1]}", "{\"events\":[2]}", "{\"events\":[3]}"] {
            let mut job = lanes.next().expect("a job");
            assert_eq!(job.body, expected);
            match expected.contains('2') {
                true => lanes.rejected(job.ticket(), rejection()),
                false => lanes.taken(job.ticket()),
            }
        }
        let settled = lanes.take_settled().expect("three");
        assert_eq!((settled.count, settled.rejected), (3, vec![(1, rejection())]));
        assert_eq!(lanes.next().expect("the next batch").count, 1);
    }

    #[test]
    fn late_answers_meet_nobody() {
        let mut lanes = Lanes::new(1, 1);
        push(&mut lanes, "a", "1");
        let mut old = lanes.next().expect("a job");
        lanes.clear();
        push(&mut lanes, "a", "2");
        lanes.taken(old.ticket());
        assert!(lanes.take_settled().is_none());
    }
}
