//! What all lines share: how much to do, the brokers, and the relay under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::backlog::Backlog;
use crate::brokers::{JetStream, Kafka, RabbitMq};
use crate::plot::Plot;
use crate::support::relay::Relay;

/// How long anything may take that is waited for.
pub const BOUND: Duration = Duration::from_secs(600);

/// One run of the bench.
pub struct Bench {
    /// How often each line measures its two in turn.
    pub rounds: usize,
    /// A twentieth of the work: to see that it runs, and where things stand roughly.
    pub quick: bool,
    kafka: OnceCell<Kafka>,
    jetstream: OnceCell<JetStream>,
    rabbitmq: OnceCell<RabbitMq>,
    backlog: OnceCell<Backlog>,
    /// By what the sizes are of, and what the cost is.
    plots: Mutex<BTreeMap<(&'static str, &'static str), Plot>>,
}

impl Bench {
    /// `BENCH_QUICK=1` and `BENCH_ROUNDS=N` say how much.
    pub fn from_environment() -> Self {
        let quick = std::env::var("BENCH_QUICK").is_ok_and(|value| !value.is_empty() && value != "0");
        let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
        Self {
            rounds: rounds.unwrap_or(if quick { 3 } else { 7 }),
            quick,
            kafka: OnceCell::new(),
            jetstream: OnceCell::new(),
            rabbitmq: OnceCell::new(),
            backlog: OnceCell::new(),
            plots: Mutex::default(),
        }
    }

    /// How many of `full` this run does.
    pub fn count(&self, full: u64) -> u64 {
        if self.quick { (full / 20).max(1) } else { full }
    }

    /// Notes what something of this size cost, for the drawing.
    pub fn plot(&self, of: &'static str, cost_is: &'static str, size: f64, cost: f64) {
        self.plots.lock().expect("no panic").entry((of, cost_is)).or_default().add(size, cost);
    }

    /// Writes the drawings of all that was noted into `folder`.
    pub fn draw(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        for ((of, cost_is), plot) in self.plots.lock().expect("no panic").iter() {
            let word = cost_is.split([',', ' ']).next().unwrap_or_default();
            let (title, sizes) = (format!("{cost_is}, by {of}"), format!("{of} (logarithmic)"));
            let path = folder.join(format!("{of}-{word}.svg"));
            std::fs::write(&path, plot.svg(&title, &sizes)).expect("write a drawing");
        }
    }

    pub async fn kafka(&self) -> &Kafka {
        self.kafka.get_or_init(Kafka::start).await
    }

    pub async fn jetstream(&self) -> &JetStream {
        self.jetstream.get_or_init(|| JetStream::start(false)).await
    }

    pub async fn rabbitmq(&self) -> &RabbitMq {
        self.rabbitmq.get_or_init(RabbitMq::start).await
    }

    /// A journal full of events that no sink has had yet.
    pub async fn backlog(&self) -> &Backlog {
        let count = match std::env::var("BENCH_BACKLOG").ok().and_then(|count| count.parse().ok()) {
            Some(count) => count,
            None => self.count(1_000_000),
        };
        self.backlog.get_or_init(|| Backlog::of(count)).await
    }
}

/// Where a relay takes events.
pub fn receiver(relay: &Relay) -> SocketAddr {
    relay.receiver().parse().expect("an address")
}

/// Runs what blocks, apart from the runtime's own threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

/// Events a second.
pub fn rate(events: u64, took: Duration) -> f64 {
    events as f64 / took.as_secs_f64()
}

/// The processor time that a process has taken, its kernel's on its behalf included; known to 10 ms.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // The command's name is in parentheses and may hold spaces; what follows it begins at field 3.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = |field: usize| fields.split_whitespace().nth(field - 3)?.parse::<u64>().ok();
    let (user, system) = (ticks(14).expect("utime"), ticks(15).expect("stime"));
    Duration::from_millis((user + system) * 10) // USER_HZ is 100
}
