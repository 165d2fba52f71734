//! Registries without the registry: senders that post one event at a time and send what got no 2xx
//! again, as distribution's queue does, until it is taken; and the check that all of it arrived.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

use super::{process::eventually, unique};

/// What a registry waits for an answer; later it sends the event again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The registry's `backoff`.
const BACKOFF: Duration = Duration::from_millis(20);
const REPOSITORIES_EACH: usize = 3;

/// An event that was answered with 2xx.
#[derive(Debug, Clone)]
pub struct Sent {
    pub id: String,
    pub repository: String,
    /// The event's own JSON, with white space as a registry writes it.
    pub raw: String,
}

/// An event as a consumer found it.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub topic: String,
    /// Where the broker keeps one.
    pub key: Option<String>,
    pub id: String,
    pub body: Vec<u8>,
}

impl Sent {
    /// A push to `repository`, padded with `padding` bytes.
    pub fn new(repository: &str, padding: usize) -> Self {
        let id = unique("event");
        let padding = "x".repeat(padding);
        let raw = format!(
            "{{\n         \"id\": \"{id}\",\n         \"timestamp\": \"2026-11-24T01:58:26.927777128Z\",\n         \
             \"action\": \"push\",\n         \"target\": {{\n            \
             \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n            \"size\": 708,\n            \
             \"repository\": \"{repository}\",\n            \"tag\": \"v1\"\n         }},\n         \
             \"source\": {{\n            \"addr\": \"registry:5000\",\n            \
             \"instanceID\": \"of the test\"\n         }},\n         \"unknown\": \"{padding}\"\n      }}"
        );
        Self { id, repository: repository.to_owned(), raw }
    }

    /// The request's body.
    pub fn envelope(&self) -> String {
        format!("{{\n   \"events\": [\n      {}\n   ]\n}}", self.raw)
    }
}

struct Shared {
    url: String,
    padding: usize,
    stop: AtomicBool,
    taken: AtomicU64,
    repeated: AtomicU64,
}

/// Senders at work.
pub struct Load {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<Vec<Sent>>>,
}

impl Load {
    /// `senders` at once, each with repositories of its own, one request at a time on a connection of
    /// its own, as a stock registry does.
    pub fn start(url: &str, senders: usize, padding: usize) -> Self {
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            padding,
            stop: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        });
        let senders = (0..senders).map(|number| tokio::spawn(send(number, Arc::clone(&shared)))).collect();
        Self { shared, senders }
    }

    /// How many events were answered with 2xx so far.
    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// How many requests got something else, or nothing, and were repeated.
    pub fn repeated(&self) -> u64 {
        self.shared.repeated.load(Ordering::Relaxed)
    }

    /// Waits until `more` events have been taken from now on.
    pub async fn more(&self, more: u64, bound: Duration) {
        let goal = self.taken() + more;
        let what = format!("{more} more events taken");
        eventually(&what, bound, async || (self.taken() >= goal).then_some(())).await;
    }

    /// Stops once each sender's last event is taken, for which the relay must be there. What was taken,
    /// in order for each repository.
    pub async fn stop(self, bound: Duration) -> Vec<Sent> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for sender in self.senders {
            let sent = tokio::time::timeout(bound, sender).await;
            all.extend(sent.expect("the last events are taken in time").expect("no panic"));
        }
        all
    }
}

async fn send(number: usize, shared: Arc<Shared>) -> Vec<Sent> {
    // No connection is kept: a registry's notifications come on a new one each.
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(ANSWER_TIMEOUT)
        .build()
        .expect("an HTTP client");
    let mut taken = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let event =
            Sent::new(&format!("team-{number}/app-{}", taken.len() % REPOSITORIES_EACH), shared.padding);
        let body = bytes::Bytes::from(event.envelope());
        while !is_taken(client.post(&shared.url).body(body.clone())).await {
            shared.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(BACKOFF).await;
        }
        shared.taken.fetch_add(1, Ordering::Relaxed);
        taken.push(event);
    }
    taken
}

async fn is_taken(request: reqwest::RequestBuilder) -> bool {
    request.send().await.is_ok_and(|answer| answer.status().is_success())
}

/// Checks what arrived at `sink` against all that was taken: every event, byte for byte, keyed by its
/// repository where there is a key, first arrivals in order per repository; what came twice is the same
/// event. Answers how many arrivals were repetitions.
pub fn assert_arrived(sink: &str, sent: &[Sent], arrived: &[Arrival]) -> usize {
    let by_id: HashMap<_, _> = sent.iter().map(|sent| (sent.id.as_str(), sent)).collect();
    let mut firsts: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for arrival in arrived {
        let Some(sent) = by_id.get(arrival.id.as_str()) else {
            panic!("{sink}: {} was never sent: {}", arrival.id, String::from_utf8_lossy(&arrival.body));
        };
        assert!(
            arrival.body == sent.raw.as_bytes(),
            "{sink}: {} came as {}",
            arrival.id,
            String::from_utf8_lossy(&arrival.body)
        );
        if let Some(key) = &arrival.key {
            assert_eq!(key, &sent.repository, "{sink}: the key of {}", sent.id);
        }
        let times = seen.entry(&sent.id).or_default();
        if *times == 0 {
            firsts.entry(&sent.repository).or_default().push(&sent.id);
        }
        *times += 1;
    }
    let missing: Vec<_> = sent.iter().filter(|sent| !seen.contains_key(sent.id.as_str())).collect();
    assert!(missing.is_empty(), "{sink}: {} of {} are lost: {}", missing.len(), sent.len(), listed(&missing));
    let mut expected: HashMap<&str, Vec<&str>> = HashMap::new();
    for sent in sent {
        expected.entry(&sent.repository).or_default().push(&sent.id);
    }
    for (repository, expected) in expected {
        assert_eq!(firsts[repository], expected, "{sink}: the order of {repository}");
    }
    arrived.len() - sent.len()
}

/// The first few, for a message.
fn listed(events: &[&Sent]) -> String {
    let mut out = String::new();
    for event in events.iter().take(5) {
        write!(out, "\n  {} of {}", event.id, event.repository).expect("to a string");
    }
    out
}
