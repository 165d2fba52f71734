//! The NATS sink against a real server: the contract, in core and in JetStream, and each row of
//! `docs/failures/nats.md`.

mod support;

use std::{
    cell::RefCell,
    collections::HashMap,
    process::{Command, ExitCode},
    time::Duration,
};

use async_nats::jetstream::stream;
use futures_util::StreamExt;
use relay::sinks::{Context, FaultKind, Options, Sink, nats::NatsOptions};
use support::{
    contract::{self, BOUND, Destination, Driver, End, Received, Variant, WRONG_SECRET, message, messages},
    nats::{Auth, NKEY_SEED, Nats, Options as Server},
    process::{Proc, eventually},
    proxy::{Direction, Mode, Proxy},
    suite::{Shared, Suite},
    unique,
};

const PASSWORD: &str = "r1ght-secret";
const MAX_PAYLOAD: u32 = 64 * 1024;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    contract_of(&mut suite, "jetstream", Shared::new(JetStream::start));
    contract_of(&mut suite, "core", Shared::new(Core::start));
    jetstream(&mut suite);
    connections(&mut suite);
    permissions(&mut suite);
    suite.run()
}

/// Registers every scenario of the contract.
fn contract_of<D: Destination + Send + Sync + 'static>(suite: &mut Suite, name: &str, shared: Shared<D>) {
    macro_rules! scenarios {
        ($($scenario:ident),*) => {$(
            let destination = shared.clone();
            suite.test(&format!("{name}::{}", stringify!($scenario)), async move || {
                contract::$scenario(&*destination.get().await).await;
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
    for end in [End::Stopped, End::Killed] {
        let destination = shared.clone();
        suite.test(&format!("{name}::survives_restart::{end:?}"), async move || {
            contract::survives_restart(&*destination.get().await, end).await;
        });
    }
}

fn context(timeout: Duration) -> Context {
    Context { name: "bus".to_owned(), timeout, literal_topics: Vec::new() }
}

fn options(yaml: &str) -> NatsOptions {
    let options: NatsOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options
}

fn sink(yaml: &str) -> Box<dyn Sink> {
    options(yaml).build(context(Duration::from_secs(5)))
}

async fn server(auth: Auth, config: &[&str]) -> Nats {
    let config = config.iter().map(|&line| line.to_owned()).collect();
    Nats::start(Server { own: true, auth, max_payload: Some(MAX_PAYLOAD), config, ..Server::default() }).await
}

fn user() -> Auth {
    Auth::User("relay".to_owned(), PASSWORD.to_owned())
}

fn received(message: &support::nats::Received) -> Received {
    Received {
        topic: message.subject.clone(),
        key: None,
        id: message.header("id").unwrap_or_default().to_owned(),
        headers: message
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
            .collect(),
        body: message.payload.clone(),
    }
}

/// One server, and a stream of its own for each topic.
struct JetStream {
    nats: Nats,
}

impl JetStream {
    async fn start() -> Self {
        Self { nats: server(user(), &[]).await }
    }

    /// A topic's stream: names of streams have no dots.
    fn stream(topic: &str) -> String {
        topic.replace('.', "-")
    }

    fn yaml(&self, topic: &str, more: &str) -> String {
        format!(
            "{{servers: '{}', user: relay, password: {PASSWORD}, jetstream: {{stream: {}{more}}}}}",
            self.nats.url(),
            Self::stream(topic)
        )
    }
}

impl Destination for JetStream {
    async fn topic(&self) -> String {
        let topic = unique("registry.push");
        self.nats.create_stream(&Self::stream(&topic), &[&topic]).await;
        topic
    }

    fn sink(&self, topic: &str, variant: Variant) -> Box<dyn Sink> {
        let yaml = self.yaml(topic, "");
        sink(&match variant {
            Variant::Good => yaml,
            Variant::WrongCredentials => yaml.replace(PASSWORD, WRONG_SECRET),
            Variant::Missing => yaml.replace("{stream: ", "{stream: no-"),
        })
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let stream = Self::stream(topic);
        let count = count.max(self.nats.count(&stream).await as usize);
        self.nats.consume_stream(&stream, count, bound).await.iter().map(received).collect()
    }

    async fn stop(&self) {
        self.nats.stop().await;
    }

    async fn kill(&self) {
        self.nats.kill();
    }

    async fn start_again(&self) {
        self.nats.start_again().await;
    }

    fn freeze(&self) {
        self.nats.freeze();
    }

    fn thaw(&self) {
        self.nats.thaw();
    }

    fn too_large_bytes(&self) -> usize {
        MAX_PAYLOAD as usize
    }
}

/// One server, and a proxy before it: core NATS keeps nothing, so the subscribers stay connected while
/// the sink's own connection is cut and stalled.
struct Core {
    nats: Nats,
    proxy: Proxy,
    subscribers: tokio::sync::Mutex<HashMap<String, Subscriber>>,
}

struct Subscriber {
    client: async_nats::Client,
    subscription: async_nats::Subscriber,
    received: Vec<Received>,
}

impl Core {
    async fn start() -> Self {
        let nats = server(user(), &[]).await;
        let proxy = Proxy::start(nats.address()).await;
        Self { nats, proxy, subscribers: tokio::sync::Mutex::default() }
    }
}

impl Subscriber {
    /// Takes everything that the server has for us by now: what it had before it got our own mark.
    async fn catch_up(&mut self, topic: &str) -> usize {
        let mark = unique("mark");
        self.client.publish(topic.to_owned(), mark.clone().into()).await.expect("publish the mark");
        while let Some(message) = self.subscription.next().await {
            if message.headers.is_none() {
                if message.payload == mark {
                    break;
                }
                continue;
            }
            self.received.push(received(&support::nats::Received {
                subject: message.subject.to_string(),
                payload: message.payload.to_vec(),
                headers: message.headers.unwrap_or_default(),
                sequence: 0,
            }));
        }
        self.received.len()
    }
}

impl Destination for Core {
    async fn topic(&self) -> String {
        let topic = unique("registry.push");
        let client = self.nats.connect().await;
        let subscription = client.subscribe(topic.clone()).await.expect("subscribe");
        let mut subscriber = Subscriber { client, subscription, received: Vec::new() };
        subscriber.catch_up(&topic).await;
        self.subscribers.lock().await.insert(topic.clone(), subscriber);
        topic
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        let password = if variant == Variant::WrongCredentials { WRONG_SECRET } else { PASSWORD };
        let address = self.proxy.address();
        sink(&format!("{{servers: '{address}', user: relay, password: {password}, window: 300}}"))
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let mut subscribers = self.subscribers.lock().await;
        let subscriber = RefCell::new(subscribers.get_mut(topic).expect("a topic of ours"));
        let what = format!("{count} messages to {topic}");
        // One look at a time: the borrow never meets another.
        #[allow(clippy::await_holding_refcell_ref)]
        eventually(&what, bound, async || {
            (subscriber.borrow_mut().catch_up(topic).await >= count).then_some(())
        })
        .await;
        subscriber.into_inner().received.clone()
    }

    async fn stop(&self) {
        self.proxy.down();
    }

    async fn kill(&self) {
        self.proxy.down();
    }

    async fn start_again(&self) {
        self.proxy.pass();
    }

    fn freeze(&self) {
        self.proxy.set(Direction::Both, Mode::Stall);
    }

    fn thaw(&self) {
        self.proxy.pass();
    }

    fn too_large_bytes(&self) -> usize {
        MAX_PAYLOAD as usize
    }
}

/// A fault, from whichever step tells it first.
async fn fault(driver: &mut Driver) -> relay::sinks::Fault {
    for _ in 0..3 {
        if let Err(fault) = driver.step().await {
            return fault;
        }
    }
    panic!("no fault; settled: {}", driver.outcome.settled.len());
}

fn jetstream(suite: &mut Suite) {
    let shared = Shared::new(JetStream::start);
    let mut test =
        |name: &str,
         body: fn(std::sync::Arc<JetStream>) -> futures_util::future::LocalBoxFuture<'static, ()>| {
            let shared = shared.clone();
            suite.test(&format!("jetstream::{name}"), async move || body(shared.get().await).await);
        };
    test("refuses_missing", |js| Box::pin(async move { contract::refuses_missing(&*js).await }));
    test("rejects_unknown_subject", |js| {
        Box::pin(
            async move { contract::rejects_unknown_topic(&*js, &unique("nowhere"), "no_such_stream").await },
        )
    });
    test("rejects_unknown_subject_without_a_configured_stream", |js| {
        Box::pin(async move {
            let topic = js.topic().await;
            let yaml = js.yaml(&topic, "").replace(&format!("stream: {}", JetStream::stream(&topic)), "");
            let mut bad = message(&topic, 1);
            bad.topic = unique("nowhere");
            let mut driver = Driver::new(sink(&yaml), vec![message(&topic, 0), bad, message(&topic, 2)]);
            driver.finish().await;
            let rejected: Vec<_> =
                driver.outcome.rejected.iter().map(|(m, why)| (m.offset, why.code)).collect();
            assert_eq!(rejected, [(2, "no_such_stream")]);
            assert_eq!(driver.outcome.faults, []);
            assert_eq!(js.nats.count(&JetStream::stream(&topic)).await, 2);
        })
    });
    test("rejects_what_another_stream_captures", |js| {
        Box::pin(async move {
            let other = js.topic().await;
            contract::rejects_unknown_topic(&*js, &other, "no_such_stream").await;
            assert_eq!(js.nats.count(&JetStream::stream(&other)).await, 0);
        })
    });
    test("rejects_larger_than_the_streams_messages", |js| {
        Box::pin(async move {
            let topic = unique("registry.small");
            let (name, subjects) = (JetStream::stream(&topic), vec![topic.clone()]);
            let config = stream::Config { name, subjects, max_message_size: 2_000, ..Default::default() };
            js.nats.create_stream_with(config).await;
            let mut bad = message(&topic, 1_000_000);
            bad.body = vec![b'x'; 3_000].into();
            contract::rejects_only(&*js, &topic, bad, "too_large").await;
        })
    });
    test("stores_a_second_copy_once", |js| {
        Box::pin(async move {
            let topic = js.topic().await;
            let sent = messages(&topic, 500);
            for _ in 0..2 {
                let mut driver = Driver::new(js.sink(&topic, Variant::Good), sent.clone());
                driver.finish().await;
                assert_eq!(driver.outcome.settled.len(), sent.len());
            }
            assert_eq!(js.nats.count(&JetStream::stream(&topic)).await, 500);
        })
    });
    test("waits_while_the_stream_is_full", |js| Box::pin(waits_while_the_stream_is_full(js)));
    test("a_stream_deleted_under_us_is_refused", |js| Box::pin(a_stream_deleted_under_us_is_refused(js)));
    test("creates_the_stream_if_asked", |js| Box::pin(creates_the_stream_if_asked(js)));
    test("a_stream_that_confirms_nothing_is_refused", |js| {
        Box::pin(async move {
            let topic = unique("registry.mute");
            let (name, subjects) = (JetStream::stream(&topic), vec![topic.clone()]);
            let config = stream::Config { name, subjects, no_ack: true, ..Default::default() };
            js.nats.create_stream_with(config).await;
            let fault = js.sink(&topic, Variant::Good).connect().await.expect_err("no_ack");
            assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        })
    });
    test("a_stream_that_cannot_be_created_is_refused", |js| {
        Box::pin(async move {
            // Another stream has the subject.
            let taken = js.topic().await;
            let yaml = js.yaml(&unique("other"), &format!(", create: {{subjects: ['{taken}']}}"));
            let fault = sink(&yaml).connect().await.expect_err("overlapping subjects");
            assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
            assert!(fault.text.contains("overlap"), "{fault}");
        })
    });
    test("a_header_that_nats_does_not_allow_is_refused", |js| {
        Box::pin(async move {
            let topic = js.topic().await;
            for (name, value) in [("a b", "c"), ("a", "b\r\nc: d")] {
                let mut all = messages(&topic, 1);
                all[0].headers = vec![(name.into(), value.to_owned())];
                let mut driver = Driver::new(js.sink(&topic, Variant::Good), all);
                assert_eq!(fault(&mut driver).await.kind, FaultKind::Refused);
            }
        })
    });
    test("rejects_a_subject_that_is_none", |js| {
        Box::pin(async move { contract::rejects_unknown_topic(&*js, "two words", "no_such_subject").await })
    });
    test("a_server_without_jetstream_is_refused", |_| Box::pin(a_server_without_jetstream_is_refused()));
}

async fn waits_while_the_stream_is_full(js: std::sync::Arc<JetStream>) {
    let topic = unique("registry.full");
    let mut config = stream::Config {
        name: JetStream::stream(&topic),
        subjects: vec![topic.clone()],
        max_messages: 5,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    };
    js.nats.create_stream_with(config.clone()).await;
    let mut driver = Driver::new(js.sink(&topic, Variant::Good), messages(&topic, 20));
    let full = fault(&mut driver).await;
    assert!(matches!(full.kind, FaultKind::Busy { .. }), "{full:?}");
    driver.faulted(full).await;
    config.max_messages = 100;
    js.nats.jetstream().await.update_stream(config).await.expect("more room");
    driver.finish().await;
    assert_eq!(js.nats.count(&JetStream::stream(&topic)).await, 20);
    assert!(driver.outcome.rejected.is_empty());
}

async fn a_stream_deleted_under_us_is_refused(js: std::sync::Arc<JetStream>) {
    let topic = js.topic().await;
    let mut driver = Driver::new(js.sink(&topic, Variant::Good), messages(&topic, 20));
    driver.connect().await.expect("connect");
    js.nats.jetstream().await.delete_stream(JetStream::stream(&topic)).await.expect("delete the stream");
    let gone = fault(&mut driver).await;
    assert_eq!(gone.kind, FaultKind::Refused, "{gone}");
    driver.faulted(gone).await;
    js.nats.create_stream(&JetStream::stream(&topic), &[&topic]).await;
    driver.finish().await;
    assert_eq!(js.nats.count(&JetStream::stream(&topic)).await, 20);
    assert!(driver.outcome.rejected.is_empty());
}

async fn creates_the_stream_if_asked(js: std::sync::Arc<JetStream>) {
    let topic = unique("made.push");
    let create = format!(
        ", create: {{subjects: ['{topic}'], max_age: 1h, max_bytes: 10MiB, max_messages: 1000, storage: memory, \
         duplicate_window: 5m}}"
    );
    let yaml = js.yaml(&topic, &create);
    let mut driver = Driver::new(sink(&yaml), messages(&topic, 20));
    driver.finish().await;
    let name = JetStream::stream(&topic);
    let made =
        js.nats.jetstream().await.get_stream(&name).await.expect("the stream").cached_info().config.clone();
    assert_eq!((made.max_age, made.duplicate_window), (Duration::from_secs(3600), Duration::from_secs(300)));
    assert_eq!((made.max_bytes, made.max_messages), (10 << 20, 1000));
    assert_eq!(made.storage, stream::StorageType::Memory);

    // One that is there is left as it is.
    let mut driver = Driver::new(sink(&yaml.replace("max_age: 1h", "max_age: 2h")), messages(&topic, 21));
    driver.finish().await;
    let kept =
        js.nats.jetstream().await.get_stream(&name).await.expect("the stream").cached_info().config.clone();
    assert_eq!(kept.max_age, Duration::from_secs(3600));
    assert_eq!(js.nats.count(&name).await, 21);
}

async fn a_server_without_jetstream_is_refused() {
    let nats = Nats::start(Server { own: true, jetstream: false, ..Server::default() }).await;
    let mut sink = sink(&format!("{{servers: '{}', jetstream: {{stream: S}}}}", nats.url()));
    let fault = sink.connect().await.expect_err("no JetStream");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("JetStream"), "{fault}");
}

/// Ways to get in, each with a message that goes through, and a wrong one that is refused.
fn connections(suite: &mut Suite) {
    suite.test("connects::token", async || {
        let nats = server(Auth::Token(PASSWORD.to_owned()), &[]).await;
        gets_in(&nats, &format!("token: {PASSWORD}"), Some(&format!("token: {WRONG_SECRET}"))).await;
    });
    suite.test("connects::user", async || {
        let nats = server(user(), &[]).await;
        let wrong = format!("user: relay, password: {WRONG_SECRET}");
        gets_in(&nats, &format!("user: relay, password: {PASSWORD}"), Some(&wrong)).await;
    });
    suite.test("connects::nkey", async || {
        let nats = server(Auth::NKey, &[]).await;
        gets_in(&nats, &format!("nkey: {NKEY_SEED}"), Some(&format!("nkey: {WRONG_SECRET}"))).await;
    });
    suite.test("connects::credentials", async || {
        let nats = server(Auth::Creds, &[]).await;
        let path = nats.creds();
        gets_in(&nats, &format!("credentials: '{}'", path.display()), Some("credentials: /no/such.creds"))
            .await;
    });
    suite.test("connects::tls", async || {
        let nats = Nats::start(Server { own: true, tls: true, ..Server::default() }).await;
        let ca = nats.tls().ca.display().to_string();
        gets_in(&nats, &format!("tls: {{ca: '{ca}', required: true}}"), None).await;
        // The system's authorities do not know the test's.
        let mut stranger = sink(&format!("{{servers: '{}'}}", nats.url()));
        let fault = stranger.connect().await.expect_err("an unknown authority");
        assert!(fault.text.contains("certificate"), "{fault}");
    });
    suite.test("connects::client_certificate", client_certificate);
    suite.test("connects::to_whichever_server_answers", async || {
        let nats = server(Auth::Nobody, &[]).await;
        let [dead] = support::process::free_ports();
        for servers in
            [format!("127.0.0.1:{dead}, {}", nats.url()), format!("{}, 127.0.0.1:{dead}", nats.url())]
        {
            sink(&format!("{{servers: '{servers}'}}")).connect().await.expect("one is enough");
        }
        let mut nobody = sink(&format!("{{servers: '127.0.0.1:{dead}'}}"));
        let fault = nobody.connect().await.expect_err("nobody there");
        assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    });
    suite.test("connects::a_lost_connection_is_not_repaired", a_lost_connection_is_not_repaired);
}

async fn gets_in(nats: &Nats, good: &str, wrong: Option<&str>) {
    let topic = unique("registry.push");
    let mut subscription = nats.subscribe(&topic).await;
    let mut driver =
        Driver::new(sink(&format!("{{servers: '{}', {good}}}", nats.url())), messages(&topic, 10));
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    subscription.take(10, BOUND).await;
    let Some(wrong) = wrong else { return };
    let mut stranger = sink(&format!("{{servers: '{}', {wrong}}}", nats.url()));
    let fault = stranger.connect().await.expect_err("must be refused");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(!fault.text.contains(WRONG_SECRET), "{fault}");
}

/// The client would connect again by itself and send what is still in its queue, in front of what the
/// worker sends again; here its end is final.
async fn a_lost_connection_is_not_repaired() {
    let nats = server(Auth::Nobody, &[]).await;
    let proxy = Proxy::start(nats.address()).await;
    let topic = unique("registry.push");
    let mut subscription = nats.subscribe(&topic).await;
    let mut sink = sink(&format!("{{servers: '{}'}}", proxy.address()));
    sink.connect().await.expect("connect");
    let accepted = proxy.accepted();
    proxy.set(Direction::ToServer, Mode::Swallow);
    sink.send(&messages(&topic, 100)).await.expect("into the socket");
    proxy.cut();
    let fault = sink.settle().await.expect_err("the connection is cut");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    proxy.pass();
    let not_connected = sink.send(&messages(&topic, 1)).await.expect_err("until connect is called");
    assert_eq!(not_connected.kind, FaultKind::Disconnected);
    sink.connect().await.expect("connect again");
    assert_eq!(proxy.accepted(), accepted + 1, "connections that nobody asked for");
    sink.send(&messages(&topic, 3)).await.expect("send");
    let mut settled = 0;
    while settled < 3 {
        settled += sink.settle().await.expect("settle").count;
    }
    let ids: Vec<_> = subscription.take(3, BOUND).await.iter().map(|m| received(m).id).collect();
    assert_eq!(ids, [0, 1, 2].map(|index| message(&topic, index).id));
}

const LIMITED: &str = r#"authorization { users: [
    { user: relay, password: "r1ght-secret" },
    { user: limited, password: "r1ght-secret", permissions: {
        publish: ["good.>", "_INBOX.>", "$JS.API.STREAM.INFO.*"], subscribe: ["_INBOX.>"] } },
    { user: mute, password: "r1ght-secret", permissions: { publish: ["good.>"], subscribe: ["_INBOX.>"] } },
    { user: deaf, password: "r1ght-secret", permissions: { publish: [">"], subscribe: ["nothing"] } }
] }"#;

fn permissions(suite: &mut Suite) {
    let shared = Shared::new(async || server(user(), &[LIMITED]).await);
    for jetstream in [false, true] {
        let nats = shared.clone();
        suite.test(&format!("permissions::one_subject::jetstream={jetstream}"), async move || {
            one_subject_is_not_allowed(&*nats.get().await, jetstream).await;
        });
        let nats = shared.clone();
        suite.test(&format!("permissions::inbox::jetstream={jetstream}"), async move || {
            let nats = nats.get().await;
            let mode = if jetstream { ", jetstream: {stream: S}" } else { "" };
            for user in ["mute", "deaf"] {
                let yaml = format!("{{servers: '{}', user: {user}, password: {PASSWORD}{mode}}}", nats.url());
                let mut driver = Driver::new(sink(&yaml), messages("good.push", 10));
                let fault = fault(&mut driver).await;
                assert_eq!(fault.kind, FaultKind::Refused, "{user}: {fault}");
                assert!(fault.text.to_lowercase().contains("permission"), "{user}: {fault}");
                assert!(driver.outcome.settled.is_empty(), "{user}");
            }
        });
    }
}

async fn one_subject_is_not_allowed(nats: &Nats, jetstream: bool) {
    let (good, bad) = (unique("good.push"), unique("bad.push"));
    let stream = unique("S");
    let mut mode = String::new();
    if jetstream {
        nats.create_stream(&stream, &[&good, &bad]).await;
        mode = format!(", jetstream: {{stream: {stream}}}");
    }
    let mut subscription = nats.subscribe(&good).await;
    let yaml = format!("{{servers: '{}', user: limited, password: {PASSWORD}{mode}}}", nats.url());
    // Every third message goes where it must not.
    let mut all = messages(&good, 300);
    for message in all.iter_mut().skip(1).step_by(3) {
        message.topic.clone_from(&bad);
    }
    let mut driver = Driver::new(sink(&yaml), all);
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    assert_eq!(driver.outcome.rejected.len(), 100);
    for (message, why) in &driver.outcome.rejected {
        assert_eq!((message.topic.as_str(), why.code), (bad.as_str(), "not_authorised"));
    }
    assert_eq!(subscription.take(200, BOUND).await.len(), 200);
}

/// A server that asks for a client's certificate, which the tests' own client has not.
async fn client_certificate() {
    let (tls, folder) = (support::tls::Tls::new(), support::Folder::new("nats-mtls"));
    let [port] = support::process::free_ports();
    let conf = format!(
        "listen: \"127.0.0.1:{port}\"\ntls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n",
        tls.cert.display(),
        tls.key.display(),
        tls.ca.display()
    );
    let mut command = Command::new(support::tool("RELAY_TEST_NATS_SERVER", "nats-server"));
    command.arg("-c").arg(folder.write("nats.conf", conf));
    let mut server = Proc::spawn("nats", command, &folder.join("log"));

    let ca = format!("ca: '{}', required: true", tls.ca.display());
    let (cert, key) = (tls.client_cert.display(), tls.client_key.display());
    let good = format!("{{servers: '127.0.0.1:{port}', tls: {{{ca}, cert: '{cert}', key: '{key}'}}}}");
    server.ready("to connect", BOUND, async || sink(&good).connect().await.ok()).await;
    let mut driver = Driver::new(sink(&good), messages("registry.push", 10));
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty());
    let mut stranger = sink(&format!("{{servers: '127.0.0.1:{port}', tls: {{{ca}}}}}"));
    stranger.connect().await.expect_err("no client certificate");
}
