//! Live events, routed once for all sinks and handed out from memory.
//!
//! One task reads the journal's head and routes each event; a worker that keeps up takes its hits
//! from there, and one that lags reads the journal by itself. Only sinks that are hit are woken, so
//! a hundred sinks that each take one event in a hundred cost little more than one that takes all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::journal::{Journal, Offset, ReadError, Stored};
use crate::route::{Table, TargetId};

/// How much is read from the journal at a time, in bytes.
const READ_BYTES: usize = 1 << 20;
/// How much of the newest is kept for workers that are a little behind, in bytes of events and in
/// runs.
const RECENT_BYTES_MAX: usize = 4 << 20;
const RECENT_RUNS_MAX: usize = 4096;

/// One event for one target of one sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub sink: u32,
    /// The event's place in its run.
    pub event: u32,
    pub target: TargetId,
}

/// A run of events with what the table says of them.
#[derive(Debug)]
pub struct Run {
    pub first: Offset,
    pub next: Offset,
    pub events: Arc<[Stored]>,
    /// By sink, then by event.
    hits: Vec<Hit>,
}

impl Run {
    /// The hits of one sink.
    pub fn hits(&self, sink: usize) -> &[Hit] {
        let sink = sink as u32;
        let from = self.hits.partition_point(|hit| hit.sink < sink);
        let to = self.hits.partition_point(|hit| hit.sink <= sink);
        &self.hits[from..to]
    }

    /// Whether these hits are a small part of the run's bytes.
    pub fn is_sparse(&self, hits: &[Hit]) -> bool {
        let hit: usize = hits.iter().map(|hit| self.events[hit.event as usize].event.weight()).sum();
        hit * 2 < self.bytes()
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|stored| stored.event.weight()).sum()
    }
}

/// Routes a run; `only` leaves all sinks but one out.
pub fn route(table: &Table, first: Offset, next: Offset, events: Arc<[Stored]>, only: Option<usize>) -> Run {
    let mut hits = Vec::new();
    let mut targets = Vec::new();
    for (index, stored) in events.iter().enumerate() {
        targets.clear();
        table.route(&stored.event, &mut targets);
        for &target in &targets {
            let sink = table.target(target).sink;
            if only.is_none_or(|only| only == sink) {
                hits.push(Hit { sink: sink as u32, event: index as u32, target });
            }
        }
    }
    hits.sort_unstable();
    Run { first, next, events, hits }
}

/// What a sink's worker last said of itself.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Behind, or not yet begun: it reads on by itself.
    Behind,
    /// It has seen everything that was routed when it said so. `idle`: and nothing of it is in flight.
    CaughtUp { idle: bool },
    /// Something for it came since, in the run that begins here.
    Hit(Offset),
}

#[derive(Debug)]
struct State {
    recent: VecDeque<Arc<Run>>,
    bytes: usize,
    /// Everything below is routed.
    routed: Offset,
    places: Vec<Place>,
}

/// The shared end: one a relay.
pub struct Feed {
    journal: Arc<dyn Journal>,
    table: Arc<Table>,
    state: Mutex<State>,
    wakes: Vec<Notify>,
}

impl Feed {
    /// A feed from the journal's head on, for as many sinks as the table may name.
    pub fn new(journal: Arc<dyn Journal>, table: Arc<Table>, sinks: usize) -> Self {
        let state = State {
            recent: VecDeque::new(),
            bytes: 0,
            routed: journal.head(),
            places: vec![Place::Behind; sinks],
        };
        let wakes = (0..sinks).map(|_| Notify::new()).collect();
        Self { journal, table, state: Mutex::new(state), wakes }
    }

    /// Routes what comes until the journal is closed or the future dropped.
    pub async fn run(&self) {
        let mut from = self.lock().routed;
        loop {
            match self.journal.read(from, READ_BYTES).await {
                Ok(chunk) => {
                    let run = route(&self.table, from, chunk.next, chunk.events, None);
                    from = run.next;
                    self.publish(run);
                    // Those who were woken go first: when they have much to do, what comes meanwhile is
                    // routed at once, and a hundred sinks are woken less often for more.
                    tokio::task::yield_now().await;
                }
                Err(ReadError::Closed) => return,
                Err(ReadError::Io(what)) => {
                    tracing::error!(%what, offset = from, "the journal cannot be read; trying again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn publish(&self, run: Run) {
        let mut woken = Vec::new();
        {
            let mut state = self.lock();
            let mut last = None;
            for hit in &run.hits {
                let sink = hit.sink as usize;
                if last.replace(sink) != Some(sink) && matches!(state.places[sink], Place::CaughtUp { .. }) {
                    state.places[sink] = Place::Hit(run.first);
                    woken.push(sink);
                }
            }
            state.routed = run.next;
            state.bytes += run.bytes();
            state.recent.push_back(Arc::new(run));
            while state.recent.len() > 1
                && (state.bytes > RECENT_BYTES_MAX || state.recent.len() > RECENT_RUNS_MAX)
            {
                if let Some(oldest) = state.recent.pop_front() {
                    state.bytes -= oldest.bytes();
                }
            }
        }
        for sink in woken {
            self.wakes[sink].notify_one();
        }
    }

    /// Where idle sinks stand: everything below is done for them, though they were never woken.
    pub fn idle(&self) -> (Offset, Vec<usize>) {
        let state = self.lock();
        let idle =
            |(sink, place): (usize, &Place)| matches!(place, Place::CaughtUp { idle: true }).then_some(sink);
        (state.routed, state.places.iter().enumerate().filter_map(idle).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reader finds.
pub enum Next {
    /// Something for the sink: hits of this run from this event on.
    Run(Arc<Run>),
    /// What was just read from the journal, with hits or without.
    Read(Arc<Run>),
    /// Nothing now: the reader has seen everything.
    CaughtUp,
}

/// One sink's end.
pub struct FeedReader {
    feed: Arc<Feed>,
    sink: usize,
    /// Everything below has been handed out, or is not for this sink.
    at: Offset,
    /// The run that `at` stands in.
    run: Option<Arc<Run>>,
    /// Offsets that were gone when they were to be read.
    lost: u64,
}

impl FeedReader {
    /// A reader from `at` on; the sink's only one from now on.
    pub fn new(feed: Arc<Feed>, sink: usize, at: Offset) -> Self {
        feed.lock().places[sink] = Place::Behind;
        Self { feed, sink, at, run: None, lost: 0 }
    }

    /// Everything below has been handed out, or is not for this sink.
    pub fn at(&self) -> Offset {
        self.at
    }

    /// The sink's index in the table.
    pub fn sink(&self) -> usize {
        self.sink
    }

    /// The table that the hits' targets stand in.
    pub fn table(&self) -> &Table {
        &self.feed.table
    }

    /// How many offsets were gone since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Moves on to the run with the next hit in the feed's memory. Where that does not reach back it
    /// reads the journal, once: a sink that lags and takes one event in a thousand would else go through
    /// all of the backlog before it sent the first. `idle`: nothing of the sink is in flight. Dropping
    /// the future loses nothing.
    ///
    /// # Errors
    /// The journal's.
    pub async fn next(&mut self, idle: bool) -> Result<Next, ReadError> {
        loop {
            if let Some(run) = self.run.clone() {
                let left =
                    run.hits(self.sink).iter().any(|hit| run.events[hit.event as usize].offset >= self.at);
                if left {
                    return Ok(Next::Run(run));
                }
                self.at = run.next;
                self.run = None;
            }
            match self.look(idle) {
                Looked::Run(run) => self.run = Some(run),
                Looked::CaughtUp => return Ok(Next::CaughtUp),
                Looked::Behind => {
                    let run = Arc::new(self.read().await?);
                    self.run = Some(run.clone());
                    return Ok(Next::Read(run));
                }
            }
        }
    }

    /// Notes that everything up to `offset` has been taken.
    pub fn advance(&mut self, offset: Offset) {
        self.at = self.at.max(offset + 1);
    }

    /// How many events with hits stand from [`FeedReader::at`] on below `offset`.
    ///
    /// # Errors
    /// The journal's.
    pub async fn count_below(&self, offset: Offset) -> Result<u64, ReadError> {
        let (mut at, mut count) = (self.at, 0);
        while at < offset {
            let chunk = self.feed.journal.read(at, READ_BYTES).await?;
            let run = route(&self.feed.table, at, chunk.next, chunk.events, Some(self.sink));
            let events = run.hits(self.sink).chunk_by(|a, b| a.event == b.event);
            count += events.filter(|hits| run.events[hits[0].event as usize].offset < offset).count() as u64;
            at = run.next;
        }
        Ok(count)
    }

    /// Leaves out what stands below `offset`.
    pub fn skip_to(&mut self, offset: Offset) {
        if offset > self.at {
            self.feed.lock().places[self.sink] = Place::Behind;
            self.at = offset;
            self.run = None;
        }
    }

    /// Waits until there may be something; call after [`Next::CaughtUp`].
    pub async fn wait(&self) {
        self.feed.wakes[self.sink].notified().await;
    }

    /// The next run in memory with a hit.
    fn look(&mut self, idle: bool) -> Looked {
        let mut state = self.feed.lock();
        match state.places[self.sink] {
            Place::Behind => {}
            Place::CaughtUp { .. } => self.at = self.at.max(state.routed),
            Place::Hit(first) => self.at = self.at.max(first),
        }
        if self.at >= state.routed {
            state.places[self.sink] = Place::CaughtUp { idle };
            return Looked::CaughtUp;
        }
        state.places[self.sink] = Place::Behind;
        if state.recent.front().is_none_or(|oldest| oldest.first > self.at) {
            return Looked::Behind;
        }
        let from = state.recent.partition_point(|run| run.next <= self.at);
        let found = state.recent.iter().skip(from).find(|run| !run.hits(self.sink).is_empty()).cloned();
        match found {
            Some(run) => {
                self.at = self.at.max(run.first);
                Looked::Run(run)
            }
            None => {
                self.at = state.routed;
                state.places[self.sink] = Place::CaughtUp { idle };
                Looked::CaughtUp
            }
        }
    }

    async fn read(&mut self) -> Result<Run, ReadError> {
        let chunk = self.feed.journal.read(self.at, READ_BYTES).await?;
        self.lost += chunk.lost;
        Ok(route(&self.feed.table, self.at, chunk.next, chunk.events, Some(self.sink)))
    }
}

enum Looked {
    Run(Arc<Run>),
    CaughtUp,
    Behind,
}
