//! Brings one sink's events to it. Everything that is policy is here, the same for every sink and
//! for every source: how long to wait, when to try again, what becomes a dead letter.

mod attempt;
mod condemned;
mod shed;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::condemned::Condemned;
use crate::config::SinkConfig;
use crate::delivery::backlog::Backlog;
use crate::delivery::breaker::Breaker;
use crate::delivery::dead_letters::DeadLetters;
use crate::delivery::queue::{Queue, Tries};
use crate::delivery::source::{Source, Supply, Taken};
use crate::delivery::status::SinkStatus;
use crate::journal::local::now;
use crate::journal::{Micros, ReadError};
use crate::sinks::Sink;
use crate::telemetry::Metrics;

/// How long a worker rests after an error that is not the sink's: a dead letter that cannot be
/// written, a journal that cannot be read.
const OWN_TROUBLE_REST: Duration = Duration::from_secs(1);

/// What a worker is told about stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// Deliver what there is, and stop then, or at the deadline, or at the first failure.
    Drain(Instant),
}

/// Brings what a source gives to a sink.
pub struct Worker {
    sink: Box<dyn Sink>,
    source: Box<dyn Source>,
    queue: Queue,
    breaker: Breaker,
    connected: bool,
    /// What the source said when it was last asked.
    supply: Supply,
    /// Dead letters that are not yet durable; until they are, nothing else happens.
    condemned: Condemned,
    taken: Vec<Taken>,
    /// When the destination last made progress.
    progress: Instant,
    timeout: Duration,
    give_up_after: Option<Micros>,
    body_bytes_max: Option<u64>,
    backlog: Option<Arc<Backlog>>,
    letters: Arc<DeadLetters>,
    status: Arc<SinkStatus>,
    metrics: SinkMetrics,
    stop: watch::Receiver<Stop>,
}

/// The sink's own counters out of [`Metrics`], looked up once.
struct SinkMetrics {
    all: Arc<Metrics>,
    sink: String,
    delivered: prometheus_client::metrics::counter::Counter,
    retried: prometheus_client::metrics::counter::Counter,
    failures: prometheus_client::metrics::counter::Counter,
}

impl SinkMetrics {
    fn new(all: Arc<Metrics>, sink: &str) -> Self {
        let label = Metrics::label(sink);
        let delivered = all.sink_delivered.get_or_create_owned(&label);
        let retried = all.sink_retried.get_or_create_owned(&label);
        let failures = all.sink_failures.get_or_create_owned(&label);
        Self { all, sink: sink.to_owned(), delivered, retried, failures }
    }
}

/// Why a round ended early.
enum Trouble {
    /// The sink failed; noted already.
    Sink,
    /// Something of our own failed: rest, then go on.
    Own(String),
    /// The journal is closed.
    Closed,
}

/// What a worker is given of the rest of the relay.
pub struct Surroundings {
    pub letters: Arc<DeadLetters>,
    /// Its name is what the log calls the worker.
    pub status: Arc<SinkStatus>,
    pub metrics: Arc<Metrics>,
    pub stop: watch::Receiver<Stop>,
}

impl Worker {
    /// A worker for `sink`, which takes from `source`.
    pub fn new(
        config: &SinkConfig,
        sink: Box<dyn Sink>,
        source: Box<dyn Source>,
        surroundings: Surroundings,
    ) -> Self {
        let Surroundings { letters, status, metrics, stop } = surroundings;
        let micros = |time: Duration| Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX);
        status.position.store(source.at(), Relaxed);
        Self {
            queue: Queue::default(),
            breaker: Breaker::new(config.threshold, micros(config.backoff)),
            connected: false,
            supply: Supply::More,
            condemned: Condemned::default(),
            taken: Vec::new(),
            progress: Instant::now(),
            timeout: config.timeout,
            give_up_after: config.give_up_after.map(micros),
            body_bytes_max: config.message_bytes_max,
            backlog: None,
            metrics: SinkMetrics::new(metrics, &config.name),
            sink,
            source,
            letters,
            status,
            stop,
        }
    }

    /// Gives its oldest events up where the backlog becomes too large. For a source that follows
    /// the journal.
    pub fn with_backlog(mut self, backlog: Backlog) -> Self {
        self.backlog = Some(Arc::new(backlog));
        self
    }

    /// Runs until told to stop, or until the source has ended or the journal is closed. Answers
    /// whether all that the source had is done with.
    pub async fn run(mut self) -> bool {
        let stop = self.stop.clone();
        while !self.is_done() {
            let round = tokio::select! {
                round = self.round() => round,
                () = deadline(stop.clone()) => break,
            };
            match round {
                Ok(()) => {}
                Err(Trouble::Closed) => break,
                Err(Trouble::Sink) if self.is_stopping() => break,
                Err(Trouble::Sink) => self.rest().await,
                Err(Trouble::Own(what)) => {
                    self.own_trouble(&what);
                    if self.is_stopping() {
                        break;
                    }
                    self.pause(OWN_TROUBLE_REST).await;
                }
            }
        }
        self.save_cursor();
        self.source.close().await;
        // A sink that does not close in time is dropped.
        drop(timeout(self.timeout, self.sink.close()).await);
        self.status.set(self.breaker.state(now()), self.breaker.failures(), false);
        self.supply == Supply::Ended && self.nothing_open()
    }

    /// One step: take what there is, make it go out, and hear of what went before.
    async fn round(&mut self) -> Result<(), Trouble> {
        self.bury().await?;
        self.shed().await?;
        self.fill().await?;
        self.bury().await?;
        if !self.connected {
            self.connect().await?;
        }
        if self.queue.has_unsent(self.sink.window()) {
            self.send().await?;
        }
        self.status.in_flight.store(self.queue.sent() as u64, Relaxed);
        if !self.queue.is_empty() {
            return self.settle().await;
        }
        self.save_cursor();
        match self.supply {
            Supply::CaughtUp => self.wait().await,
            Supply::More | Supply::Ended => Ok(()),
        }
    }

    /// Takes messages as long as there are any and there is room. What there is goes out before the
    /// source reads on.
    async fn fill(&mut self) -> Result<(), Trouble> {
        if self.supply == Supply::Ended {
            return Ok(());
        }
        let take_no_more = self.is_stopping() && !self.source.has_more();
        self.supply = if take_no_more { Supply::CaughtUp } else { Supply::More };
        while self.supply == Supply::More {
            let room = self.condemned.limit(self.queue.room(self.sink.window()));
            if room.is_none() {
                break;
            }
            let idle = self.queue.is_empty() && self.condemned.is_empty();
            let asked = self.source.take(room, idle, &mut self.taken).await;
            self.accept(now());
            self.note_lost();
            self.supply = match asked {
                Ok(supply) => supply,
                Err(ReadError::Closed) => return Err(Trouble::Closed),
                Err(ReadError::Io(what)) => return Err(Trouble::Own(what)),
            };
            if !self.queue.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Queues what was taken, but for what is too large.
    fn accept(&mut self, now: Micros) {
        for taken in self.taken.drain(..) {
            match condemned::too_large(&taken.message, self.body_bytes_max) {
                None => self.queue.push(taken, now),
                Some(rejection) => {
                    let tries = Tries::begin(&taken, now);
                    self.condemned.push(taken.message, tries, rejection);
                }
            }
        }
    }

    /// Waits for something to do.
    async fn wait(&mut self) -> Result<(), Trouble> {
        if self.is_stopping() {
            tokio::task::yield_now().await; // the feed may be a step behind the journal
            return Ok(());
        }
        tokio::select! {
            () = self.source.wait() => {}
            _ = self.stop.changed() => {}
        }
        Ok(())
    }

    /// Everything below is done: confirmed, a dead letter, or not for this sink.
    fn cursor(&self) -> u64 {
        let queued = self.queue.oldest().map(|(place, _)| place);
        self.condemned.oldest().into_iter().chain(queued).min().unwrap_or(self.source.at())
    }

    fn save_cursor(&mut self) {
        let cursor = self.cursor();
        self.source.done_below(cursor);
        self.status.position.store(cursor, Relaxed);
        self.status.oldest.store(self.queue.oldest().map_or(0, |(_, arrived)| arrived), Relaxed);
    }

    /// Rests as the breaker says.
    async fn rest(&mut self) {
        let rest = self.breaker.rest(now());
        if rest > 0 {
            self.pause(Duration::from_micros(rest.unsigned_abs())).await;
        } else {
            tokio::task::yield_now().await;
        }
        self.status.set(self.breaker.state(now()), self.breaker.failures(), self.connected);
    }

    /// Sleeps, unless told to stop.
    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = self.stop.changed() => {}
        }
    }

    fn note_lost(&mut self) {
        let lost = self.source.take_lost();
        if lost > 0 {
            tracing::error!(sink = %self.status.name, lost, before = self.source.at(),
                "events are no longer in the journal and cannot be delivered");
        }
    }

    /// Something of the relay's own failed: the sink waits, and says why.
    fn own_trouble(&mut self, what: &str) {
        tracing::error!(sink = %self.status.name, %what, "the sink waits");
        let (now, failures) = (now(), self.breaker.failures());
        self.status.failed(what, now, self.breaker.state(now), failures, self.connected);
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow() != Stop::No
    }

    fn is_done(&self) -> bool {
        match *self.stop.borrow() {
            Stop::No => self.nothing_open() && self.supply == Supply::Ended,
            Stop::Drain(deadline) => {
                Instant::now() >= deadline || (self.nothing_open() && !self.source.has_more())
            }
        }
    }

    /// Whether all that was taken is done with.
    fn nothing_open(&self) -> bool {
        self.queue.is_empty() && self.condemned.is_empty()
    }
}

/// Ready once a drain's deadline has passed.
async fn deadline(mut stop: watch::Receiver<Stop>) {
    loop {
        let told = *stop.borrow_and_update();
        match told {
            Stop::Drain(deadline) => return tokio::time::sleep_until(deadline).await,
            Stop::No => {
                if stop.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
