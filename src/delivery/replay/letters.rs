//! Dead letters of a sink, tried again at that sink.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;

use super::Plan;
use crate::delivery::dead_letters::{DeadLetter, DeadLetters, LetterFilter};
use crate::delivery::source::{Room, Source, Supply, Taken};
use crate::event::Event;
use crate::journal::{ReadError, Stored};
use crate::route::Target;

/// How much is read at a time, in letters and in bytes of events.
const READ_LETTERS: usize = 256;
const READ_BYTES: usize = 1 << 20;

/// Letters that are done with are removed so many at a time, since each removal rewrites a file.
const REMOVE_AT: usize = 256;

/// The dead letters below `end` that a filter fits. One whose messages are all confirmed is removed;
/// one that dies again has meanwhile been replaced by the worker, under its id.
pub struct Letters {
    plan: Plan,
    store: Arc<DeadLetters>,
    filter: LetterFilter,
    /// All letters up to this id have been read.
    read_to: u64,
    end: u64,
    waiting: VecDeque<DeadLetter>,
    under_way: BTreeMap<u64, UnderWay>,
    confirmed: Vec<u64>,
    tally: Arc<Tally>,
}

/// What became of letters so far, beside what the sink's status tells.
#[derive(Debug, Default)]
pub struct Tally {
    /// Delivered, and removed.
    pub removed: AtomicU64,
    /// Left alone: today's routes send their events to this sink no more.
    pub unrouted: AtomicU64,
}

/// The messages of one letter.
#[derive(Debug)]
struct UnderWay {
    open: usize,
    all_confirmed: bool,
}

impl Letters {
    pub fn new(
        plan: Plan,
        store: Arc<DeadLetters>,
        filter: LetterFilter,
        end: u64,
        tally: Arc<Tally>,
    ) -> Self {
        Self {
            plan,
            store,
            filter,
            read_to: 0,
            end,
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            confirmed: Vec::new(),
            tally,
        }
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let (store, filter, after, end) = (self.store.clone(), self.filter.clone(), self.read_to, self.end);
        let read = tokio::task::spawn_blocking(move || batch(&store, &filter, after, end)).await;
        let (letters, read_to) = read
            .map_err(|error| ReadError::Io(error.to_string()))?
            .map_err(|error| ReadError::Io(error.to_string()))?;
        self.waiting.extend(letters);
        self.read_to = read_to;
        Ok(())
    }

    fn take_one(&mut self, letter: &DeadLetter, out: &mut Vec<Taken>) {
        let Ok(event) = Event::parse(letter.event.clone().into()) else {
            tracing::error!(id = letter.id, offset = letter.offset, "a dead letter's event cannot be read");
            return;
        };
        let stored = Stored { offset: letter.offset, arrived: letter.arrived, event };
        let targets: Vec<&Target> = self.plan.targets(&stored.event).collect();
        let before = out.len();
        self.plan.render(&stored, targets, letter.id, letter.id, out);
        keep_own_topic(&letter.topic, before, out);
        let open = out.len() - before;
        if open == 0 {
            self.tally.unrouted.fetch_add(1, Relaxed);
        } else {
            self.under_way.insert(letter.id, UnderWay { open, all_confirmed: true });
        }
    }

    async fn remove_confirmed(&mut self) -> Result<(), ReadError> {
        let mut ids = self.confirmed.clone();
        ids.sort_unstable();
        let store = self.store.clone();
        let removed = tokio::task::spawn_blocking(move || store.remove(&ids)).await;
        match removed {
            Ok(Ok(_)) => {
                self.confirmed.clear();
                Ok(())
            }
            Ok(Err(error)) => Err(ReadError::Io(error.to_string())),
            Err(error) => Err(ReadError::Io(error.to_string())),
        }
    }
}

/// An event may have had several topics here, and a letter is of one: the others got it. Only if
/// today's table no longer names that topic, all that it names are meant.
fn keep_own_topic(topic: &str, from: usize, out: &mut Vec<Taken>) {
    if let Some(own) = out[from..].iter().position(|taken| taken.message.topic == topic) {
        out.swap(from, from + own);
        out.truncate(from + 1);
    }
}

/// The next letters after id `after` and below `end`, and how far that is.
fn batch(
    store: &DeadLetters,
    filter: &LetterFilter,
    after: u64,
    end: u64,
) -> Result<(Vec<DeadLetter>, u64), crate::delivery::DeadLetterError> {
    let (mut letters, mut bytes, mut read_to) = (Vec::new(), 0, end - 1);
    store.visit(after, &mut |letter| {
        if letter.id >= end {
            return false;
        }
        if !filter.fits(&letter) {
            return true;
        }
        bytes += letter.event.len();
        read_to = letter.id;
        letters.push(letter);
        let full = letters.len() >= READ_LETTERS || bytes >= READ_BYTES;
        if !full {
            read_to = end - 1;
        }
        !full
    })?;
    Ok((letters, read_to))
}

#[async_trait]
impl Source for Letters {
    async fn take(&mut self, room: Room, _idle: bool, out: &mut Vec<Taken>) -> Result<Supply, ReadError> {
        if self.confirmed.len() >= REMOVE_AT {
            self.remove_confirmed().await?;
        }
        if self.waiting.is_empty() && self.read_to + 1 < self.end {
            self.read().await?;
        }
        let begin = out.len();
        while !room.without(&out[begin..]).is_none() {
            let Some(letter) = self.waiting.pop_front() else { break };
            self.take_one(&letter, out);
        }
        if self.waiting.is_empty() && self.read_to + 1 >= self.end {
            return Ok(Supply::Ended);
        }
        Ok(Supply::More)
    }

    async fn wait(&self) {
        std::future::pending().await
    }

    fn at(&self) -> u64 {
        self.waiting.front().map_or(self.read_to + 1, |letter| letter.id)
    }

    fn has_more(&self) -> bool {
        false
    }

    fn settled(&mut self, place: u64, confirmed: bool) {
        let Some(letter) = self.under_way.get_mut(&place) else { return };
        letter.open -= 1;
        letter.all_confirmed &= confirmed;
        if letter.open == 0 {
            if letter.all_confirmed {
                self.confirmed.push(place);
                self.tally.removed.fetch_add(1, Relaxed);
            }
            self.under_way.remove(&place);
        }
    }

    fn done_below(&mut self, _place: u64) {}

    async fn close(&mut self) {
        if let Err(error) = self.remove_confirmed().await {
            tracing::error!(%error, letters = self.confirmed.len(),
                "delivered dead letters cannot be removed; a further replay delivers them again");
        }
    }
}
