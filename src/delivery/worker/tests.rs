//! The worker's policy, against a sink that does as it is told. What real brokers do is shown by
//! the contract suites in `tests/`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::condemned::CONDEMNED_MAX;
use super::*;
use crate::config::BacklogMax;
use crate::delivery::{BreakerState, DeadLetter, Feed, FeedReader, Gap, Gaps, Live};
use crate::event::Event;
use crate::journal::Journal;
use crate::journal::local::{LocalJournal, Options};
use crate::route::{Conditions, Filter, Matcher, Route, Table, Target, Template};
use crate::sinks::format::Renderer;
use crate::sinks::{Fault, FaultKind, Message, Naming, Rejection, Settled, SinkOptions};

/// What the sink does at its next calls.
#[derive(Clone, Debug)]
enum Act {
    FailConnect,
    FailSend,
    FailSettle(FaultKind),
    /// Of the messages in flight, rejects those whose id is in the list.
    Reject(Vec<&'static str>),
    Confirm,
    Hang,
}

#[derive(Default)]
struct Script {
    acts: VecDeque<Act>,
    /// Every message that was sent, by id, again when it was sent again.
    sent: Vec<String>,
    confirmed: Vec<String>,
    in_flight_max: usize,
}

struct Scripted {
    script: Arc<Mutex<Script>>,
    in_flight: VecDeque<String>,
    window: usize,
}

impl Scripted {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_if(&self, wanted: fn(&Act) -> bool) -> Option<Act> {
        let mut script = self.script();
        if script.acts.front().is_some_and(wanted) { script.acts.pop_front() } else { None }
    }
}

#[async_trait]
impl Sink for Scripted {
    async fn connect(&mut self) -> Result<(), Fault> {
        self.in_flight.clear();
        match self.next_if(|act| matches!(act, Act::FailConnect)) {
            Some(_) => Err(Fault::disconnected("told to")),
            None => Ok(()),
        }
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        if self.next_if(|act| matches!(act, Act::FailSend)).is_some() {
            return Err(Fault::disconnected("told to"));
        }
        self.in_flight.extend(batch.iter().map(|message| message.id.clone()));
        let in_flight = self.in_flight.len();
        let mut script = self.script();
        script.sent.extend(batch.iter().map(|message| message.id.clone()));
        script.in_flight_max = script.in_flight_max.max(in_flight);
        Ok(())
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        let act =
            self.next_if(|act| !matches!(act, Act::FailConnect | Act::FailSend)).unwrap_or(Act::Confirm);
        match act {
            Act::FailSettle(kind) => {
                self.in_flight.clear();
                Err(Fault { kind, text: "told to".into() })
            }
            Act::Hang => std::future::pending().await,
            Act::Reject(ids) => {
                let places = self.in_flight.iter().enumerate().filter(|(_, id)| ids.contains(&id.as_str()));
                let rejection = || Rejection { code: "too_large", text: "told to".into() };
                let rejected: Vec<_> = places.map(|(place, _)| (place, rejection())).collect();
                let count = self.in_flight.len();
                self.in_flight.clear();
                Ok(Settled { count, rejected })
            }
            _ => {
                let confirmed: Vec<_> = self.in_flight.drain(..).collect();
                let count = confirmed.len();
                self.script().confirmed.extend(confirmed);
                Ok(Settled { count, rejected: Vec::new() })
            }
        }
    }

    async fn close(&mut self) {}

    fn window(&self) -> usize {
        self.window
    }
}

/// A relay of one sink, without listeners.
struct Rig {
    _folder: tempfile::TempDir,
    journal: Arc<dyn Journal>,
    feed: Arc<Feed>,
    letters: Arc<DeadLetters>,
    gaps: Arc<Gaps>,
    status: Arc<SinkStatus>,
    script: Arc<Mutex<Script>>,
    stop: watch::Sender<Stop>,
    config: SinkConfig,
    window: usize,
}

impl Rig {
    fn new(acts: Vec<Act>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options {
            folder: folder.path().join("journal"),
            bytes_max: 64 << 20,
            segment_bytes: 1 << 20,
            retention: Micros::MAX,
            deduplicate: 0,
        };
        let journal: Arc<dyn Journal> = Arc::new(LocalJournal::open(options, Arc::default()).expect("open"));
        let table = Arc::new(table());
        let letters = DeadLetters::open(&folder.path().join("dead"), 1 << 20).expect("open");
        Self {
            feed: Arc::new(Feed::new(journal.clone(), table, 1)),
            gaps: Arc::new(Gaps::open(folder.path().join("gaps")).expect("open")),
            _folder: folder,
            journal,
            letters: Arc::new(letters),
            status: Arc::new(SinkStatus::new("bus".into(), "test", String::new(), false)),
            script: Arc::new(Mutex::new(Script { acts: acts.into(), ..Script::default() })),
            stop: watch::Sender::new(Stop::No),
            config: config(),
            window: 100,
        }
    }

    async fn append(&self, ids: impl IntoIterator<Item = &str>) {
        let events = ids.into_iter().map(|id| {
            let json = format!(r#"{{"id":"{id}","action":"push","target":{{"repository":"a"}}}}"#);
            Event::parse(json.into()).expect("an event")
        });
        self.journal.append(events.collect(), now()).await.expect("append");
    }

    fn worker(&self) -> Worker {
        let sink = Scripted { script: self.script.clone(), in_flight: VecDeque::new(), window: self.window };
        let reader = FeedReader::new(self.feed.clone(), 0, self.journal.cursor("bus").unwrap_or(1));
        let renderer = Renderer::new(&self.config, self.journal.identity());
        let live = Live::new("bus".into(), reader, renderer, self.journal.clone());
        let surroundings = Surroundings {
            letters: self.letters.clone(),
            status: self.status.clone(),
            metrics: Arc::default(),
            stop: self.stop.subscribe(),
        };
        let worker = Worker::new(&self.config, Box::new(sink), Box::new(live), surroundings);
        match self.config.backlog_max {
            Some(max) => worker.with_backlog(Backlog::new(max, self.journal.clone(), self.gaps.clone())),
            None => worker,
        }
    }

    /// Runs a worker until `done`, then drains it.
    async fn run_until(&self, done: impl Fn(&Script) -> bool) {
        let feed = self.feed.clone();
        let feeding = tokio::spawn(async move { feed.run().await });
        let worker = tokio::spawn(self.worker().run());
        let reached = async {
            while !done(&self.script.lock().unwrap_or_else(PoisonError::into_inner)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), reached).await.expect("reached");
        self.stop.send_replace(Stop::Drain(Instant::now() + Duration::from_millis(500)));
        worker.await.expect("no panic");
        feeding.abort();
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn table() -> Table {
    let route = Route {
        name: "all".into(),
        matcher: Matcher::new(&Conditions::default()).expect("a matcher"),
        otherwise: false,
    };
    let template = |text| Template::parse(text).expect(text);
    let target = Target {
        route: 0,
        sink: 0,
        topic: template("registry.{action}"),
        key: template("{repository}"),
        naming: Naming::Plain,
    };
    Table::new(vec![route], vec![target], vec![Filter::default()])
}

fn config() -> SinkConfig {
    let yaml = "sinks: [{name: bus, stdout: {}, threshold: 2, backoff: 1ms, timeout: 2s}]";
    let around = crate::config::Surroundings { env: &|_| None, read: &|_| unreachable!("no files") };
    let loaded = crate::config::parse(yaml, "test", &around).expect("a configuration");
    let config = loaded.config.sinks.into_iter().next().expect("a sink");
    assert!(matches!(config.options, SinkOptions::Stdout(_)));
    config
}

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[tokio::test]
async fn delivers_in_order_and_moves_the_cursor() {
    let rig = Rig::new(vec![]);
    rig.append(IDS).await;
    rig.run_until(|script| script.confirmed.len() == 6).await;
    assert_eq!(rig.script().sent, IDS);
    assert_eq!(rig.journal.cursor("bus"), Some(7));
}

#[tokio::test]
async fn sends_again_what_was_in_flight_and_nothing_else() {
    let rig = Rig::new(vec![
        Act::FailConnect,
        Act::FailSend,
        Act::FailSettle(FaultKind::Disconnected),
        Act::FailSettle(FaultKind::Busy { retry_after: Some(Duration::from_millis(1)) }),
        Act::Confirm,
    ]);
    rig.append(IDS).await;
    rig.run_until(|script| script.confirmed.len() == 6).await;
    assert_eq!(rig.script().confirmed, IDS);
    assert_eq!(rig.script().sent.len(), 18, "sent once for each failure to settle, and once more");
    let snapshot = rig.status.snapshot(now(), rig.journal.head());
    assert_eq!((snapshot.failures, snapshot.breaker, snapshot.delivered), (0, BreakerState::Closed, 6));
    assert!(snapshot.last_error.is_some());
}

#[tokio::test]
async fn the_cursor_stays_behind_what_is_not_confirmed() {
    let rig = Rig::new(vec![Act::Hang, Act::Hang]); // one until the stop, one until the deadline
    rig.append(IDS).await;
    rig.run_until(|script| script.sent.len() == 6).await;
    assert_eq!(rig.journal.cursor("bus"), Some(1));
    // The next worker delivers all of it.
    rig.stop.send_replace(Stop::No);
    rig.run_until(|script| script.confirmed.len() == 6).await;
    assert_eq!(rig.journal.cursor("bus"), Some(7));
}

#[tokio::test]
async fn a_rejected_message_becomes_a_dead_letter_and_blocks_nobody() {
    let rig = Rig::new(vec![Act::Reject(vec!["c"])]);
    rig.append(IDS).await;
    rig.run_until(|script| script.sent.len() >= 6).await;
    let mut found = Vec::new();
    let mut note = |letter: DeadLetter| {
        found.push((letter.event_id, letter.code, letter.attempts, letter.offset));
        true
    };
    rig.letters.visit(0, &mut note).expect("visit");
    assert_eq!(found, [("c".to_owned(), "too_large".to_owned(), 1, 3)]);
    assert_eq!(rig.journal.cursor("bus"), Some(7));
}

#[tokio::test]
async fn full_dead_letters_hold_the_cursor() {
    let mut rig = Rig::new(vec![Act::Reject(vec!["c"])]);
    rig.letters = Arc::new(DeadLetters::open(&rig._folder.path().join("small"), 10).expect("open"));
    rig.append(IDS).await;
    rig.run_until(|script| script.sent.len() >= 6).await;
    assert_eq!((rig.letters.count(), rig.journal.cursor("bus")), (0, Some(3)));
    let error = rig.status.snapshot(now(), 0).last_error.expect("an error");
    assert!(error.text.contains("dead letters are full"), "{}", error.text);
}

#[tokio::test]
async fn what_is_too_large_is_never_sent_and_memory_stays_bounded() {
    let mut rig = Rig::new(vec![]);
    rig.config.message_bytes_max = Some(70);
    let names: Vec<String> = (0..CONDEMNED_MAX * 2).map(|n| format!("{}{n:05}", "x".repeat(30))).collect();
    rig.append(names.iter().map(String::as_str)).await;
    rig.append(["small"]).await;
    rig.run_until(|script| script.confirmed.len() == 1).await;
    assert_eq!(rig.script().sent, ["small"]);
    assert_eq!(rig.letters.count(), names.len() as u64);
}

#[tokio::test]
async fn keeps_to_the_window() {
    let mut rig = Rig::new(vec![]);
    rig.window = 4;
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    rig.append(names.iter().map(String::as_str)).await;
    rig.run_until(|script| script.confirmed.len() == 50).await;
    assert!(rig.script().in_flight_max <= 4);
    assert_eq!(rig.script().confirmed, names);
}

#[tokio::test]
async fn gives_an_event_up_after_its_time() {
    let mut rig = Rig::new(vec![Act::FailConnect; 1000]);
    rig.config.give_up_after = Some(Duration::from_millis(20));
    rig.append(IDS).await;
    let letters = rig.letters.clone();
    rig.run_until(move |_| letters.count() == 6).await;
    assert!(rig.script().sent.is_empty());
    assert_eq!(rig.journal.cursor("bus"), Some(7));
}

#[tokio::test]
async fn a_sink_that_says_nothing_is_given_up_on_after_its_timeout() {
    let mut rig = Rig::new(vec![Act::Hang, Act::Confirm]);
    rig.config.timeout = Duration::from_millis(20);
    rig.append(IDS).await;
    rig.run_until(|script| script.confirmed.len() == 6).await;
    let error = rig.status.snapshot(now(), 0).last_error.expect("an error");
    assert!(error.text.contains("no confirmation within 20ms"), "{}", error.text);
}

#[tokio::test]
async fn sends_what_it_has_before_it_reads_on() {
    let mut rig = Rig::new(Vec::new());
    rig.window = 1000;
    let padding = "x".repeat(20_000);
    let ids: Vec<_> = (0..300).map(|number| format!("{number}-{padding}")).collect();
    for id in &ids {
        rig.append([id.as_str()]).await;
    }
    rig.feed = Arc::new(Feed::new(rig.journal.clone(), Arc::new(table()), 1)); // all of it is behind this one
    rig.run_until(|script| script.confirmed.len() == 300).await;
    let script = rig.script();
    assert!(
        script.in_flight_max < 150,
        "{} at once: 6 MB were read before the first was sent",
        script.in_flight_max
    );
    assert_eq!(script.sent, ids);
}

#[tokio::test]
async fn a_connection_closes_the_breaker_where_nothing_waits() {
    let rig = Rig::new(vec![Act::FailConnect; 4]);
    let worker = tokio::spawn(rig.worker().run());
    let connected = async {
        while !rig.status.snapshot(now(), 1).connected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), connected).await.expect("connected");
    let status = rig.status.snapshot(now(), 1);
    assert_eq!((status.breaker, status.failures), (BreakerState::Closed, 0));
    rig.stop.send_replace(Stop::Drain(Instant::now()));
    worker.await.expect("no panic");
}

#[tokio::test]
async fn gives_up_its_oldest_when_it_is_too_far_behind() {
    let ids: Vec<_> = (0..100).map(|number| format!("{number:02}")).collect();
    let mut rig = Rig::new(vec![Act::FailConnect; 100_000]);
    let before = rig.journal.offset_behind(0);
    for id in &ids {
        rig.append([id.as_str()]).await;
    }
    // About half of it may wait.
    let all = (1..1 << 20).find(|bytes| rig.journal.offset_behind(*bytes) <= before).expect("some bytes");
    rig.config.backlog_max = Some(BacklogMax::Bytes(all / 2));
    let gaps = rig.gaps.clone();
    rig.run_until(move |_| !gaps.list().is_empty()).await;
    let found = rig.gaps.list();
    let Gap { from, to, events, .. } = found[0];
    assert_eq!((found.len(), from, events), (1, 1, to - 1));
    assert!((45..=55).contains(&events), "{found:?}");
    assert_eq!(rig.journal.cursor("bus"), Some(to));
    assert_eq!(rig.status.snapshot(now(), 0).given_up, events);

    // The rest is delivered.
    rig.script().acts.clear();
    rig.stop.send_replace(Stop::No);
    rig.run_until(|script| script.confirmed.last().is_some_and(|id| id == "99")).await;
    assert_eq!(rig.script().confirmed, ids[to as usize - 1..]);
}

#[tokio::test]
async fn gives_up_what_is_too_old_and_nothing_else() {
    let mut rig = Rig::new(vec![Act::FailConnect; 100_000]);
    rig.config.backlog_max = Some(BacklogMax::Age(Duration::from_secs(3600)));
    let old = |id: &str| Event::parse(format!(r#"{{"id":"{id}"}}"#).into()).expect("an event");
    rig.journal.append(vec![old("a"), old("b")], now() - 7_200_000_000).await.expect("append");
    rig.append(["c", "d"]).await;
    let gaps = rig.gaps.clone();
    rig.run_until(move |_| !gaps.list().is_empty()).await;
    let Gap { from, to, events, .. } = rig.gaps.list()[0];
    assert_eq!((from, to, events), (1, 3, 2));
    assert_eq!(rig.journal.cursor("bus"), Some(3));
}
