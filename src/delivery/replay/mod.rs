//! Delivering again, beside the live flow: out of the journal, or dead letters.
//!
//! A replay is a worker of its own with a sink of its own: the same policy, the same ids, dead
//! letters as usual, and nothing that the live flow would have to wait for. It ends when it has
//! come to its end, is cancelled, or the relay stops: it has no durable cursor.

mod letters;
mod list;
mod stretch;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::letters::Letters;
pub use self::letters::Tally;
use self::list::{List, Replay};
pub use self::list::{ReplayKind, ReplaySnapshot, ReplayState};
use self::stretch::Stretch;
use super::dead_letters::{DeadLetters, LetterFilter};
use super::source::{Source, Taken};
use super::status::SinkStatus;
use super::worker::{Stop, Surroundings, Worker};
use crate::config::{Config, SinkConfig};
use crate::event::Event;
use crate::journal::local::now;
use crate::journal::{Journal, Offset, Stored};
use crate::route::{Matcher, Target};
use crate::sinks::format::Renderer;
use crate::telemetry::Metrics;

/// Replays that run at a time.
pub const RUNNING_MAX: usize = 8;

/// How long a cancelled replay may take to hear of what is with the destination.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a replay renders by: one sink's part of the routing table.
pub struct Plan {
    config: Arc<Config>,
    sink: usize,
    renderer: Renderer,
}

impl Plan {
    fn new(config: Arc<Config>, sink: usize, identity: &str) -> Self {
        let renderer = Renderer::new(&config.sinks[sink], identity);
        Self { config, sink, renderer }
    }

    /// The sink's targets for an event.
    fn targets(&self, event: &Event) -> impl Iterator<Item = &Target> {
        let mut all = Vec::new();
        self.config.table.route(event, &mut all);
        let targets = all.into_iter().map(|id| self.config.table.target(id));
        targets.filter(|target| target.sink == self.sink)
    }

    fn render<'t>(
        &self,
        stored: &Stored,
        targets: impl IntoIterator<Item = &'t Target>,
        place: u64,
        letter: u64,
        out: &mut Vec<Taken>,
    ) {
        let mut messages = Vec::new();
        self.renderer.render(stored, targets, &mut messages);
        out.extend(messages.into_iter().map(|message| Taken { message, place, letter }));
    }
}

/// What to deliver again out of the journal.
#[derive(Clone, Debug)]
pub struct JournalReplay {
    /// The sink's index in the configuration.
    pub sink: usize,
    /// From the first offset up to the second, without it.
    pub range: std::ops::Range<Offset>,
    pub matcher: Matcher,
    /// At most so many events.
    pub limit: Option<u64>,
}

/// Why a replay does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayRefused {
    /// The sink is disabled, or is the built-in stream: nothing delivers to it.
    NoWorker { sink: String },
    /// [`RUNNING_MAX`] run already.
    TooMany,
    /// The sink's dead letters are being replayed already, by this replay: a second one would send
    /// them twice.
    Busy { replay: u64 },
    /// The relay is stopping.
    Stopping,
}

impl std::fmt::Display for ReplayRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoWorker { sink } => {
                write!(f, "nothing delivers to the sink `{sink}`: it is disabled, or the built-in stream")
            }
            Self::TooMany => write!(f, "{RUNNING_MAX} replays are running; wait for one, or cancel it"),
            Self::Busy { replay } => {
                write!(f, "replay {replay} is delivering this sink's dead letters; wait for it, or cancel it")
            }
            Self::Stopping => f.write_str("the relay is stopping"),
        }
    }
}

impl std::error::Error for ReplayRefused {}

/// Starts replays, and knows of those that run and that ended lately.
pub struct Replays {
    config: Arc<Config>,
    journal: Arc<dyn Journal>,
    metrics: Arc<Metrics>,
    /// By the sinks' indexes; `None` for the built-in stream.
    letters: Vec<Option<Arc<DeadLetters>>>,
    list: Mutex<List>,
}

impl Replays {
    /// `letters` are the stores of all sinks, by their indexes in the configuration.
    pub fn new(
        config: Arc<Config>,
        journal: Arc<dyn Journal>,
        metrics: Arc<Metrics>,
        letters: Vec<Option<Arc<DeadLetters>>>,
    ) -> Self {
        Self { config, journal, metrics, letters, list: Mutex::default() }
    }

    /// The dead letters of a sink, by its index.
    pub fn letters(&self, sink: usize) -> Option<&Arc<DeadLetters>> {
        self.letters.get(sink)?.as_ref()
    }

    /// Begins to deliver again out of the journal.
    ///
    /// # Errors
    /// [`ReplayRefused`].
    pub fn start_journal(&self, replay: JournalReplay) -> Result<ReplaySnapshot, ReplayRefused> {
        let JournalReplay { sink, range, matcher, limit } = replay;
        self.start(sink, ReplayKind::Journal, range.clone(), |plan, entry| {
            let lost = entry.lost.clone();
            Box::new(Stretch::new(plan, self.journal.clone(), matcher, range, limit, lost))
        })
    }

    /// Begins to try the dead letters of a sink again that are there now and that `filter` fits.
    ///
    /// # Errors
    /// [`ReplayRefused`].
    pub fn start_letters(&self, sink: usize, filter: LetterFilter) -> Result<ReplaySnapshot, ReplayRefused> {
        let store = self.letters(sink).ok_or_else(|| self.no_worker(sink))?.clone();
        let end = store.next_id();
        self.start(sink, ReplayKind::DeadLetters, 1..end, |plan, entry| {
            Box::new(Letters::new(plan, store, filter, end, entry.tally.clone()))
        })
    }

    fn start(
        &self,
        sink: usize,
        kind: ReplayKind,
        range: std::ops::Range<u64>,
        source: impl FnOnce(Plan, &Replay) -> Box<dyn Source>,
    ) -> Result<ReplaySnapshot, ReplayRefused> {
        let config = &self.config.sinks[sink];
        let options = config.options.options().filter(|_| !config.disabled);
        let (Some(options), Some(letters)) = (options, self.letters(sink)) else {
            return Err(self.no_worker(sink));
        };
        let mut list = self.lock();
        list.may_start(&config.name, kind)?;
        let id = list.next_id();
        let (stop, stopped) = watch::channel(Stop::No);
        let entry =
            Arc::new(Replay::new(id, config.name.clone(), kind, range, self.status(id, config), stop));
        let source = source(Plan::new(self.config.clone(), sink, self.journal.identity()), &entry);
        let surroundings = Surroundings {
            letters: letters.clone(),
            status: entry.status.clone(),
            metrics: self.metrics.clone(),
            stop: stopped,
        };
        let worker = Worker::new(config, options.build(self.config.context(sink)), source, surroundings);
        tracing::info!(sink = %config.name, replay = id, kind = ?kind, "a replay begins");
        let task = tokio::spawn(run(entry.clone(), worker));
        let snapshot = entry.snapshot();
        list.add(entry, task);
        Ok(snapshot)
    }

    fn status(&self, id: u64, config: &SinkConfig) -> Arc<SinkStatus> {
        let target = config.options.options().map(|options| options.target()).unwrap_or_default();
        let name = format!("{} (replay {id})", config.name);
        Arc::new(SinkStatus::new(name, config.options.key(), target, false))
    }

    fn no_worker(&self, sink: usize) -> ReplayRefused {
        ReplayRefused::NoWorker { sink: self.config.sinks[sink].name.clone() }
    }

    /// Those that run and the last that ended, the newest first.
    pub fn list(&self) -> Vec<ReplaySnapshot> {
        self.lock().snapshots()
    }

    pub fn get(&self, id: u64) -> Option<ReplaySnapshot> {
        self.lock().find(id).map(|replay| replay.snapshot())
    }

    /// Has a replay end soon: what is with the destination is still heard of. `None`: there is none
    /// of this id.
    pub fn cancel(&self, id: u64) -> Option<ReplaySnapshot> {
        let list = self.lock();
        let replay = list.find(id)?;
        replay.cancel(Instant::now() + CANCEL_TIMEOUT);
        Some(replay.snapshot())
    }

    /// Ends all, by `deadline`, and lets none begin any more.
    pub async fn stop(&self, deadline: Instant) {
        let tasks = self.lock().stop(deadline);
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a replay has panicked");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(replay: Arc<Replay>, worker: Worker) {
    // In a task of its own, so that a panic in it ends the replay like anything else.
    let done = tokio::spawn(worker.run()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a replay has panicked");
        false
    });
    let snapshot = replay.end(done, now());
    tracing::info!(sink = %snapshot.sink, replay = snapshot.id, state = ?snapshot.state,
        delivered = snapshot.delivered, dead_lettered = snapshot.dead_lettered, lost = snapshot.lost,
        "a replay has ended");
}

/// A counter that a source and its snapshot share.
type Counter = Arc<AtomicU64>;
