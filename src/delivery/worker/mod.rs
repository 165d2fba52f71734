//! Brings one sink's events to it. Everything that is policy is here, the same for every sink.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::SinkConfig;
use crate::delivery::breaker::Breaker;
use crate::delivery::dead_letters::{DeadLetter, DeadLetters};
use crate::delivery::feed::{FeedReader, Next};
use crate::delivery::queue::{Queue, Tries};
use crate::delivery::status::{BreakerState, SinkStatus};
use crate::journal::local::now;
use crate::journal::{Journal, Micros, Offset, ReadError, Stored};
use crate::route::Target;
use crate::sinks::format::Renderer;
use crate::sinks::{Fault, FaultKind, Message, Rejection, Settled, Sink};
use crate::telemetry::Metrics;

/// How long a worker rests after an error that is not the sink's: a dead letter that cannot be
/// written, a journal that cannot be read.
const OWN_TROUBLE_REST: Duration = Duration::from_secs(1);

/// Dead letters that wait to be written, at most; one event's more at the end.
const CONDEMNED_MAX: usize = 256;

/// What a worker is told about stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// Deliver what there is, and stop then, or at the deadline, or at the first failure.
    Drain(Instant),
}

/// One sink's worker.
pub struct Worker {
    sink: Box<dyn Sink>,
    reader: FeedReader,
    renderer: Renderer,
    queue: Queue,
    breaker: Breaker,
    connected: bool,
    /// Whether the reader had nothing more when it was last asked.
    caught_up: bool,
    /// Dead letters that are not yet durable; until they are, nothing else happens.
    condemned: Vec<(Message, Tries, Rejection)>,
    /// When the destination last made progress.
    progress: Instant,
    timeout: Duration,
    give_up_after: Option<Micros>,
    body_bytes_max: Option<u64>,
    letters: Arc<DeadLetters>,
    status: Arc<SinkStatus>,
    journal: Arc<dyn Journal>,
    metrics: SinkMetrics,
    stop: watch::Receiver<Stop>,
}

/// The sink's own counters out of [`Metrics`], looked up once.
struct SinkMetrics {
    all: Arc<Metrics>,
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
        Self { all, delivered, retried, failures }
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
    pub journal: Arc<dyn Journal>,
    pub letters: Arc<DeadLetters>,
    pub status: Arc<SinkStatus>,
    pub metrics: Arc<Metrics>,
    pub stop: watch::Receiver<Stop>,
}

impl Worker {
    /// A worker for `sink`, which takes from `reader`.
    pub fn new(
        config: &SinkConfig,
        sink: Box<dyn Sink>,
        reader: FeedReader,
        surroundings: Surroundings,
    ) -> Self {
        let Surroundings { journal, letters, status, metrics, stop } = surroundings;
        let micros = |time: Duration| Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX);
        status.position.store(reader.at(), Relaxed);
        status.dead_letters.store(letters.count(), Relaxed);
        Self {
            renderer: Renderer::new(config, journal.identity()),
            queue: Queue::default(),
            breaker: Breaker::new(config.threshold, micros(config.backoff)),
            connected: false,
            caught_up: false,
            condemned: Vec::new(),
            progress: Instant::now(),
            timeout: config.timeout,
            give_up_after: config.give_up_after.map(micros),
            body_bytes_max: config.message_bytes_max,
            metrics: SinkMetrics::new(metrics, &config.name),
            sink,
            reader,
            letters,
            status,
            journal,
            stop,
        }
    }

    /// Runs until told to stop, or until the journal is closed.
    pub async fn run(mut self) {
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
                    tracing::error!(sink = %self.status.name, %what, "the sink waits");
                    self.status.failed(
                        &what,
                        now(),
                        self.breaker.state(now()),
                        self.breaker.failures(),
                        self.connected,
                    );
                    if self.is_stopping() {
                        break;
                    }
                    self.pause(OWN_TROUBLE_REST).await;
                }
            }
        }
        self.save_cursor();
        // A sink that does not close in time is dropped.
        drop(timeout(self.timeout, self.sink.close()).await);
        self.status.set(self.breaker.state(now()), self.breaker.failures(), false);
    }

    /// One step: take what there is, make it go out, and hear of what went before.
    async fn round(&mut self) -> Result<(), Trouble> {
        self.bury().await?;
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
        if self.caught_up { self.wait().await } else { Ok(()) }
    }

    /// Takes events as long as there are any and there is room, and renders them. What there is goes
    /// out before more is read from the journal.
    async fn fill(&mut self) -> Result<(), Trouble> {
        self.caught_up = false;
        let mut room = self.queue.room(self.sink.window());
        while room > 0 && self.condemned.len() < CONDEMNED_MAX {
            let idle = self.queue.is_empty() && self.condemned.is_empty();
            let next = match self.reader.next(idle).await {
                Ok(next) => next,
                Err(ReadError::Closed) => return Err(Trouble::Closed),
                Err(ReadError::Io(what)) => return Err(Trouble::Own(what)),
            };
            self.note_lost();
            match next {
                Next::Run(run) => self.take_from(&run, room),
                Next::Read(run) => {
                    self.take_from(&run, room);
                    if !self.queue.is_empty() {
                        break;
                    }
                }
                Next::CaughtUp => {
                    self.caught_up = true;
                    break;
                }
            }
            room = self.queue.room(self.sink.window());
        }
        Ok(())
    }

    /// Renders the run's hits from the reader's place on, about `room` of them: an event's
    /// messages stay together.
    fn take_from(&mut self, run: &crate::delivery::feed::Run, mut room: usize) {
        let hits = run.hits(self.sink_index());
        let from = hits.partition_point(|hit| run.events[hit.event as usize].offset < self.reader.at());
        let sparse = run.is_sparse(hits);
        let mut messages = Vec::new();
        for hits in hits[from..].chunk_by(|a, b| a.event == b.event) {
            if room == 0 {
                break;
            }
            let stored = &run.events[hits[0].event as usize];
            // What few events of a run go here must not keep all of its memory while they wait.
            let detached = sparse.then(|| Stored { event: stored.event.detached(), ..*stored });
            let stored = detached.as_ref().unwrap_or(stored);
            let table = self.reader.table();
            let targets = hits.iter().map(|hit| -> &Target { table.target(hit.target) });
            self.renderer.render(stored, targets, &mut messages);
            room = room.saturating_sub(messages.len());
            self.reader.advance(stored.offset);
            for message in messages.drain(..) {
                match self.too_large(&message) {
                    None => self.queue.push(message, now()),
                    Some(rejection) => self.condemned.push((message, Tries::default(), rejection)),
                }
            }
            if self.queue.room(usize::MAX) == 0 {
                break;
            }
        }
    }

    /// What `message_max` says of a message.
    fn too_large(&self, message: &Message) -> Option<Rejection> {
        let max = self.body_bytes_max?;
        let bytes = message.body.len() as u64;
        (bytes > max).then(|| Rejection {
            code: "too_large",
            text: format!("{bytes} bytes are more than this sink's message_max of {max}"),
        })
    }

    async fn connect(&mut self) -> Result<(), Trouble> {
        let tried = timeout(self.timeout, self.sink.connect()).await;
        match tried {
            Ok(Ok(())) => {
                self.connected = true;
                self.progress = Instant::now();
                self.queue.unsend();
                if self.queue.is_empty() {
                    // Nothing will be confirmed before the next event comes: this is the success.
                    self.breaker.succeeded();
                }
                tracing::info!(sink = %self.status.name, target = %self.status.target, "connected");
                self.status.set(self.breaker.state(now()), self.breaker.failures(), true);
                Ok(())
            }
            Ok(Err(fault)) => Err(self.failed(&fault)),
            Err(_) => Err(self.timed_out("no connection")),
        }
    }

    async fn send(&mut self) -> Result<(), Trouble> {
        let again = self.queue.retried() as u64;
        if again > 0 {
            self.metrics.retried.inc_by(again);
            self.status.retried.fetch_add(again, Relaxed);
        }
        if self.queue.sent() == 0 {
            self.progress = Instant::now();
        }
        let batch = self.queue.send(self.sink.window(), now());
        let sent = timeout(self.timeout, self.sink.send(batch)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(self.failed(&fault)),
            Err(_) => Err(self.timed_out("nothing could be sent")),
        }
    }

    /// Waits for confirmations, or for more to send while there is room for it; does not wait where
    /// there is more already.
    async fn settle(&mut self) -> Result<(), Trouble> {
        let has_room = self.queue.room(self.sink.window()) > 0;
        let settled = tokio::select! {
            biased;
            settled = timeout_at(self.progress + self.timeout, self.sink.settle()) => settled,
            () = std::future::ready(()), if has_room && !self.caught_up => return Ok(()),
            () = self.reader.wait(), if has_room => return Ok(()),
            _ = self.stop.changed() => return Ok(()),
        };
        match settled {
            Ok(Ok(settled)) => {
                self.note(settled);
                Ok(())
            }
            Ok(Err(fault)) => Err(self.failed(&fault)),
            Err(_) => Err(self.timed_out("no confirmation")),
        }
    }

    /// Takes note of what is done with.
    fn note(&mut self, settled: Settled) {
        if settled.count == 0 {
            return;
        }
        self.progress = Instant::now();
        if self.breaker.succeeded() {
            tracing::info!(sink = %self.status.name, "delivers again");
            self.status.set(BreakerState::Closed, 0, true);
        }
        let mut rejected = settled.rejected.into_iter().peekable();
        for place in 0..settled.count {
            let Some((message, tries)) = self.queue.pop() else { break };
            if let Some((_, rejection)) = rejected.next_if(|(at, _)| *at == place) {
                self.condemned.push((message, tries, rejection));
            } else {
                self.metrics.delivered.inc();
                self.status.delivered.fetch_add(1, Relaxed);
            }
        }
        self.save_cursor();
    }

    /// Makes dead letters of what the destination will never take, before anything else goes on.
    async fn bury(&mut self) -> Result<(), Trouble> {
        if self.condemned.is_empty() {
            return Ok(());
        }
        let mut letters: Vec<_> = self.condemned.iter().map(letter).collect();
        let store = self.letters.clone();
        let written = tokio::task::spawn_blocking(move || store.append(&mut letters)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Trouble::Own(error.to_string())),
            Err(error) => return Err(Trouble::Own(error.to_string())),
        }
        for (message, _, rejection) in self.condemned.drain(..) {
            tracing::warn!(sink = %self.status.name, offset = message.offset, id = %message.id,
                topic = %message.topic, code = rejection.code, reason = %rejection.text, "a dead letter");
            let label = crate::telemetry::CodeLabel {
                sink: self.status.name.clone(),
                code: rejection.code.to_owned(),
            };
            self.metrics.all.sink_dead_lettered.get_or_create(&label).inc();
            self.status.dead_lettered.fetch_add(1, Relaxed);
        }
        self.status.dead_letters.store(self.letters.count(), Relaxed);
        self.save_cursor();
        Ok(())
    }

    /// Waits for something to do.
    async fn wait(&mut self) -> Result<(), Trouble> {
        if self.is_stopping() {
            tokio::task::yield_now().await; // the feed may be a step behind the journal
            return Ok(());
        }
        tokio::select! {
            () = self.reader.wait() => {}
            _ = self.stop.changed() => {}
        }
        Ok(())
    }

    /// Everything below is done: confirmed, a dead letter, or not for this sink.
    fn cursor(&self) -> Offset {
        let condemned = self.condemned.iter().map(|(message, ..)| message.offset).min();
        let queued = self.queue.oldest().map(|(offset, _)| offset);
        condemned.into_iter().chain(queued).min().unwrap_or(self.reader.at())
    }

    fn save_cursor(&self) {
        let cursor = self.cursor();
        self.journal.save_cursor(&self.status.name, cursor);
        self.status.position.store(cursor, Relaxed);
        self.status.oldest.store(self.queue.oldest().map_or(0, |(_, arrived)| arrived), Relaxed);
    }

    fn timed_out(&mut self, what: &str) -> Trouble {
        let text = format!("{what} within {}", humantime::format_duration(self.timeout));
        self.failed(&Fault::disconnected(text))
    }

    /// Takes note of a failed attempt: all that is not settled will be sent again.
    fn failed(&mut self, fault: &Fault) -> Trouble {
        let now = now();
        let retry_after = match fault.kind {
            FaultKind::Busy { retry_after } => retry_after,
            FaultKind::Disconnected | FaultKind::Refused => {
                self.connected = false;
                None
            }
        };
        self.queue.unsend();
        let retry_after = retry_after.map(|time| Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX));
        self.breaker.failed(now, retry_after);
        self.metrics.failures.inc();
        let state = self.breaker.state(now);
        // Once when it begins, once when the breaker opens: not once an attempt, for ever.
        if self.breaker.failures() == 1
            || (state == BreakerState::Open && self.status.breaker() == BreakerState::Closed)
        {
            tracing::warn!(sink = %self.status.name, failures = self.breaker.failures(), breaker = ?state,
                reason = %fault.text, "the sink failed");
        }
        self.status.failed(&fault.text, now, state, self.breaker.failures(), self.connected);
        self.status.in_flight.store(0, Relaxed);
        self.give_up(now);
        self.save_cursor();
        Trouble::Sink
    }

    /// Condemns what has been tried for too long.
    fn give_up(&mut self, now: Micros) {
        let Some(after) = self.give_up_after else { return };
        let reason = self.status.snapshot(now, 0).last_error.map_or_else(String::new, |error| error.text);
        for (message, tries) in self.queue.take_older(now - after) {
            let rejection = Rejection { code: "gave_up", text: reason.clone() };
            self.condemned.push((message, tries, rejection));
        }
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
        let lost = self.reader.take_lost();
        if lost > 0 {
            tracing::error!(sink = %self.status.name, lost, before = self.reader.at(),
                "events are no longer in the journal and cannot be delivered");
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow() != Stop::No
    }

    fn is_done(&self) -> bool {
        match *self.stop.borrow() {
            Stop::No => false,
            Stop::Drain(deadline) => {
                Instant::now() >= deadline
                    || (self.queue.is_empty()
                        && self.condemned.is_empty()
                        && self.reader.at() >= self.journal.head())
            }
        }
    }

    fn sink_index(&self) -> usize {
        self.reader.sink()
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

fn letter((message, tries, rejection): &(Message, Tries, Rejection)) -> DeadLetter {
    let event = &message.event;
    DeadLetter {
        id: 0, // given by the store
        offset: message.offset,
        code: rejection.code.to_owned(),
        reason: rejection.text.clone(),
        attempts: tries.attempts,
        first: tries.first,
        last: tries.last,
        arrived: message.arrived,
        topic: message.topic.clone(),
        key: message.key.clone(),
        event_id: event.id().to_owned(),
        action: event.action().to_owned(),
        repository: event.repository().to_owned(),
        event: String::from_utf8_lossy(event.raw()).into_owned(),
    }
}

#[cfg(test)]
mod tests;
