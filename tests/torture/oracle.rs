//! Holds what arrived against what was sent, one arrival at a time: a bit for each event and sink is all
//! that it keeps.

use std::collections::{BTreeMap, HashSet};

use crate::{
    event::{Name, REPOSITORIES, Recipe},
    plan::SINKS,
};

/// Violations that are kept to be shown; more are only counted.
const SHOWN_MAX: usize = 10;

/// Violations of one property.
#[derive(Debug, Default)]
pub struct Violations {
    pub count: u64,
    pub shown: Vec<String>,
}

impl Violations {
    pub fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(text());
        }
    }
}

/// One sender's events at one sink.
#[derive(Debug, Default, Clone)]
struct Arrived {
    bits: Vec<u64>,
    /// For each repository the latest event that has arrived, plus one.
    latest: [u64; REPOSITORIES as usize],
}

impl Arrived {
    /// Whether it is the first time.
    fn note(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let first = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        first
    }

    fn has(&self, number: u64) -> bool {
        self.bits.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

/// What one sink has.
#[derive(Debug, Default)]
struct AtSink {
    senders: Vec<Arrived>,
    arrivals: u64,
    repeats: Vec<Name>,
    letters: BTreeMap<Name, String>,
    /// By sender: events from one number to another, which no fault that touches this sink can have
    /// disturbed.
    quiet: Vec<Vec<(u64, u64)>>,
}

/// A sink's figures.
#[derive(Debug, Default)]
pub struct Figures {
    pub arrivals: u64,
    pub firsts: u64,
    pub repeats: u64,
    /// Dead letters that are too large, and others.
    pub too_large: u64,
    pub other_letters: u64,
    /// Missing, and damaged by the harness itself.
    pub damaged: u64,
    pub lost: u64,
    /// Events that had to come exactly once.
    pub quiet: u64,
}

pub struct Oracle {
    recipe: Recipe,
    sinks: Vec<AtSink>,
    /// Records that the harness itself has damaged after they were acknowledged.
    damaged: HashSet<Name>,
    pub lost: Violations,
    pub foreign: Violations,
    pub order: Violations,
    pub repeats: Violations,
}

impl Oracle {
    pub fn new(recipe: Recipe, senders: u32) -> Self {
        let empty = || AtSink {
            senders: vec![Arrived::default(); senders as usize],
            quiet: vec![Vec::new(); senders as usize],
            ..AtSink::default()
        };
        Self {
            recipe,
            sinks: SINKS.iter().map(|_| empty()).collect(),
            damaged: HashSet::new(),
            lost: Violations::default(),
            foreign: Violations::default(),
            order: Violations::default(),
            repeats: Violations::default(),
        }
    }

    pub fn damaged(&mut self, name: Name) {
        self.damaged.insert(name);
    }

    pub fn damaged_count(&self) -> usize {
        self.damaged.len()
    }

    /// Events of each sender, `from` each number up to `to`, come exactly once to `sink`.
    pub fn quiet(&mut self, sink: usize, from: &[u64], to: &[u64]) {
        for (ranges, (&from, &to)) in self.sinks[sink].quiet.iter_mut().zip(from.iter().zip(to)) {
            if from < to {
                ranges.push((from, to));
            }
        }
    }

    /// One message at `sink`. Its bytes are the event's, without white space where the sink writes lines.
    pub fn arrival(&mut self, sink: usize, id: &str, key: Option<&str>, body: &[u8]) {
        let here = SINKS[sink];
        let known =
            self.recipe.name(id).filter(|name| (name.sender as usize) < self.sinks[sink].senders.len());
        let Some(name) = known else {
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            return self.foreign.add(|| format!("{here}: `{id}` is no event of this run: {text}"));
        };
        let expected = if here == "file" { self.recipe.line(name) } else { self.recipe.event(name) };
        if expected.as_bytes() != body {
            self.foreign.add(|| format!("{here}: {name:?} is not as it was sent, {} bytes", body.len()));
        }
        if key.is_some_and(|key| key != self.recipe.repository(name)) {
            self.foreign.add(|| format!("{here}: {name:?} has the key {key:?}"));
        }
        let lane = self.recipe.lane(name);
        let sink = &mut self.sinks[sink];
        sink.arrivals += 1;
        let sender = &mut sink.senders[name.sender as usize];
        if !sender.note(name.number) {
            sink.repeats.push(name);
        } else if name.number < sender.latest[lane] {
            let latest = sender.latest[lane] - 1;
            self.order.add(|| format!("{here}: {name:?} came first after {latest} of its repository"));
        } else {
            sender.latest[lane] = name.number + 1;
        }
    }

    /// A dead letter of `sink`.
    pub fn letter(&mut self, sink: usize, id: &str, code: &str, event: &str) {
        let here = SINKS[sink];
        let Some(name) = self.recipe.name(id) else {
            return self.foreign.add(|| format!("{here}: the dead letter `{id}` is no event of this run"));
        };
        if event != self.recipe.event(name) {
            self.foreign.add(|| format!("{here}: the dead letter {name:?} is not as it was sent"));
        }
        self.sinks[sink].letters.insert(name, code.to_owned());
    }

    /// Holds what was taken, by sender the number of events, against what has come.
    pub fn conclude(&mut self, taken: &[u64]) -> Vec<Figures> {
        (0..SINKS.len()).map(|sink| self.conclude_sink(sink, taken)).collect()
    }

    fn conclude_sink(&mut self, number: usize, taken: &[u64]) -> Figures {
        let (here, sink) = (SINKS[number], &self.sinks[number]);
        let mut figures = Figures { arrivals: sink.arrivals, ..Figures::default() };
        for (sender, &taken) in taken.iter().enumerate() {
            let arrived = &sink.senders[sender];
            for name in (0..taken).map(|number| Name { sender: sender as u32, number }) {
                if arrived.has(name.number) {
                    figures.firsts += 1;
                } else if sink.letters.contains_key(&name) {
                } else if self.damaged.contains(&name) {
                    figures.damaged += 1;
                } else {
                    figures.lost += 1;
                    self.lost.add(|| format!("{here}: {name:?} was answered 2xx and is not there"));
                }
            }
            let beyond = arrived.latest.iter().copied().max().unwrap_or(0);
            if beyond > taken {
                self.foreign.add(|| format!("{here}: sender {sender} has not sent event {}", beyond - 1));
            }
            figures.quiet += sink.quiet[sender].iter().map(|(from, to)| to - from).sum::<u64>();
        }
        for (name, code) in &sink.letters {
            if self.recipe.is_huge(*name) && number != 3 && number != 1 {
                figures.too_large += 1;
            } else {
                figures.other_letters += 1;
                self.lost.add(|| format!("{here}: {name:?} is a dead letter ({code}) for no good reason"));
            }
        }
        figures.repeats = sink.repeats.len() as u64;
        for name in &sink.repeats {
            let ranges = &sink.quiet[name.sender as usize];
            if ranges.iter().any(|(from, to)| (*from..*to).contains(&name.number)) {
                self.repeats.add(|| format!("{here}: {name:?} came twice, with no fault to excuse it"));
            }
        }
        figures
    }
}
