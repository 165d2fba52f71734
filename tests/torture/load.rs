//! Registries at work: senders that post their own repositories' events in order, one request at a time,
//! and send what got no 2xx again under the same ids until it is taken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::sleep};

use crate::event::{Name, Random, Recipe};

/// What a sender waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF: Duration = Duration::from_millis(50);
/// A sender that was held up makes up for so much of the time.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);
/// One request in so many is sent again after its 2xx, and one is followed by a body that is no JSON.
const REPEAT_ONE_IN: u64 = 40;
const MALFORMED_ONE_IN: u64 = 60;

/// How hard.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub senders: u32,
    /// Events a second, of all senders together.
    pub rate: u64,
    /// The most events in one request. Three of four requests hold one event, as a registry's do.
    pub batch_max: u64,
}

/// One sender's numbers.
#[derive(Debug, Default)]
pub struct Progress {
    /// Events below were answered with 2xx.
    pub taken: AtomicU64,
    /// Events below were sent at least once.
    pub begun: AtomicU64,
}

#[derive(Default)]
pub struct Counts {
    /// Requests that were answered 503, that got no answer, and that were answered otherwise.
    pub refused: AtomicU64,
    pub unanswered: AtomicU64,
    pub odd: AtomicU64,
    /// Requests sent again after their 2xx, and malformed bodies that were taken.
    pub repeated: AtomicU64,
    pub malformed: AtomicU64,
}

struct Shared {
    recipe: Recipe,
    pace: Pace,
    url: String,
    stop: AtomicBool,
    /// Held by the bench, and by whoever watches how far the sinks are behind.
    pause: AtomicBool,
    hold: Arc<AtomicBool>,
    /// Events a second, of all senders together.
    rate: AtomicU64,
    progress: Vec<Progress>,
    counts: Counts,
}

pub struct Load {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(recipe: Recipe, pace: Pace, url: String) -> Self {
        let progress = (0..pace.senders).map(|_| Progress::default()).collect();
        let shared = Arc::new(Shared {
            recipe,
            pace,
            url,
            stop: AtomicBool::new(false),
            pause: AtomicBool::new(false),
            hold: Arc::default(),
            rate: AtomicU64::new(pace.rate),
            progress,
            counts: Counts::default(),
        });
        let senders = (0..pace.senders).map(|sender| tokio::spawn(send(sender, Arc::clone(&shared))));
        Self { senders: senders.collect(), shared }
    }

    /// Events answered with 2xx, in all and by sender.
    pub fn taken(&self) -> u64 {
        self.shared.progress.iter().map(|sender| sender.taken.load(Relaxed)).sum()
    }

    pub fn taken_each(&self) -> Vec<u64> {
        self.shared.progress.iter().map(|sender| sender.taken.load(Relaxed)).collect()
    }

    /// By sender, the first event that has not been sent yet.
    pub fn unsent_each(&self) -> Vec<u64> {
        self.shared.progress.iter().map(|sender| sender.begun.load(Relaxed)).collect()
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Paused, senders begin nothing new.
    pub fn pause(&self, pause: bool) {
        self.shared.pause.store(pause, Relaxed);
    }

    pub fn is_held(&self) -> bool {
        self.shared.hold.load(Relaxed)
    }

    /// For whoever watches: while it is set, senders begin nothing new either.
    pub fn holder(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.hold)
    }

    /// From now on so many events a second.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Relaxed);
    }

    /// Ends once everything that was begun is taken, for which the relay must be there. `false`: it was
    /// not, within `bound`.
    pub async fn stop(&mut self, bound: Duration) -> bool {
        self.shared.stop.store(true, Relaxed);
        let all = futures_util::future::join_all(self.senders.drain(..));
        match tokio::time::timeout(bound, all).await {
            Ok(ended) => ended.into_iter().all(|sender| sender.is_ok()),
            Err(_) => false,
        }
    }
}

async fn send(sender: u32, shared: Arc<Shared>) {
    // Half of them as a registry: a new connection for each request.
    let idle = if sender.is_multiple_of(2) { 0 } else { 1 };
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(idle).timeout(ANSWER_TIMEOUT);
    let client = client.build().expect("an HTTP client");
    let mut random = Random::new(shared.recipe.seed ^ !u64::from(sender));
    let mut due = Instant::now();
    let mut first = Name { sender, number: 0 };
    while !shared.stop.load(Relaxed) {
        due = due.max(Instant::now().checked_sub(CATCH_UP_MAX).unwrap_or(due));
        sleep(due.saturating_duration_since(Instant::now())).await;
        if shared.pause.load(Relaxed) || shared.hold.load(Relaxed) {
            sleep(BACKOFF).await;
            continue;
        }
        let count = if random.one_in(4) { random.between(2, shared.pace.batch_max + 1) } else { 1 };
        let body = bytes::Bytes::from(shared.recipe.envelope(first, count));
        let progress = &shared.progress[sender as usize];
        progress.begun.store(first.number + count, Relaxed);
        until_taken(&client, &shared, &body).await;
        progress.taken.store(first.number + count, Relaxed);
        if random.one_in(REPEAT_ONE_IN) {
            // The relay knows it: whatever the answer, nothing more may come of it.
            let _ = client.post(&shared.url).body(body).send().await;
            shared.counts.repeated.fetch_add(1, Relaxed);
        }
        if random.one_in(MALFORMED_ONE_IN) {
            until_taken(&client, &shared, &malformed(&shared.recipe, first)).await;
            shared.counts.malformed.fetch_add(1, Relaxed);
        }
        first.number += count;
        let share = shared.rate.load(Relaxed) as f64 / f64::from(shared.pace.senders);
        due += Duration::from_secs_f64(count as f64 / share);
    }
}

/// An envelope that ends in mid event. Its id is none of the run's: it must not arrive.
fn malformed(recipe: &Recipe, near: Name) -> bytes::Bytes {
    let (id, number) = (recipe.id(near), near.number);
    format!("{{\"events\": [{{\"id\": \"malformed-{id}\", \"action\": \"push\", \"n\": {number}").into()
}

async fn until_taken(client: &reqwest::Client, shared: &Shared, body: &bytes::Bytes) {
    loop {
        let counter = match client.post(&shared.url).body(body.clone()).send().await {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) if answer.status().as_u16() == 503 => &shared.counts.refused,
            Ok(_) => &shared.counts.odd,
            Err(_) => &shared.counts.unanswered,
        };
        counter.fetch_add(1, Relaxed);
        sleep(BACKOFF).await;
    }
}
