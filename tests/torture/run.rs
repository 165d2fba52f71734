//! The run: rounds of faults under load, and between them a look at how all came back.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use relay::journal::{Offset, local::inspect};
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    collect,
    load::Load,
    oracle::{Oracle, Violations},
    plan::{Fault, Plan, SINKS},
    report::{Report, Struck},
    settings::Settings,
    shim::Shim,
    support::{
        proxy::Proxy,
        relay::Relay,
        trio::{Addresses, Place, Trio, sink_of},
    },
};

const POLL: Duration = Duration::from_millis(20);
/// Senders hold back while a sink has more than this before it, so that a run's journal is bounded.
const LAG_MAX: u64 = 20_000;
/// Property 4: after the last fault of a round each sink must deliver again within this time.
pub const RECOVERY_BOUND: Duration = Duration::from_secs(60);
/// How long a sink may then make no progress at all while it catches up.
const STUCK_BOUND: Duration = Duration::from_secs(60);
/// How long the load goes on undisturbed between two rounds.
const QUIET: Duration = Duration::from_millis(700);
/// After so many rounds RabbitMQ's queue is read and replaced: a million messages in one would make each
/// of the broker's starts slow.
const ROUNDS_PER_QUEUE: usize = 15;

/// All that a run has in hand.
pub struct Bench {
    pub settings: Settings,
    pub trio: Arc<Trio>,
    pub place: Place,
    pub relay: Arc<Relay>,
    pub shim: Shim,
    rabbitmq: Proxy,
    nats: Proxy,
}

/// Where a sink's undisturbed stretch began.
#[derive(Debug)]
struct Quiet {
    /// By sender, the first event of the stretch.
    from: Vec<u64>,
    /// The sink's own troubles before it.
    troubles: Option<(u64, i64)>,
}

impl Bench {
    pub async fn start(settings: Settings, trio: Arc<Trio>) -> Self {
        let shim = Shim::build().await;
        let place = Place::new(&trio, "torture").await;
        let rabbitmq = Proxy::start(&trio.rabbitmq.address()).await;
        let nats = Proxy::start(trio.nats.address()).await;
        let addresses = Addresses::proxied(&trio, &rabbitmq, &nats);
        let relay = Relay::start_with(&config(&place, &addresses), &shim.environment()).await;
        Self { settings, trio, place, relay: Arc::new(relay), shim, rabbitmq, nats }
    }

    pub fn proxy(&self, sink: usize) -> &Proxy {
        match SINKS[sink] {
            "kafka" => self.trio.kafka.proxy(),
            "rabbitmq" => &self.rabbitmq,
            _ => &self.nats,
        }
    }

    /// The relay's data.
    pub fn data(&self) -> PathBuf {
        self.relay.path("data")
    }

    /// The relay's status, if it answers.
    pub async fn look(&self) -> Option<Value> {
        look(&self.relay).await
    }

    /// Whether the status satisfies `good` within `bound`.
    pub async fn look_until(&self, bound: Duration, good: impl Fn(&Value) -> bool) -> bool {
        let end = Instant::now() + bound;
        while Instant::now() < end {
            if self.look().await.is_some_and(|status| good(&status)) {
                return true;
            }
            sleep(POLL).await;
        }
        false
    }

    /// Runs to the end; the report says how it was.
    pub async fn run(mut self) -> Report {
        let begun = Instant::now();
        let mut report = Report::new(&self.settings);
        let mut oracle = Oracle::new(self.settings.recipe(), self.settings.pace.senders);
        let mut load = Load::start(self.settings.recipe(), self.settings.pace, self.relay.events_url());
        let watch = Watch::start(Arc::clone(&self.relay), load.holder());
        let mut plan = Plan::new(self.settings.seed);
        let mut quiet = Vec::new();
        for sink in 0..SINKS.len() {
            quiet.push(self.quiet_from(sink, &load).await);
        }
        for round in 1.. {
            let enough = load.taken() >= self.settings.events && report.struck.len() >= self.settings.faults;
            if enough || begun.elapsed() >= self.settings.time {
                break;
            }
            let faults = plan.round();
            let touched: Vec<usize> =
                (0..SINKS.len()).filter(|&s| faults.iter().any(|f| f.touches(s))).collect();
            self.end_quiet(&touched, &quiet, &load, &mut oracle, &mut report).await;
            self.round(round, begun, &faults, &load, &mut oracle, &mut report).await;
            for sink in touched {
                quiet[sink] = self.quiet_from(sink, &load).await;
            }
            sleep(QUIET).await;
            if round % ROUNDS_PER_QUEUE == 0 {
                self.change_queue(&load, &mut oracle, &mut report).await;
            }
        }
        report.rounds_took = begun.elapsed();
        let all: Vec<usize> = (0..SINKS.len()).collect();
        self.end_quiet(&all, &quiet, &load, &mut oracle, &mut report).await;
        if self.settings.long {
            report.rates = Some(self.compare_rates(&load, &watch, &mut report).await);
        }
        self.finish(&mut load, &watch, &mut oracle, &mut report).await;
        report.conclude(&load, collect::quarantined(&self.data()), oracle);
        report.took = begun.elapsed();
        report
    }

    /// One round: all its faults, and the way back.
    async fn round(
        &self,
        round: usize,
        begun: Instant,
        faults: &[Fault],
        load: &Load,
        oracle: &mut Oracle,
        report: &mut Report,
    ) {
        println!("round {round}, {:.1} s, {} events taken", begun.elapsed().as_secs_f64(), load.taken());
        faults.iter().for_each(|fault| println!("    {fault}"));
        let outcomes = join_all(faults.iter().map(|fault| self.strike(fault))).await;
        for (fault, outcome) in faults.iter().zip(outcomes) {
            report.struck.push(Struck { label: fault.label(), missed: outcome.missed });
            if let Some(name) = outcome.damaged {
                oracle.damaged(name);
            }
            if let Some(wrong) = outcome.wrong {
                report.recovery.add(|| format!("fault #{}: {wrong}", fault.number));
            }
        }
        self.recover(round, load, report).await;
        self.catch_up(&[0, 1, 2, 3], &mut report.recovery).await;
    }

    /// Measures how long each sink takes to deliver again, and the receiver to take events.
    async fn recover(&self, round: usize, load: &Load, report: &mut Report) {
        let begun = Instant::now();
        let taken = load.taken();
        let mut first: Option<Value> = None;
        let mut back: [Option<Duration>; 5] = [None; 5];
        while back.iter().any(Option::is_none) && begun.elapsed() < RECOVERY_BOUND {
            if let Some(status) = self.look().await {
                let base = first.get_or_insert_with(|| status.clone());
                for (sink, name) in SINKS.iter().enumerate() {
                    let (now, before) = (position(&status, name), position(base, name));
                    if back[sink].is_none() && (now > before || now >= next(&status)) {
                        back[sink] = Some(begun.elapsed());
                    }
                }
            }
            // Senders that hold back begin nothing; the sinks' way back is what ends that.
            if back[4].is_none() && (load.taken() > taken || load.is_held()) {
                back[4] = Some(begun.elapsed());
            }
            sleep(POLL).await;
        }
        for (which, back) in SINKS.iter().chain(&["receiver"]).zip(back) {
            match back {
                Some(time) => report.recoveries.push(time),
                None => report
                    .recovery
                    .add(|| format!("round {round}: {which} is not back after {RECOVERY_BOUND:?}")),
            }
        }
    }

    /// Waits until `sinks` have delivered all that the journal holds now. A slow machine may take its
    /// time; a sink that stands still may not. The offset up to which all is delivered.
    pub async fn catch_up(&self, sinks: &[usize], wrong: &mut Violations) -> Offset {
        let mut goal = None;
        let mut progress = Instant::now();
        let mut sum = 0;
        loop {
            if let Some(status) = self.look().await {
                let goal = *goal.get_or_insert_with(|| next(&status));
                let positions: Vec<_> = sinks.iter().map(|&sink| position(&status, SINKS[sink])).collect();
                if positions.iter().all(|&position| position >= goal) {
                    return goal;
                }
                let now = positions.iter().map(|&position| position.min(goal)).sum();
                if now > sum {
                    (sum, progress) = (now, Instant::now());
                }
            }
            if progress.elapsed() > STUCK_BOUND {
                wrong.add(|| {
                    format!("a sink of {sinks:?} stands still for {STUCK_BOUND:?}, its goal is {goal:?}")
                });
                return goal.unwrap_or(0);
            }
            sleep(POLL).await;
        }
    }

    /// A stretch for `sink` that begins with events that nobody has sent yet.
    async fn quiet_from(&self, sink: usize, load: &Load) -> Quiet {
        let from = load.unsent_each();
        let troubles = self.look().await.map(|status| troubles(&status, SINKS[sink]));
        Quiet { from, troubles }
    }

    /// Before faults: what `sinks` were sent since their last ones ended, and have delivered by now with a
    /// durable cursor behind it, must have come once.
    async fn end_quiet(
        &self,
        sinks: &[usize],
        quiet: &[Quiet],
        load: &Load,
        oracle: &mut Oracle,
        report: &mut Report,
    ) {
        let to = load.taken_each();
        let goal = self.catch_up(sinks, &mut report.recovery).await;
        let folder = self.data().join("journal");
        let end = Instant::now() + STUCK_BOUND;
        let is_durable = |cursors: &[(String, Offset)], sink: usize| {
            cursors.iter().any(|(name, cursor)| name == SINKS[sink] && *cursor >= goal)
        };
        while !inspect::cursors(&folder).is_ok_and(|now| sinks.iter().all(|&sink| is_durable(&now, sink))) {
            if Instant::now() > end {
                return report.recovery.add(|| format!("no durable cursor of {sinks:?} reaches {goal}"));
            }
            sleep(POLL).await;
        }
        let Some(status) = self.look().await else { return };
        for &sink in sinks {
            // A sink that failed by itself, on a busy machine say, may have sent again.
            if Some(troubles(&status, SINKS[sink])) == quiet[sink].troubles {
                oracle.quiet(sink, &quiet[sink].from, &to);
            } else {
                report.disturbed += 1;
            }
        }
    }

    /// Reads RabbitMQ's queue to its end, with a new one in its place.
    async fn change_queue(&mut self, load: &Load, oracle: &mut Oracle, report: &mut Report) {
        load.pause(true);
        // What was begun before comes to an end, and is delivered.
        let end = Instant::now() + STUCK_BOUND;
        while load.taken_each() != load.unsent_each() && Instant::now() < end {
            sleep(POLL).await;
        }
        self.catch_up(&[1], &mut report.recovery).await;
        let new = collect::next_queue(&self.trio, &self.place.name, &self.place.queue).await;
        let old = std::mem::replace(&mut self.place.queue, new);
        load.pause(false);
        collect::rabbitmq(&self.trio, &old, oracle).await;
    }

    /// Ends the load and the relay, and reads all that came.
    async fn finish(&mut self, load: &mut Load, watch: &Watch, oracle: &mut Oracle, report: &mut Report) {
        watch.lag_max.store(u64::MAX, Relaxed);
        if !load.stop(STUCK_BOUND).await {
            report.recovery.add(|| "the last events are not taken".to_owned());
        }
        self.catch_up(&[0, 1, 2, 3], &mut report.recovery).await;
        report.memory_bytes = watch.memory.load(Relaxed);
        let code = self.relay.terminate().await;
        if code != Some(0) {
            report.recovery.add(|| format!("the last stop ended with {code:?}"));
        }
        println!("reading what came, {} events were taken", load.taken());
        collect::letters(&self.data(), oracle);
        collect::file(&self.relay.path("files/events.jsonl"), oracle);
        collect::kafka(&self.trio, &self.place.topic("events"), oracle).await;
        collect::rabbitmq(&self.trio, &self.place.queue, oracle).await;
        collect::jetstream(&self.trio, &self.place, oracle).await;
    }
}

async fn look(relay: &Relay) -> Option<Value> {
    let url = format!("http://{}/api/v1/status", relay.admin());
    let answer = relay.http().get(url).timeout(Duration::from_secs(2)).send().await.ok()?;
    serde_json::from_slice(&answer.bytes().await.ok()?).ok()
}

pub fn position(status: &Value, sink: &str) -> Offset {
    sink_of(status, sink)["position"].as_u64().expect("a position")
}

fn next(status: &Value) -> Offset {
    status["journal"]["next"].as_u64().expect("the journal's next offset")
}

/// What tells whether a sink has failed since.
fn troubles(status: &Value, sink: &str) -> (u64, i64) {
    let sink = sink_of(status, sink);
    (sink["retried"].as_u64().unwrap_or(0), sink["last_error"]["at"].as_i64().unwrap_or(0))
}

/// Looks at the relay now and then: holds the senders back while a sink is far behind, and notes how
/// much memory the relay has had at most.
pub struct Watch {
    pub lag_max: Arc<AtomicU64>,
    /// The greatest `VmHWM` of any of its processes, in bytes.
    pub memory: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Watch {
    fn start(relay: Arc<Relay>, hold: Arc<AtomicBool>) -> Self {
        let (lag_max, memory) = (Arc::new(AtomicU64::new(LAG_MAX)), Arc::new(AtomicU64::new(0)));
        let (limit, peak) = (Arc::clone(&lag_max), Arc::clone(&memory));
        let task = tokio::spawn(async move {
            loop {
                peak.fetch_max(peak_bytes(relay.pid()).unwrap_or(0), Relaxed);
                if let Some(status) = look(&relay).await {
                    let lag = SINKS.iter().map(|sink| next(&status).saturating_sub(position(&status, sink)));
                    hold.store(lag.max() > Some(limit.load(Relaxed)), Relaxed);
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        Self { lag_max, memory, task }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn config(place: &Place, addresses: &Addresses) -> String {
    let quick = ["timeout: 2s", "threshold: 1", "backoff: 100ms"];
    let sinks = place.sinks(addresses, "events", &quick);
    // Segments of a second or two, so that all that happens to segments happens often.
    format!(
        "receiver: {{ listen: \"@RECEIVER@\" }}\n\
         journal: {{ path: \"@DIR@/data\", max_size: 512MiB, segment_size: 2MiB, retention: 10s, \
         drain_timeout: 4s }}\n\
         {sinks}  - name: file\n    file: {{ path: \"@DIR@/files\" }}\n    topic: events.jsonl\n    \
         timeout: 2s\n    threshold: 1\n    backoff: 100ms\n\
         routes:\n  - to: [{}]\n",
        SINKS.join(", ")
    )
}
