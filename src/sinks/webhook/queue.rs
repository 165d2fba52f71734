//! The messages in flight, and which of them may be requested next.
//!
//! The events of a key must arrive in order, so none is requested before the one ahead of it is settled.
//! Beyond that any connection may take any message, the oldest first: a connection that is done never
//! waits while there is something that may go.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};

use crate::sinks::format::{envelope, inside_envelope};
use crate::sinks::{Rejection, Settled};

/// A message's place in the order of all that was sent, from 0.
type Number = u64;

/// A key's hash. Two keys that share one share their order.
type Key = u64;

/// The messages in flight.
pub struct Queue {
    /// Oldest first.
    flight: VecDeque<Entry>,
    /// The oldest one's number.
    first: Number,
    /// Those keys of which something waits or is on its way.
    keys: HashMap<Key, Line>,
    /// The next message of each key of which nothing is on its way.
    ready: BTreeMap<Number, Key>,
    /// The most messages in one request.
    batch: usize,
}

/// What of a message goes into its request.
#[derive(Clone)]
pub struct Content {
    /// All headers but the id.
    pub head: Arc<HeaderMap>,
    /// Of a single message; the events of several have ids of their own.
    pub id: Option<HeaderValue>,
    pub body: Bytes,
}

struct Entry {
    key: Key,
    /// `None` once it is in a request of its own: that is never made again.
    content: Option<Content>,
    outcome: Outcome,
}

enum Outcome {
    Waiting,
    Taken,
    Rejected(Rejection),
}

/// The messages of one key.
#[derive(Default)]
struct Line {
    /// Those that wait, in order.
    waiting: VecDeque<Number>,
    /// How many are on their way, in one request.
    handed: usize,
    /// How many of the next go alone: a batch that was rejected, to find the one that it is about.
    alone: usize,
}

/// A request to make.
pub struct Job {
    pub ticket: Ticket,
    pub content: Content,
}

/// The messages that a request is about, in order.
#[derive(Debug)]
pub struct Ticket(Vec<Number>);

impl Queue {
    pub fn new(batch: usize) -> Self {
        let (flight, keys, ready) = (VecDeque::new(), HashMap::new(), BTreeMap::new());
        Self { flight, first: 0, keys, ready, batch }
    }

    pub fn push(&mut self, key: &str, content: Content) {
        let number = self.first + self.flight.len() as Number;
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let key = hasher.finish();
        self.flight.push_back(Entry { key, content: Some(content), outcome: Outcome::Waiting });
        let line = self.keys.entry(key).or_default();
        if line.handed == 0 && line.waiting.is_empty() {
            self.ready.insert(number, key);
        }
        line.waiting.push_back(number);
    }

    /// Whether there is a request that may be made now.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next request that may be made.
    pub fn next(&mut self) -> Option<Job> {
        let (&first, key) = self.ready.first_key_value()?;
        let line = self.keys.get_mut(key)?;
        let limit = if line.alone > 0 { 1 } else { self.batch };
        line.alone = line.alone.saturating_sub(1);
        let job = self.joined(first, limit).or_else(|| self.single(first))?;
        for number in &job.ticket.0 {
            let key = self.entry(*number)?.key;
            let line = self.keys.get_mut(&key)?;
            line.handed += 1;
            line.waiting.pop_front();
            self.ready.remove(number);
        }
        Some(job)
    }

    fn single(&mut self, number: Number) -> Option<Job> {
        let is_never_joined = self.batch == 1;
        let content = &mut self.entry(number)?.content;
        let content = if is_never_joined { content.take()? } else { content.clone()? };
        Some(Job { ticket: Ticket(vec![number]), content })
    }

    /// Joins the oldest messages that may go to `first`, up to `limit` in all; `None` if there are none
    /// that can be: only envelopes can.
    fn joined(&self, first: Number, limit: usize) -> Option<Job> {
        if limit == 1 {
            return None;
        }
        let (mut numbers, mut events) = (Vec::new(), Vec::new());
        // Behind a message that is in, the next of its key may be too.
        let ready = self.ready.iter().take(limit);
        let mut candidates: BTreeMap<_, _> = ready.map(|(number, key)| (*number, *key)).collect();
        while events.len() < limit
            && let Some((number, key)) = candidates.pop_first()
            && let Some(line) = self.keys.get(&key).filter(|line| line.alone == 0)
            && let Some(content) = self.get(number).and_then(|entry| entry.content.as_ref())
            && let Some(event) = inside_envelope(&content.body)
        {
            numbers.push(number);
            events.push(event);
            let place = line.waiting.partition_point(|waiting| *waiting <= number);
            candidates.extend(line.waiting.get(place).map(|next| (*next, key)));
        }
        let head = Arc::clone(&self.get(first)?.content.as_ref()?.head);
        let content = || Content { head, id: None, body: envelope(&events) };
        (numbers.len() > 1).then(|| Job { content: content(), ticket: Ticket(numbers) })
    }

    pub fn taken(&mut self, ticket: &Ticket) {
        for &number in &ticket.0 {
            self.done(number, Outcome::Taken);
        }
    }

    /// One message becomes rejected; several wait again, to go one by one.
    pub fn rejected(&mut self, ticket: &Ticket, rejection: Rejection) {
        if let [number] = ticket.0[..] {
            return self.done(number, Outcome::Rejected(rejection));
        }
        for &number in ticket.0.iter().rev() {
            let Some(key) = self.get(number).map(|entry| entry.key) else { continue };
            let line = self.keys.entry(key).or_default();
            line.alone += 1;
            line.waiting.push_front(number);
            self.back(key);
        }
    }

    fn done(&mut self, number: Number, outcome: Outcome) {
        let Some(entry) = self.entry(number) else { return };
        (entry.outcome, entry.content) = (outcome, None);
        let key = entry.key;
        self.back(key);
    }

    /// One message of the key is no longer on its way.
    fn back(&mut self, key: Key) {
        let Some(line) = self.keys.get_mut(&key) else { return };
        line.handed = line.handed.saturating_sub(1);
        match line.waiting.front() {
            _ if line.handed > 0 => {}
            Some(&next) => {
                self.ready.insert(next, key);
            }
            None => {
                self.keys.remove(&key);
            }
        }
    }

    fn get(&self, number: Number) -> Option<&Entry> {
        self.flight.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
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

    /// A message that is an envelope of one event.
    fn push(queue: &mut Queue, key: &str, event: &str) {
        queue.push(key, content(envelope(&[Bytes::from(event.to_owned())])));
    }

    fn content(body: impl Into<Bytes>) -> Content {
        Content { head: Arc::default(), id: Some(HeaderValue::from_static("i")), body: body.into() }
    }

    fn rejection() -> Rejection {
        Rejection { code: "rejected", text: "so".into() }
    }

    fn all(queue: &mut Queue) -> Vec<Job> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn a_key_has_one_request_at_a_time() {
        for batch in [1, 2] {
            let mut queue = Queue::new(batch);
            for body in ["{1}", "{2}", "{3}"] {
                queue.push("a", content(body));
            }
            for body in ["{1}", "{2}", "{3}"] {
                let jobs = all(&mut queue);
                assert_eq!(
                    jobs.iter().map(|job| &job.content.body[..]).collect::<Vec<_>>(),
                    [body.as_bytes()]
                );
                queue.taken(&jobs[0].ticket);
                assert_eq!(queue.take_settled().expect("it").count, 1);
            }
            assert!(!queue.is_ready() && queue.keys.is_empty(), "nothing is kept of a key without messages");
        }
    }

    #[test]
    fn the_oldest_that_may_go_is_next() {
        let mut queue = Queue::new(1);
        for (key, body) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"), ("b", "b2")] {
            queue.push(key, content(body));
        }
        let jobs = all(&mut queue);
        assert_eq!(jobs.iter().map(|job| &job.content.body[..]).collect::<Vec<_>>(), [b"a1", b"b1", b"c1"]);
        queue.taken(&jobs[1].ticket);
        queue.taken(&jobs[0].ticket);
        assert_eq!(queue.next().expect("a job").content.body, "a2");
        assert_eq!(queue.take_settled().expect("one").count, 1);
        assert_eq!(queue.next().expect("a job").content.body, "b2");
        assert!(!queue.is_ready());
    }

    #[test]
    fn envelopes_are_joined_and_nothing_else() {
        let mut queue = Queue::new(3);
        for (key, event) in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")] {
            push(&mut queue, key, event);
        }
        queue.push("a", content("{}"));
        let job = queue.next().expect("a job");
        assert_eq!(job.content.body, "{\"events\":[1,2,3]}");
        assert!(!queue.is_ready(), "both keys have something on its way");
        queue.taken(&job.ticket);
        for expected in ["{\"events\":[4]}", "{}"] {
            let job = queue.next().expect("a job");
            assert_eq!(job.content.body, expected);
            queue.taken(&job.ticket);
        }
        assert_eq!(queue.take_settled().expect("all").count, 5);
    }

    #[test]
    fn a_rejected_batch_goes_one_by_one() {
        let mut queue = Queue::new(3);
        for (key, event) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("a", "5")] {
            push(&mut queue, key, event);
        }
        let job = queue.next().expect("a batch");
        queue.rejected(&job.ticket, rejection());
        assert!(queue.take_settled().is_none());
        for (batch, rejected) in [(["1", "2"].as_slice(), "1"), (&["3"], "")] {
            let jobs = all(&mut queue);
            for (job, event) in jobs.iter().zip(batch) {
                assert_eq!(job.content.body, format!("{{\"events\":[{event}]}}"));
                match *event == rejected {
                    true => queue.rejected(&job.ticket, rejection()),
                    false => queue.taken(&job.ticket),
                }
            }
            assert_eq!(jobs.len(), batch.len());
        }
        let settled = queue.take_settled().expect("three");
        assert_eq!((settled.count, settled.rejected), (3, vec![(0, rejection())]));
        assert_eq!(queue.next().expect("the next batch").content.body, "{\"events\":[4,5]}");
    }
}
