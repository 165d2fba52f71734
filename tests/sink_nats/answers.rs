//! Each error number of JetStream that a server can be brought to give to a publisher, or to somebody
//! who makes a stream; and a server whose JetStream goes away.

use std::{collections::HashSet, time::Duration};

use async_nats::jetstream::stream;
use futures_util::StreamExt;
use relay::sinks::{Fault, FaultKind};

use crate::{
    fault, sink,
    support::{
        contract::{BOUND, Driver, messages},
        disk::SmallDisk,
        nats::{Nats, Options as Server},
        process::eventually,
        suite::{Shared, Suite},
        unique,
    },
};

pub fn register(suite: &mut Suite) {
    let shared = Shared::new(async || server(&[JETSTREAM]).await);
    let mut test =
        |name: &str, body: fn(std::sync::Arc<Nats>) -> futures_util::future::LocalBoxFuture<'static, ()>| {
            let shared = shared.clone();
            suite.test(&format!("answers::{name}"), async move || body(shared.get().await).await);
        };
    test("a_sealed_stream", |nats| Box::pin(async move { a_sealed_stream(&nats).await }));
    test("headers_that_the_stream_does_not_allow", |nats| {
        Box::pin(async move { headers_that_the_stream_does_not_allow(&nats).await })
    });
    test("somebody_who_is_no_stream", |nats| Box::pin(async move { somebody_who_is_no_stream(&nats).await }));
    test("a_full_stream", |nats| Box::pin(async move { a_full_stream(&nats).await }));
    suite.test("answers::an_accounts_limit", an_accounts_limit);
    suite.test("answers::a_servers_limit", a_servers_limit);
    suite.test("answers::too_much_at_once", too_much_at_once);
    suite.test("answers::a_full_disk_is_silence", a_full_disk_is_silence);
    suite.test("answers::a_stream_that_would_be_too_much", a_stream_that_would_be_too_much);
    for configured in [true, false] {
        let name =
            |who: &str| format!("answers::jetstream_turned_off_for_the_{who}::configured={configured}");
        suite.test(&name("account"), async move || jetstream_turned_off_for_the_account(configured).await);
        suite.test(&name("server"), async move || jetstream_turned_off_for_the_server(configured).await);
    }
}

const JETSTREAM: &str = "jetstream { store_dir: jetstream }";

fn configured(config: &[&str]) -> Server {
    let config = config.iter().map(|&line| line.to_owned()).collect();
    Server { own: true, jetstream: false, config, ..Server::default() }
}

/// A server whose part about JetStream is in `config`.
async fn server(config: &[&str]) -> Nats {
    Nats::start(configured(config)).await
}

/// The fault that error number `number` of JetStream becomes; the first that the driver meets.
async fn meets(driver: &mut Driver, number: u64) -> Fault {
    let fault = fault(driver).await;
    assert!(fault.text.contains(&format!("error {number}")), "not {number}: {fault:?}");
    fault
}

/// A stream for one subject, which is answered; the driver of `count` messages to it.
async fn stream_of(
    nats: &Nats,
    count: usize,
    more: impl FnOnce(&mut stream::Config),
) -> (stream::Config, Driver) {
    let topic = unique("registry.push");
    let name = topic.replace('.', "-");
    let mut config =
        stream::Config { name: name.clone(), subjects: vec![topic.clone()], ..Default::default() };
    more(&mut config);
    nats.create_stream_with(config.clone()).await;
    (config, Driver::new(sink(&yaml(nats, &name, "")), messages(&topic, count)))
}

fn yaml(nats: &Nats, stream: &str, more: &str) -> String {
    format!("{{servers: '{}', jetstream: {{stream: {stream}{more}}}}}", nats.url())
}

async fn update(nats: &Nats, config: &stream::Config) {
    nats.jetstream().await.update_stream(config).await.expect("update the stream");
}

/// After what was wrong is mended: everything is delivered, and nothing was put aside.
async fn recovers(mut driver: Driver, fault: Fault) {
    driver.faulted(fault).await;
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
}

async fn a_sealed_stream(nats: &Nats) {
    let (mut config, mut driver) = stream_of(nats, 5, |_| {}).await;
    config.sealed = true;
    update(nats, &config).await;
    let sealed = meets(&mut driver, 10109).await;
    assert_eq!(sealed.kind, FaultKind::Refused, "{sealed}");
    // A seal is for ever: another stream has to take its place.
    nats.jetstream().await.delete_stream(&config.name).await.expect("delete the stream");
    config.sealed = false;
    nats.create_stream_soon(config.clone()).await;
    recovers(driver, sealed).await;
    assert_eq!(nats.count(&config.name).await, 5);
}

async fn headers_that_the_stream_does_not_allow(nats: &Nats) {
    for (header, value, number, allows_ttl) in [
        ("Nats-Rollup", "sub", 10111, false),
        ("Nats-TTL", "1h", 10166, false),
        ("Nats-TTL", "soon", 10165, true),
    ] {
        let (config, driver) = stream_of(nats, 5, |config| config.allow_message_ttl = allows_ttl).await;
        let mut all = driver.unsettled();
        all.iter_mut().for_each(|message| message.headers = vec![(header.into(), value.to_owned())]);
        let mut driver = Driver::new(driver.sink, all);
        let fault = meets(&mut driver, number).await;
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert!(driver.outcome.settled.is_empty());
        assert_eq!(nats.count(&config.name).await, 0);
    }
}

/// Whoever subscribes to a subject gets the messages, and may answer them: that stores nothing.
async fn somebody_who_is_no_stream(nats: &Nats) {
    let topic = unique("registry.push");
    let client = nats.connect().await;
    let mut requests = client.subscribe(topic.clone()).await.expect("subscribe");
    client.flush().await.expect("flush");
    let answers = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            client.publish(request.reply.expect("a place to answer"), "+OK".into()).await.expect("answer");
        }
    });
    let yaml = format!("{{servers: '{}', jetstream: {{}}}}", nats.url());
    let mut driver = Driver::new(sink(&yaml), messages(&topic, 5));
    let strange = fault(&mut driver).await;
    assert!(matches!(strange.kind, FaultKind::Busy { .. }), "{strange:?}");
    assert!(strange.text.contains("not JSON"), "{strange}");
    answers.abort();
    assert!(answers.await.is_err_and(|ended| ended.is_cancelled()));
    nats.create_stream(&topic.replace('.', "-"), &[&topic]).await;
    recovers(driver, strange).await;
    assert_eq!(nats.count(&topic.replace('.', "-")).await, 5);
}

async fn a_full_stream(nats: &Nats) {
    let limits: [fn(&mut stream::Config); 3] = [
        |config| config.max_messages = 5,
        |config| config.max_bytes = 2_000,
        |config| (config.max_messages_per_subject, config.discard_new_per_subject) = (5, true),
    ];
    for limit in limits {
        let (mut config, mut driver) = stream_of(nats, 20, |config| {
            config.discard = stream::DiscardPolicy::New;
            limit(config);
        })
        .await;
        let full = meets(&mut driver, 10077).await;
        assert!(matches!(full.kind, FaultKind::Busy { .. }), "{full:?}");
        (config.max_messages, config.max_bytes, config.max_messages_per_subject) = (100, 1 << 20, 100);
        update(nats, &config).await;
        recovers(driver, full).await;
        assert_eq!(nats.count(&config.name).await, 20);
    }
}

/// A server with one account, which everybody is in; its part about JetStream is `jetstream`.
fn with_account(jetstream: &str) -> Server {
    let users = "users: [ { user: relay, password: none } ]";
    let account = format!("accounts {{ A: {{ jetstream: {jetstream}, {users} }} }}");
    configured(&[JETSTREAM, &account, "no_auth_user: relay"])
}

async fn an_accounts_limit() {
    let limited = |bytes: u32| with_account(&format!("{{ max_file: {bytes} }}"));
    exceeds(10002, limited(4_000), limited(1 << 20)).await;
}

async fn a_servers_limit() {
    let limited =
        |bytes: u32| configured(&[&format!("jetstream {{ store_dir: jetstream, max_file_store: {bytes} }}")]);
    exceeds(10023, limited(4_000), limited(1 << 20)).await;
}

/// A limit that the first few messages exceed, and then a larger one.
async fn exceeds(number: u64, small: Server, large: Server) {
    let nats = Nats::start(small).await;
    let (config, mut driver) = stream_of(&nats, 50, |_| {}).await;
    let exceeded = meets(&mut driver, number).await;
    assert!(matches!(exceeded.kind, FaultKind::Busy { .. }), "{exceeded:?}");
    nats.reload(&large);
    recovers(driver, exceeded).await;
    assert_eq!(nats.count(&config.name).await, 50);
}

/// A server whose disk is full says nothing: the worker's time limit ends that. With room, and started
/// again, it takes the rest, and what it had confirmed is there.
async fn a_full_disk_is_silence() {
    let disk = SmallDisk::mount(8 << 20);
    let store = format!("jetstream {{ store_dir: \"{}\" }}", disk.path().join("jetstream").display());
    let nats = server(&[&store]).await;
    let (config, driver) = stream_of(&nats, 400, |_| {}).await;
    let mut all = driver.unsettled();
    all.iter_mut().for_each(|message| message.body = vec![b'x'; 10_000].into());
    let mut driver = Driver::new(driver.sink, all).call_timeout(Duration::from_secs(2));
    driver.connect().await.expect("connect");
    driver.send_batch().await.expect("send");
    driver.settle().await.expect("room enough");
    disk.fill(1 << 20);
    let full = fault(&mut driver).await;
    assert_eq!(full.kind, FaultKind::Disconnected, "{full}");
    let confirmed = driver.outcome.settled.len();
    assert!(confirmed < 400);
    driver.faulted(full).await;
    disk.free();
    nats.stop().await;
    nats.start_again().await;
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
    let there = nats.consume_stream(&config.name, 400, BOUND).await;
    let found: HashSet<_> = there.iter().map(|message| message.header("id").expect("an id")).collect();
    let lost = driver.outcome.settled.iter().filter(|message| !found.contains(message.id.as_str()));
    assert_eq!(lost.map(|message| &message.id).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// Messages come faster than the stream stores them, beyond what the server is willing to hold.
async fn too_much_at_once() {
    let nats = server(&["jetstream { store_dir: jetstream, max_buffered_msgs: 1 }"]).await;
    let (config, mut driver) = stream_of(&nats, 2_000, |_| {}).await;
    let many = meets(&mut driver, 10167).await;
    assert!(matches!(many.kind, FaultKind::Busy { .. }), "{many:?}");
    nats.reload(&configured(&[JETSTREAM]));
    nats.stop().await;
    nats.start_again().await;
    recovers(driver, many).await;
    assert_eq!(nats.count(&config.name).await, 2_000);
}

/// What a stream that is to be made may not be; seen when the sink connects, and mended over there or
/// in the configuration.
async fn a_stream_that_would_be_too_much() {
    let nats = Nats::start(with_account("{ max_file: 1MB, max_mem: 1MB, max_streams: 1 }")).await;
    let refused = async |number: u64, create: &str| {
        let create = format!(", create: {{subjects: ['{}'], {create}}}", unique("registry.push"));
        let fault = sink(&yaml(&nats, &unique("S"), &create)).connect().await.expect_err("cannot be made");
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert!(fault.text.contains(&number.to_string()), "not {number}: {fault}");
    };
    refused(10047, "max_bytes: 2MiB").await;
    refused(10028, "max_bytes: 2MiB, storage: memory").await;
    refused(10074, "replicas: 3").await;
    let only = unique("only");
    nats.create_stream(&only, &[&only]).await;
    refused(10027, "").await;
}

async fn jetstream_turned_off_for_the_account(configured: bool) {
    // The server says so itself, to somebody who publishes and to somebody who connects.
    let says = if configured { "10039" } else { "JetStream not enabled for account" };
    let (nats, mut driver) = turned_off(configured, with_account("enabled"), with_account("disabled")).await;
    for _ in 0..2 {
        let fault = fault(&mut driver).await;
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert!(fault.text.contains(says), "{fault}");
        driver.faulted(fault).await;
    }
    nats.reload(&with_account("enabled"));
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
}

async fn jetstream_turned_off_for_the_server(is_configured: bool) {
    let (nats, mut driver) = turned_off(is_configured, configured(&[JETSTREAM]), configured(&[])).await;
    // A server that was told to go on without JetStream does not answer at all, not even with "no
    // responders": the worker's time limit ends that.
    driver = driver.call_timeout(Duration::from_secs(2));
    let silence = fault(&mut driver).await;
    assert_eq!(silence.kind, FaultKind::Disconnected, "{silence}");
    driver.faulted(silence).await;
    nats.stop().await;
    nats.start_again().await;
    let off = fault(&mut driver).await;
    assert_eq!(off.kind, FaultKind::Refused, "{off}");
    assert!(off.text.contains("is JetStream on"), "{off}");
    driver.faulted(off).await;
    nats.reload(&configured(&[JETSTREAM]));
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
}

/// A sink that has been connected for a while when JetStream goes.
async fn turned_off(configured: bool, on: Server, off: Server) -> (Nats, Driver) {
    let nats = Nats::start(on).await;
    let (config, driver) = stream_of(&nats, 20, |_| {}).await;
    let stream = if configured { format!("{{stream: {}}}", config.name) } else { "{}".to_owned() };
    let sink = sink(&format!("{{servers: '{}', jetstream: {stream}}}", nats.url()));
    let mut driver = Driver::new(sink, driver.unsettled());
    driver.connect().await.expect("connect");
    nats.reload(&off);
    let mut jetstream = nats.jetstream().await;
    jetstream.set_timeout(Duration::from_secs(1));
    eventually("JetStream to be off", BOUND, async || {
        jetstream.get_stream(&config.name).await.is_err().then_some(())
    })
    .await;
    (nats, driver)
}
