//! The tests' own ground, tested: each broker starts, carries a message, dies, comes back and still has
//! it; a real registry tells of a push; the proxy breaks what it should.

mod support;

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use lapin::{BasicProperties, ExchangeKind, options::BasicPublishOptions, types::FieldTable};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use support::{
    http_sink::HttpSink,
    kafka::{self, Kafka},
    nats::{self, Nats},
    process::{eventually, run},
    proxy::{Direction, Mode, Proxy},
    rabbitmq::{self, RabbitMq},
    registry::{Registry, Version},
    skopeo,
    suite::{Shared, Suite},
    unique,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const BOUND: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut suite = Suite::new();

    let kafka = Shared::new(|| Kafka::start(kafka::Options { own: true, ..Default::default() }));
    let shared = kafka.clone();
    suite.test("kafka_keeps_a_record_over_kill_and_restart", async move || {
        kafka_keeps(&*shared.get().await).await;
    });
    let shared = kafka;
    suite.test("kafka_frozen_answers_nobody_until_thawed", async move || {
        kafka_frozen(&*shared.get().await).await;
    });
    suite.test("kafka_with_sasl_tls_access_lists_and_a_size_limit", kafka_secured);
    suite.test("kafka_behind_a_proxy_is_cut_off_and_comes_back", kafka_proxied);
    suite.test("rabbitmq_keeps_a_message_over_kill_and_restart", rabbitmq_keeps);
    suite.test("rabbitmq_with_tls_and_a_user_of_few_rights", rabbitmq_secured);
    suite.test("nats_keeps_a_stream_over_kill_and_restart", nats_keeps);
    suite.test("nats_with_each_kind_of_credentials_and_tls", nats_secured);
    suite.test("registry_2_tells_of_push_pull_and_delete", async || registry_tells(Version::V2).await);
    if Version::V3.available() {
        suite.test("registry_3_tells_of_push_pull_and_delete", async || registry_tells(Version::V3).await);
    }
    suite.test("proxy_passes_refuses_cuts_stalls_slows_and_corrupts", proxy_breaks);
    suite.test(PLAIN, plain_start);
    suite.test("brokers_that_were_there_are_used", given_brokers);
    suite.run()
}

// ---- Kafka

async fn produce(properties: &[(&str, &str)], topic: &str, value: &[u8]) -> Result<(), String> {
    let mut config = ClientConfig::new();
    config.set("message.timeout.ms", "10000").set("log_level", "0");
    for (key, value) in properties {
        config.set(*key, *value);
    }
    let producer: FutureProducer = config.create().map_err(|e| e.to_string())?;
    let record = FutureRecord::to(topic).key("team/app").payload(value);
    producer.send(record, BOUND).await.map(drop).map_err(|(error, _)| error.to_string())
}

async fn kafka_keeps(kafka: &Kafka) {
    let topic = unique("kept");
    kafka.create_topic(&topic, 3).await;
    assert_eq!(kafka.count(&[&topic]).await, 0);
    produce(&[("bootstrap.servers", kafka.bootstrap())], &topic, b"one").await.expect("sent");
    kafka.kill();
    kafka.start_again().await;
    produce(&[("bootstrap.servers", kafka.bootstrap())], &topic, b"two").await.expect("sent");
    let records = kafka.consume_all(&[&topic], 2, BOUND).await;
    let values: Vec<_> = records.iter().map(|record| record.value.as_slice()).collect();
    assert_eq!(values, [b"one".as_slice(), b"two"]);
    assert_eq!(records[0].key_text(), "team/app");
    assert_eq!(kafka.count(&[&topic]).await, 2);
    kafka.stop().await;
    kafka.start_again().await;
    assert_eq!(kafka.count(&[&topic]).await, 2);
    let unknown = produce(&[("bootstrap.servers", kafka.bootstrap())], &unique("nobody-made"), b"x").await;
    assert!(unknown.is_err(), "topics must not come into being by themselves");
}

async fn kafka_frozen(kafka: &Kafka) {
    let topic = unique("frozen");
    kafka.create_topic(&topic, 1).await;
    kafka.freeze();
    let servers = ("bootstrap.servers", kafka.bootstrap());
    produce(&[servers, ("message.timeout.ms", "1500")], &topic, b"x").await.expect_err("frozen");
    kafka.thaw();
    produce(&[servers], &topic, b"x").await.expect("thawed");
}

async fn kafka_secured() {
    let user = |name: &str| (name.to_owned(), format!("{name}-secret"));
    let kafka = Kafka::start(kafka::Options {
        sasl: vec![user("alice"), user("mallory")],
        tls: true,
        acl: true,
        message_max_bytes: Some(20_000),
        ..Default::default()
    })
    .await;
    let (open, closed) = (unique("open"), unique("closed"));
    kafka.create_topic(&open, 1).await;
    kafka.create_topic(&closed, 1).await;
    kafka.deny("mallory", "Write", &closed).await;

    let ca = kafka.tls().ca.to_str().expect("UTF-8").to_owned();
    let mut sent = 0;
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for (protocol, servers) in
            [("SASL_PLAINTEXT", kafka.bootstrap_sasl()), ("SASL_SSL", kafka.bootstrap_sasl_ssl())]
        {
            let mut properties = vec![
                ("bootstrap.servers", servers),
                ("security.protocol", protocol),
                ("sasl.mechanism", mechanism),
                ("sasl.username", "alice"),
                ("sasl.password", "alice-secret"),
            ];
            if protocol == "SASL_SSL" {
                properties.push(("ssl.ca.location", &ca));
            }
            let what = format!("{protocol} {mechanism}");
            produce(&properties, &open, b"x").await.unwrap_or_else(|e| panic!("{what}: {e}"));
            sent += 1;
        }
    }
    let tls = [
        ("bootstrap.servers", kafka.bootstrap_ssl()),
        ("security.protocol", "SSL"),
        ("ssl.ca.location", &ca),
    ];
    produce(&tls, &open, b"x").await.expect("over TLS");
    assert_eq!(kafka.consume_all(&[&open], sent + 1, BOUND).await.len(), sent + 1);

    let mallory = |password: &'static str| {
        [
            ("bootstrap.servers", kafka.bootstrap_sasl()),
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "mallory"),
            ("sasl.password", password),
            ("message.timeout.ms", "3000"),
        ]
    };
    produce(&mallory("mallory-secret"), &open, b"x").await.expect("allowed");
    let denied = produce(&mallory("mallory-secret"), &closed, b"x").await.expect_err("denied");
    assert!(denied.contains("uthoriz"), "{denied}");
    produce(&mallory("wrong"), &open, b"x").await.expect_err("a wrong password");
    let large = vec![b'x'; 30_000];
    let refused = produce(&[("bootstrap.servers", kafka.bootstrap())], &open, &large).await;
    assert!(refused.expect_err("too large").contains("size"));
}

async fn kafka_proxied() {
    let kafka = Kafka::start(kafka::Options { proxied: true, ..Default::default() }).await;
    let topic = unique("proxied");
    kafka.create_topic(&topic, 1).await;
    let servers = ("bootstrap.servers", kafka.bootstrap_proxied());
    produce(&[servers], &topic, b"one").await.expect("through the proxy");
    kafka.proxy().down();
    // The first producer may still have been saying goodbye.
    eventually("cut off", BOUND, async || (kafka.proxy().open() == 0).then_some(())).await;
    let (to_server, _) = kafka.proxy().bytes();
    produce(&[servers, ("message.timeout.ms", "1500")], &topic, b"x").await.expect_err("down");
    assert_eq!(kafka.proxy().bytes().0, to_server);
    kafka.proxy().pass();
    produce(&[servers], &topic, b"two").await.expect("up again");
    assert_eq!(kafka.consume_all(&[&topic], 2, BOUND).await.len(), 2);
}

// ---- RabbitMQ

async fn rabbitmq_keeps() {
    let rabbit = RabbitMq::start(rabbitmq::Options { own: true, ..Default::default() }).await;
    let exchange = unique("events");
    rabbit.declare_exchange(&exchange, ExchangeKind::Topic).await;
    let queue = rabbit.declare_queue_bound(&exchange, "registry.#").await;

    let connection = rabbit.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(Default::default()).await.expect("confirms");
    let mut headers = FieldTable::default();
    headers.insert("repository".into(), lapin::types::AMQPValue::LongString("team/app".into()));
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_message_id("id-1".into()).with_headers(headers);
    let (name, key) = (exchange.as_str().into(), "registry.push".into());
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(name, key, options, b"hello", properties).await.expect("published");
    sent.await.expect("confirmed");

    rabbit.kill();
    rabbit.start_again().await;
    assert_eq!(rabbit.depth(&queue).await, 1);
    rabbit.stop().await;
    rabbit.start_again().await;
    let messages = rabbit.consume(&queue, 1, BOUND).await;
    assert_eq!(messages[0].body, b"hello");
    assert_eq!(messages[0].routing_key, "registry.push");
    assert_eq!(messages[0].message_id(), Some("id-1"));
    assert_eq!(messages[0].header("repository").as_deref(), Some("team/app"));
    assert_eq!(rabbit.depth(&queue).await, 0);

    rabbit.freeze();
    let attempt = lapin::Connection::connect(rabbit.amqp_uri(), Default::default());
    assert!(tokio::time::timeout(Duration::from_millis(500), attempt).await.is_err(), "frozen");
    rabbit.thaw();
    let _ = rabbit.connect().await;
}

async fn rabbitmq_secured() {
    let rabbit = RabbitMq::start(rabbitmq::Options { tls: true, ..Default::default() }).await;
    rabbit.add_user("reader", "reader-secret", ["", "", ".*"]).await;
    let reader = rabbit.amqp_uri_as("reader", "reader-secret");
    let connection = lapin::Connection::connect(&reader, Default::default()).await.expect("a known user");
    let channel = connection.create_channel().await.expect("a channel");
    let declared =
        channel.exchange_declare("x".into(), ExchangeKind::Topic, Default::default(), Default::default());
    declared.await.expect_err("not allowed to");
    let stranger = rabbit.amqp_uri_as("reader", "wrong");
    lapin::Connection::connect(&stranger, Default::default()).await.expect_err("a wrong password");

    let ca = std::fs::read_to_string(&rabbit.tls().ca).expect("the CA");
    let trusting = lapin::tcp::OwnedTLSConfig { identity: None, cert_chain: Some(ca) };
    let runtime = lapin::runtime::default_runtime().expect("tokio");
    let uri = rabbit.amqps_uri();
    let connected = lapin::Connection::connect_with_config(&uri, Default::default(), trusting, runtime).await;
    connected.expect("over TLS");
    lapin::Connection::connect(&uri, Default::default()).await.expect_err("an unknown CA");
}

// ---- NATS

async fn nats_keeps() {
    let nats = Nats::start(nats::Options { own: true, ..Default::default() }).await;
    let stream = unique("events");
    nats.create_stream(&stream, &[&format!("{stream}.>")]).await;
    let mut core = nats.subscribe(&format!("{stream}.>")).await;
    let context = nats.jetstream().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", "id-1");
    let subject = format!("{stream}.push");
    for _ in 0..2 {
        let sent = context.publish_with_headers(subject.clone(), headers.clone(), "hello".into()).await;
        sent.expect("published").await.expect("stored");
    }
    let received = core.take(2, BOUND).await;
    assert_eq!(received[0].subject, subject);
    nats.kill();
    nats.start_again().await;
    assert_eq!(nats.count(&stream).await, 1, "the second has the first one's id");
    nats.stop().await;
    nats.start_again().await;
    let received = nats.consume_stream(&stream, 1, BOUND).await;
    assert_eq!((received[0].payload.as_slice(), received[0].sequence), (b"hello".as_slice(), 1));
    assert_eq!(received[0].header("Nats-Msg-Id"), Some("id-1"));
    nats.freeze();
    let attempt = async_nats::connect(nats.url());
    assert!(!matches!(tokio::time::timeout(Duration::from_millis(500), attempt).await, Ok(Ok(_))), "frozen");
    nats.thaw();
    assert_eq!(nats.count(&stream).await, 1);
}

async fn nats_secured() {
    let user = nats::Auth::User("relay".to_owned(), "secret".to_owned());
    for auth in [nats::Auth::Token("a-token".to_owned()), user, nats::Auth::NKey, nats::Auth::Creds] {
        for tls in [false, true] {
            let (auth, max_payload) = (auth.clone(), Some(8_192));
            let nats = Nats::start(nats::Options { auth, tls, max_payload, ..Default::default() }).await;
            let mut subscription = nats.subscribe("subject").await;
            let client = nats.connect().await;
            client.publish("subject", "hello".into()).await.expect("published");
            assert_eq!(subscription.take(1, BOUND).await[0].payload, b"hello");
            client.publish("subject", vec![0; 10_000].into()).await.expect_err("too large");
            let stranger = async_nats::ConnectOptions::new().connect(nats.url()).await;
            stranger.expect_err("without credentials, or without the CA");
            let stream = unique("stream");
            nats.create_stream(&stream, &[&stream]).await;
            assert_eq!(nats.count(&stream).await, 0);
        }
    }
}

// ---- The registry

async fn registry_tells(version: Version) {
    let sink = HttpSink::start().await;
    // The first answers are refusals: the registry tries again, after its backoff.
    sink.answer(503);
    let token = ("Authorization", "Bearer token-of-the-test");
    let registry = Registry::start(version, &sink.url(), &[token]).await;
    let repository = format!("{}/team/app", registry.address());
    let image = skopeo::push(&repository, "1.0").await;
    let digest = image.digest.as_str();
    eventually("a refusal", BOUND, async || (!sink.requests().is_empty()).then_some(())).await;
    sink.answer(202);
    let push = [r#""action": "push""#, digest, r#""tag": "1.0""#];
    let request = sink.heard("the push", &push, BOUND).await;
    assert_eq!((request.line.as_str(), request.header("authorization")), ("POST /events", Some(token.1)));
    skopeo::pull(&repository, "1.0").await;
    let pull = [r#""action": "pull""#, digest, r#""method": "GET""#];
    sink.heard("the pull", &pull, BOUND).await;
    registry.kill();
    registry.start_again().await;
    skopeo::delete(&repository, "1.0").await;
    sink.heard("the delete", &[r#""action": "delete""#, digest], BOUND).await;
}

// ---- Brokers that were there

const PLAIN: &str = "plain_start_serves";

/// What a test does that takes whatever broker there is.
async fn plain_start() {
    let name = unique("plain");
    let kafka = Kafka::start(Default::default()).await;
    kafka.create_topic(&name, 1).await;
    let rabbit = RabbitMq::start(Default::default()).await;
    rabbit.declare_exchange(&name, ExchangeKind::Topic).await;
    let nats = Nats::start(Default::default()).await;
    nats.create_stream(&name, &[&name]).await;
    if let Some(address) = support::given("RELAY_TEST_NATS") {
        assert_eq!(nats.url(), address);
        assert!(std::panic::catch_unwind(|| nats.kill()).is_err(), "not ours to kill");
    }
}

async fn given_brokers() {
    let kafka = Kafka::start(kafka::Options { own: true, ..Default::default() }).await;
    let rabbit = RabbitMq::start(rabbitmq::Options { own: true, ..Default::default() }).await;
    let nats = Nats::start(nats::Options { own: true, ..Default::default() }).await;
    let mut again = Command::new(std::env::current_exe().expect("this binary"));
    again
        .args(["--exact", PLAIN])
        .env("RELAY_TEST_KAFKA", kafka.bootstrap())
        .env("RELAY_TEST_RABBITMQ", rabbit.amqp_uri())
        .env("RELAY_TEST_NATS", nats.url());
    run("a run with brokers given", again, BOUND).await;
    assert!(rabbit.ctl(&["list_exchanges", "name"]).await.contains("plain-"), "not in this RabbitMQ");
}

// ---- The proxy

async fn proxy_breaks() {
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let target = echo.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    let proxy = Proxy::start(&target).await;
    let ask = async |stream: &mut TcpStream| {
        let mut answer = [0; 4];
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let silent = async |stream: &mut TcpStream| {
        tokio::time::timeout(Duration::from_millis(300), ask(stream)).await.is_err()
    };
    let connect = || TcpStream::connect(proxy.address().to_owned());

    let mut stream = connect().await.expect("accepted");
    assert_eq!(&ask(&mut stream).await.expect("an answer"), b"ping");
    proxy.set(Direction::ToClient, Mode::Corrupt(4));
    assert_eq!(ask(&mut stream).await.expect("an answer"), *b"pin\x98");
    proxy.pass();

    proxy.refuse();
    eventually("refused", BOUND, async || connect().await.err()).await;
    assert_eq!(&ask(&mut stream).await.expect("the old one goes on"), b"ping");
    proxy.cut();
    ask(&mut stream).await.expect_err("cut");
    proxy.pass();
    let mut stream = eventually("accepted", BOUND, async || connect().await.ok()).await;

    proxy.set(Direction::ToServer, Mode::Stall);
    assert!(silent(&mut stream).await);
    proxy.pass();
    let mut late = [0; 4];
    stream.read_exact(&mut late).await.expect("what was stalled comes late");
    proxy.set(Direction::Both, Mode::Swallow);
    assert!(silent(&mut stream).await);
    proxy.pass();

    let mut stream = connect().await.expect("accepted");
    proxy.set(Direction::ToServer, Mode::Slow(20));
    let begun = std::time::Instant::now();
    ask(&mut stream).await.expect("slowly");
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    proxy.pass();

    proxy.cut_after(10);
    ask(&mut stream).await.expect("4 bytes");
    ask(&mut stream).await.expect("8 bytes");
    ask(&mut stream).await.expect_err("12 bytes");
    assert!(proxy.accepted() >= 3);
    eventually("all closed", BOUND, async || (proxy.open() == 0).then_some(())).await;
}
