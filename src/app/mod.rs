//! Wires the parts, starts them, and stops them in the order in which nothing is lost.

mod sinks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::sinks::{Parts, Prepared};
use crate::admin::{self, Admin, Operations};
use crate::config::Config;
use crate::delivery::{DeadLetterError, Feed, Replays, SinkStatus, Stop, watch_holder};
use crate::journal::Journal;
use crate::journal::local::{self, CURSOR_SAVE_INTERVAL, LocalJournal, OpenError};
use crate::quarantine::Quarantine;
use crate::receiver::{self, Intake, Receiver};
use crate::telemetry::Metrics;

/// Why a relay does not start.
#[derive(Debug)]
pub enum StartError {
    Journal(OpenError),
    Quarantine(std::io::Error),
    DeadLetters { sink: String, error: DeadLetterError },
    Gaps { sink: String, error: std::io::Error },
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
            Self::Gaps { sink, error } => {
                write!(f, "what was given up of sink `{sink}` cannot be read: {error}")
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
    holder: JoinHandle<()>,
    replays: Arc<Replays>,
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
        let parts = Parts { config: &config, feed: &feed, journal: &journal, metrics: &metrics, stop: &stop };
        let sinks = parts.prepare()?;
        journal.flush().await;

        let (stopping, is_stopping) = watch::channel(false);
        let quarantine = Arc::new(quarantine);
        let intake = Arc::new(Intake::new(journal.clone(), quarantine.clone(), metrics.clone()));
        let receiver = Receiver::bind(&config.receiver, intake.clone()).map_err(StartError::Receiver)?;
        let replays = Arc::new(Replays::new(
            config.clone(),
            journal.clone(),
            metrics.clone(),
            sinks::by_index(&config, &sinks, |sink| sink.letters.clone()),
        ));
        let operations = Operations {
            replays: replays.clone(),
            gaps: sinks::by_index(&config, &sinks, |sink| sink.gaps.clone()),
            intake,
            quarantine,
        };
        let admin = bind_admin(&config, &journal, &sinks, &metrics, is_stopping, operations)?;

        let admin_addr = admin.as_ref().map(Admin::local_addr);
        let admin = admin.map(|admin| run(|stop| admin.serve(stop)));
        let statuses: Vec<_> = sinks.iter().map(|sink| (sink.index, sink.status.clone())).collect();
        let workers = sinks.into_iter().flat_map(Prepared::spawn).collect();
        let holder = tokio::spawn(watch_holder(journal.clone()));
        let idle_cursors = tokio::spawn(save_idle_cursors(feed.clone(), journal.clone(), statuses));
        let feed = tokio::spawn(async move { feed.run().await });
        let receiver_addr = receiver.local_addr();
        let drain_timeout = config.journal.drain_timeout;
        let receiver = run(move |stop| async move {
            if let Err(error) = receiver.serve(stop, drain_timeout).await {
                tracing::error!(%error, "the receiver has panicked: nothing is taken");
            }
        });
        Ok(Self {
            receiver,
            receiver_addr,
            admin,
            admin_addr,
            feed,
            idle_cursors,
            holder,
            replays,
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
        self.replays.stop(deadline).await;
        for (sink, worker) in self.workers {
            if let Err(error) = worker.await {
                tracing::error!(%sink, %error, "a worker has panicked");
            }
        }
        self.idle_cursors.abort();
        self.holder.abort();
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

fn bind_admin(
    config: &Arc<Config>,
    journal: &Arc<dyn Journal>,
    sinks: &[Prepared],
    metrics: &Arc<Metrics>,
    stopping: watch::Receiver<bool>,
    operations: Operations,
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
        operations: Arc::new(operations),
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
