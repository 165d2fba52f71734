//! Wires the parts, starts them, and stops them in the order in which nothing is lost.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::{self, Admin};
use crate::config::{Config, SinkConfig};
use crate::delivery::{
    DeadLetterError, DeadLetters, Feed, FeedReader, Live, SinkStatus, Stop, Surroundings, Worker,
};
use crate::journal::Journal;
use crate::journal::local::{self, CURSOR_SAVE_INTERVAL, LocalJournal, OpenError};
use crate::quarantine::Quarantine;
use crate::receiver::{self, Intake, Receiver};
use crate::sinks::Context;
use crate::sinks::format::Renderer;
use crate::telemetry::Metrics;

/// Why a relay does not start.
#[derive(Debug)]
pub enum StartError {
    Journal(OpenError),
    Quarantine(std::io::Error),
    DeadLetters { sink: String, error: DeadLetterError },
    Receiver(receiver::BindError),
    Admin(admin::BindError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Journal(error) => write!(f, "the journal cannot be opened: {error}"),
            Self::Quarantine(error) => write!(f, "the quarantine cannot be opened: {error}"),
            Self::DeadLetters { sink, error } => {
                write!(f, "the dead letters of sink `{sink}` cannot be opened: {error}")
            }
            Self::Receiver(error) => error.fmt(f),
            Self::Admin(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// A part that runs until it is told to stop.
struct Running {
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl Running {
    async fn stop(self, what: &'static str) {
        let (Ok(()) | Err(())) = self.stop.send(()); // gone: it has ended by itself
        if let Err(error) = self.done.await {
            tracing::error!(%error, what, "a part of the relay has panicked");
        }
    }
}

/// A running relay.
pub struct App {
    receiver: Running,
    receiver_addr: SocketAddr,
    admin: Option<Running>,
    admin_addr: Option<SocketAddr>,
    feed: JoinHandle<()>,
    idle_cursors: JoinHandle<()>,
    workers: Vec<(String, JoinHandle<()>)>,
    stop_workers: watch::Sender<Stop>,
    stopping: watch::Sender<bool>,
    journal: Arc<dyn Journal>,
    drain_timeout: Duration,
}

impl App {
    /// Opens what is on disk, binds the listeners and starts the workers. Brokers that are down are
    /// no reason not to start.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new());
        let options = local::Options::of(&config.journal);
        let journal = LocalJournal::open(options, metrics.clone()).map_err(StartError::Journal)?;
        let journal: Arc<dyn Journal> = Arc::new(journal);
        let quarantine =
            Quarantine::open(config.journal.path.join("quarantine"), config.journal.quarantine_bytes_max)
                .map_err(StartError::Quarantine)?;
        let (stop_workers, stop) = watch::channel(Stop::No);
        let feed = Arc::new(Feed::new(journal.clone(), Arc::new(config.table.clone()), config.sinks.len()));
        let sinks = prepare(&config, &feed, &journal, &metrics, &stop)?;
        journal.flush().await;

        let (stopping, is_stopping) = watch::channel(false);
        let intake = Intake::new(journal.clone(), Arc::new(quarantine), metrics.clone());
        let receiver = Receiver::bind(&config.receiver, Arc::new(intake)).map_err(StartError::Receiver)?;
        let admin = bind_admin(&config, &journal, &sinks, &metrics, is_stopping)?;

        let admin_addr = admin.as_ref().map(Admin::local_addr);
        let admin = admin.map(|admin| run(|stop| admin.serve(stop)));
        let statuses: Vec<_> = sinks.iter().map(|sink| (sink.index, sink.status.clone())).collect();
        let workers = sinks.into_iter().filter_map(Prepared::spawn).collect();
        let idle_cursors = tokio::spawn(save_idle_cursors(feed.clone(), journal.clone(), statuses));
        let feed = tokio::spawn(async move { feed.run().await });
        let receiver_addr = receiver.local_addr();
        let drain_timeout = config.journal.drain_timeout;
        let receiver = run(move |stop| async move {
            receiver.serve(stop, drain_timeout).await;
        });
        Ok(Self {
            receiver,
            receiver_addr,
            admin,
            admin_addr,
            feed,
            idle_cursors,
            workers,
            stop_workers,
            stopping,
            journal,
            drain_timeout,
        })
    }

    /// Where the receiver listens.
    pub fn receiver_addr(&self) -> SocketAddr {
        self.receiver_addr
    }

    /// Where the admin listener listens, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Stops: no new connections, answers to what is in flight, sinks flushed as far as the deadline
    /// allows, cursors saved. What is not delivered stays in the journal.
    pub async fn drain(self) {
        self.stopping.send_replace(true);
        let deadline = Instant::now() + self.drain_timeout;
        self.receiver.stop("receiver").await;
        self.stop_workers.send_replace(Stop::Drain(deadline));
        for (sink, worker) in self.workers {
            if let Err(error) = worker.await {
                tracing::error!(%sink, %error, "a worker has panicked");
            }
        }
        self.idle_cursors.abort();
        self.feed.abort();
        self.journal.flush().await;
        if let Some(admin) = self.admin {
            admin.stop("admin").await;
        }
    }
}

/// Runs what `serve` makes of a signal to stop.
fn run<F>(serve: impl FnOnce(Stopped) -> F) -> Running
where
    F: Future<Output = ()> + Send + 'static,
{
    let (stop, stopped) = oneshot::channel();
    let done = tokio::spawn(serve(Stopped(stopped)));
    Running { stop, done }
}

/// Ready once [`Running::stop`] is called, or the app dropped.
struct Stopped(oneshot::Receiver<()>);

impl Future for Stopped {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

/// A sink that is ready to run.
struct Prepared {
    /// Its place in the configuration.
    index: usize,
    status: Arc<SinkStatus>,
    /// `None` for a disabled one.
    worker: Option<Worker>,
}

impl Prepared {
    fn spawn(self) -> Option<(String, JoinHandle<()>)> {
        let worker = self.worker?;
        Some((self.status.name.clone(), tokio::spawn(worker.run())))
    }
}

/// Makes a worker for each sink that has one, at its cursor. A sink that is new begins at the head:
/// older events come by `relay replay`.
fn prepare(
    config: &Config,
    feed: &Arc<Feed>,
    journal: &Arc<dyn Journal>,
    metrics: &Arc<Metrics>,
    stop: &watch::Receiver<Stop>,
) -> Result<Vec<Prepared>, StartError> {
    let names: Vec<_> =
        config.sinks.iter().filter(|sink| !sink.disabled).map(|sink| sink.name.clone()).collect();
    journal.retain_cursors(&names);
    let mut prepared = Vec::new();
    for (index, sink) in config.sinks.iter().enumerate() {
        let Some(options) = sink.options.options() else { continue };
        let letters = open_letters(&config.journal.path, sink)?;
        let status = SinkStatus::new(sink.name.clone(), sink.options.key(), options.target(), sink.disabled);
        let status = Arc::new(status.with_letters(letters.clone()));
        let worker = if sink.disabled {
            None
        } else {
            let at = journal.cursor(&sink.name).unwrap_or_else(|| journal.head());
            journal.save_cursor(&sink.name, at);
            let built = options.build(context(config, index));
            let reader = FeedReader::new(feed.clone(), index, at);
            let renderer = Renderer::new(sink, journal.identity());
            let live = Live::new(sink.name.clone(), reader, renderer, journal.clone());
            let surroundings = Surroundings {
                letters,
                status: status.clone(),
                metrics: metrics.clone(),
                stop: stop.clone(),
            };
            Some(Worker::new(sink, built, Box::new(live), surroundings))
        };
        prepared.push(Prepared { index, status, worker });
    }
    Ok(prepared)
}

fn open_letters(folder: &Path, sink: &SinkConfig) -> Result<Arc<DeadLetters>, StartError> {
    let folder = folder.join("dead-letters").join(&sink.name);
    let letters = DeadLetters::open(&folder, sink.dead_letters.bytes_max)
        .map_err(|error| StartError::DeadLetters { sink: sink.name.clone(), error })?;
    Ok(Arc::new(letters))
}

/// What sink number `index` is told of its surroundings.
pub fn context(config: &Config, index: usize) -> Context {
    let sink = &config.sinks[index];
    Context { name: sink.name.clone(), timeout: sink.timeout, literal_topics: config.literal_topics(index) }
}

fn bind_admin(
    config: &Arc<Config>,
    journal: &Arc<dyn Journal>,
    sinks: &[Prepared],
    metrics: &Arc<Metrics>,
    stopping: watch::Receiver<bool>,
) -> Result<Option<Admin>, StartError> {
    let Some(listen) = &config.admin else { return Ok(None) };
    let state = admin::State {
        config: config.clone(),
        journal: journal.clone(),
        sinks: sinks.iter().map(|sink| sink.status.clone()).collect(),
        metrics: metrics.clone(),
        stopping,
        started: std::time::Instant::now(),
        stream: admin::stream::Options::default(),
    };
    admin::bind(listen, state).map(Some).map_err(StartError::Admin)
}

/// Saves the cursors of sinks that nothing comes for: they hold no space in the journal.
async fn save_idle_cursors(feed: Arc<Feed>, journal: Arc<dyn Journal>, sinks: Vec<(usize, Arc<SinkStatus>)>) {
    let mut ticks = tokio::time::interval(CURSOR_SAVE_INTERVAL);
    loop {
        ticks.tick().await;
        let (routed, idle) = feed.idle();
        for (_, status) in sinks.iter().filter(|(index, _)| idle.contains(index)) {
            journal.save_cursor(&status.name, routed);
            status.position.store(routed, Relaxed);
        }
    }
}
