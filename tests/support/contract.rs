//! The contract of [`relay::sinks::Sink`] as scenarios: every sink passes all of them against its real
//! destination.
//!
//! A suite implements [`Destination`] for its broker and registers the scenarios that fit. [`Driver`]
//! plays the worker's part in them: it keeps the window, gives each call a time limit, and after a
//! fault connects again and sends everything that is not settled.

mod driver;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use driver::CALL_TIMEOUT;
pub use driver::Driver;
use relay::{
    event::Event,
    sinks::{FaultKind, Message, Sink},
};

use super::suite::{Shared, Suite};

/// How long anything may take that ought to happen.
pub const BOUND: Duration = Duration::from_secs(60);
/// The password or token that [`Variant::WrongCredentials`] is to use; it must show in no fault.
pub const WRONG_SECRET: &str = "wr0ng-secret";

/// The sinks that a scenario asks a destination for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As a user would configure it for [`Destination::topic`].
    Good,
    /// Like `Good`, but the destination does not let it in; uses [`WRONG_SECRET`].
    WrongCredentials,
    /// Like `Good`, but what it is configured to publish to (exchange, stream) does not exist.
    Missing,
}

/// A message as it was found at the destination.
#[derive(Clone, Debug)]
pub struct Received {
    pub topic: String,
    /// Where the destination keeps one.
    pub key: Option<String>,
    pub id: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A real broker, server or folder, and what a consumer finds there. Each scenario makes a new topic.
pub trait Destination {
    /// Makes a topic, subject or routing key whose messages [`Destination::consume`] will find; a name
    /// that was not used before. Whatever must exist for it (topic, queue, subscription) is there when
    /// this returns.
    async fn topic(&self) -> String;

    /// A sink that was not connected yet, for messages to `topic`.
    fn sink(&self, topic: &str, variant: Variant) -> Box<dyn Sink>;

    /// Everything that ever arrived for `topic`, in order of arrival, as soon as it is at least `count`
    /// messages. Panics when that takes longer than `bound`. Called again, it starts from the first
    /// message again.
    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received>;

    /// Ends the destination: politely, as an operator would.
    async fn stop(&self);

    /// Ends the destination at once, as a crash would.
    async fn kill(&self);

    /// Makes sure that what [`Destination::topic`] has declared outlives a kill that comes now.
    async fn keep_topics(&self) {}

    /// Starts it again at the same address, with what it had stored; returns when clients can connect.
    async fn start_again(&self);

    /// Connections stay open and nothing answers, until [`Destination::thaw`].
    fn freeze(&self);
    fn thaw(&self);

    /// A body of so many bytes is too large for it.
    fn too_large_bytes(&self) -> usize;

    /// How many messages a scenario sends; enough to fill the window twice.
    fn load(&self) -> usize {
        2_000
    }
}

/// Message number `index` (from 0) of a scenario: one of seven repositories, in turn.
pub fn message(topic: &str, index: usize) -> Message {
    let repository = format!("team/app-{}", index % 7);
    let id = format!("{topic}#{index}");
    // Three spaces of indentation, as a registry writes it: bytes that must survive.
    let json = format!(
        "{{\n   \"id\": \"{id}\",\n   \"action\": \"push\",\n   \"target\": {{\n      \"repository\": \
         \"{repository}\"\n   }},\n   \"future\": {{\"index\": {index}, \"float\": 1.50}}\n}}"
    );
    let event = Event::parse(json.into()).expect("an event");
    Message {
        offset: index as u64 + 1,
        arrived: 1_764_000_000_000_000 + index as i64,
        dedup_id: id.clone(),
        id,
        topic: topic.to_owned(),
        key: repository,
        headers: vec![("x-contract".into(), format!("value {index}"))],
        content_type: "application/json",
        body: event.raw().clone(),
        event,
    }
}

/// Messages number 0 to `count - 1`.
pub fn messages(topic: &str, count: usize) -> Vec<Message> {
    (0..count).map(|index| message(topic, index)).collect()
}

/// Registers, as `name::scenario`, what every destination can be asked that is `shared` as it is.
pub fn register<D: Destination + Send + Sync + 'static>(suite: &mut Suite, name: &str, shared: &Shared<D>) {
    macro_rules! scenarios {
        ($($scenario:ident),*) => {$(
            let destination = shared.clone();
            suite.test(&format!("{name}::{}", stringify!($scenario)), async move || {
                $scenario(&*destination.get().await).await;
            });
        )*};
    }
    scenarios!(
        keeps_order,
        confirms_what_is_there,
        rejects_too_large,
        survives_freeze,
        closes_in_mid_batch,
        settle_is_cancel_safe,
        refuses_wrong_credentials
    );
}

/// Everything arrives, whole, with its headers, and per key in the order in which it was sent; without a
/// fault there is no second copy.
pub async fn keeps_order(destination: &impl Destination) {
    let topic = destination.topic().await;
    let sent = messages(&topic, destination.load());
    let mut driver = Driver::new(destination.sink(&topic, Variant::Good), sent.clone());
    driver.finish().await;
    assert_eq!(driver.outcome.faults, [], "a healthy destination");
    let received = arrived(destination, &topic, &sent).await;
    assert_eq!(received.len(), sent.len(), "copies without a fault");
    check(&sent, &received);
    driver.sink.close().await;
}

/// What is settled is there, while the rest is still on its way.
pub async fn confirms_what_is_there(destination: &impl Destination) {
    let topic = destination.topic().await;
    let sent = messages(&topic, destination.load());
    let mut driver = Driver::new(destination.sink(&topic, Variant::Good), sent.clone());
    driver.step().await.expect("a healthy destination");
    let settled = driver.outcome.settled.clone();
    assert!(!settled.is_empty());
    arrived(destination, &topic, &settled).await;
    driver.finish().await;
    let received = arrived(destination, &topic, &sent).await;
    check(&sent, &received);
    driver.sink.close().await;
}

/// A message that the destination will never take is rejected, with `code`; it alone, and nothing
/// before or behind it is held up.
pub async fn rejects_only(destination: &impl Destination, topic: &str, bad: Message, code: &str) {
    let count = 60;
    let good = messages(topic, count);
    let mut all = good.clone();
    all.insert(count / 2, bad.clone());
    let mut driver = Driver::new(destination.sink(topic, Variant::Good), all);
    driver.finish().await;
    let rejected: Vec<_> =
        driver.outcome.rejected.iter().map(|(message, why)| (message.id.as_str(), why.code)).collect();
    assert_eq!(rejected, [(bad.id.as_str(), code)]);
    assert_eq!(driver.outcome.faults, [], "one bad message is no failure of the sink");
    check(&good, &arrived(destination, topic, &good).await);
    driver.sink.close().await;
}

/// [`rejects_only`] for a message larger than the destination takes.
pub async fn rejects_too_large(destination: &impl Destination) {
    let topic = destination.topic().await;
    let mut bad = message(&topic, 1_000_000);
    bad.body = vec![b'x'; destination.too_large_bytes()].into();
    rejects_only(destination, &topic, bad, "too_large").await;
}

/// [`rejects_only`] for a message to a topic, subject or routing key that goes nowhere.
pub async fn rejects_unknown_topic(destination: &impl Destination, unknown: &str, code: &str) {
    let topic = destination.topic().await;
    let mut bad = message(&topic, 1_000_000);
    bad.topic = unknown.to_owned();
    rejects_only(destination, &topic, bad, code).await;
}

/// How a destination goes away.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Stopped,
    Killed,
}

/// The destination goes away with messages in flight and more to come, and comes back: everything
/// arrives, first arrivals in order, further copies under the same id.
pub async fn survives_restart(destination: &impl Destination, end: End) {
    let topic = destination.topic().await;
    destination.keep_topics().await;
    let sent = messages(&topic, destination.load());
    let mut driver = Driver::new(destination.sink(&topic, Variant::Good), sent.clone());
    driver.step().await.expect("a healthy destination");
    driver.fill().await.expect("a healthy destination");
    assert!(driver.in_flight() > 0, "load() is too small to be in mid-batch");
    match end {
        End::Stopped => destination.stop().await,
        End::Killed => destination.kill().await,
    }
    let mut faults = driver.faults();
    let comes_back = async {
        // Two: the loss itself, and an attempt to connect to what is not there.
        faults.wait_for(|&count| count >= 2).await.expect("the driver lives");
        destination.start_again().await;
    };
    tokio::join!(driver.finish(), comes_back);
    let rejected = &driver.outcome.rejected;
    assert!(rejected.is_empty(), "{} rejected: {:?}", rejected.len(), rejected.first().map(|(_, why)| why));
    check(&sent, &arrived(destination, &topic, &sent).await);
    driver.sink.close().await;
}

/// The destination stops to answer without closing its connections: the worker's time limit ends the
/// wait, and once it answers again everything arrives.
pub async fn survives_freeze(destination: &impl Destination) {
    let topic = destination.topic().await;
    let sent = messages(&topic, destination.load());
    let mut driver = Driver::new(destination.sink(&topic, Variant::Good), sent.clone());
    driver.step().await.expect("a healthy destination");
    destination.freeze();
    driver = driver.call_timeout(Duration::from_secs(1));
    let mut faults = driver.faults();
    let thaws = async {
        faults.wait_for(|&count| count >= 1).await.expect("the driver lives");
        destination.thaw();
    };
    tokio::join!(driver.finish(), thaws);
    check(&sent, &arrived(destination, &topic, &sent).await);
    driver.sink.close().await;
}

/// A stop with messages in flight: what was settled is there, and a new sink delivers the rest.
pub async fn closes_in_mid_batch(destination: &impl Destination) {
    let topic = destination.topic().await;
    let sent = messages(&topic, destination.load());
    let mut driver = Driver::new(destination.sink(&topic, Variant::Good), sent.clone());
    driver.step().await.expect("a healthy destination");
    driver.fill().await.expect("a healthy destination");
    let settled = driver.outcome.settled.clone();
    assert!(driver.in_flight() > 0, "load() is too small to be in mid-batch");
    tokio::time::timeout(CALL_TIMEOUT, driver.sink.close()).await.expect("close is quick");
    arrived(destination, &topic, &settled).await;

    let mut next = Driver::new(destination.sink(&topic, Variant::Good), driver.unsettled());
    next.finish().await;
    check(&sent, &arrived(destination, &topic, &sent).await);
    next.sink.close().await;
}

/// Dropping the future of `settle`, over and over, loses and invents nothing.
pub async fn settle_is_cancel_safe(destination: &impl Destination) {
    let topic = destination.topic().await;
    let sent = messages(&topic, destination.load());
    let mut driver = Driver::new(destination.sink(&topic, Variant::Good), sent.clone());
    driver.connect().await.expect("a healthy destination");
    let end = Instant::now() + BOUND;
    let (mut round, mut dropped) = (0, 0);
    while !driver.unsettled().is_empty() {
        assert!(Instant::now() < end, "{} unsettled", driver.unsettled().len());
        driver.send_batch().await.expect("a healthy destination");
        round += 1;
        // Dropped after one poll, after a few, and now and then after many.
        let patience = [0, 0, 3, 100][round % 4];
        let settled = tokio::select! {
            biased;
            settled = driver.sink.settle() => settled.expect("a healthy destination"),
            () = polls(patience) => { dropped += 1; continue }
        };
        driver.note(settled);
    }
    assert!(dropped > 0, "no future was ever dropped");
    let received = arrived(destination, &topic, &sent).await;
    assert_eq!(received.len(), sent.len(), "copies without a fault");
    check(&sent, &received);
    driver.sink.close().await;
}

/// Is ready when it was polled so many times more.
async fn polls(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Wrong credentials are the sink's failure, told apart from a dead broker, and lose nothing: with the
/// right ones everything is delivered.
pub async fn refuses_wrong_credentials(destination: &impl Destination) {
    refuses(destination, Variant::WrongCredentials).await;
}

/// What the sink is configured to publish to does not exist: as with wrong credentials.
pub async fn refuses_missing(destination: &impl Destination) {
    refuses(destination, Variant::Missing).await;
}

async fn refuses(destination: &impl Destination, variant: Variant) {
    let topic = destination.topic().await;
    let sent = messages(&topic, 10);
    let mut driver = Driver::new(destination.sink(&topic, variant), sent.clone());
    for _ in 0..2 {
        // A client may let us connect and tell only at the first message.
        let fault = driver.step().await.expect_err("must be refused");
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert!(!fault.text.contains(WRONG_SECRET), "a secret in: {fault}");
        driver.faulted(fault).await;
    }
    assert!(driver.outcome.settled.is_empty());
    driver.sink.close().await;

    let mut driver = Driver::new(destination.sink(&topic, Variant::Good), sent.clone());
    driver.finish().await;
    check(&sent, &arrived(destination, &topic, &sent).await);
    driver.sink.close().await;
}

/// Everything that is at the destination, once each of `sent` has arrived.
pub async fn arrived(destination: &impl Destination, topic: &str, sent: &[Message]) -> Vec<Received> {
    let end = Instant::now() + BOUND;
    let mut count = sent.len();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let received = destination.consume(topic, count, left).await;
        let ids: HashSet<&str> = received.iter().map(|one| one.id.as_str()).collect();
        if sent.iter().all(|message| ids.contains(message.id.as_str())) {
            return received;
        }
        // Copies are among them: wait for at least one more.
        count = received.len() + 1;
    }
}

/// Nothing arrived that was not sent, everything is whole, and per key the first arrivals are in order.
pub fn check(sent: &[Message], received: &[Received]) {
    let places: HashMap<&str, usize> =
        sent.iter().enumerate().map(|(place, message)| (message.id.as_str(), place)).collect();
    let mut seen = HashSet::new();
    let mut last: HashMap<&str, usize> = HashMap::new();
    for one in received {
        let place = *places.get(one.id.as_str()).unwrap_or_else(|| panic!("not sent: {one:?}"));
        let message = &sent[place];
        assert_eq!(one.body, message.body, "{}: not the bytes that were sent", one.id);
        assert_eq!(one.topic, message.topic, "{}", one.id);
        assert!(one.key.as_ref().is_none_or(|key| *key == message.key), "{}: {:?}", one.id, one.key);
        for (name, value) in &message.headers {
            let found = one.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
            assert_eq!(found.map(|(_, value)| value), Some(value), "{}: header {name}", one.id);
        }
        if seen.insert(place) {
            let before = last.insert(&message.key, place);
            assert!(before.is_none_or(|before| before < place), "{} came after number {before:?}", one.id);
        }
    }
    assert_eq!(seen.len(), sent.len(), "all that was sent arrives");
}
