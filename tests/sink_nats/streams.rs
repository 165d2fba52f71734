//! JetStream: streams that are missing, full, deleted, made; what they store once, and what they do not
//! take.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::stream;
use relay::sinks::FaultKind;

use crate::{
    destinations::JetStream,
    fault, sink,
    support::{
        contract::{self, Destination, Driver, Variant, message, messages},
        nats::{Nats, Options as Server},
        suite::{Shared, Suite},
        unique,
    },
};

pub fn register(suite: &mut Suite) {
    let shared = Shared::new(JetStream::start);
    let mut test =
        |name: &str, body: fn(Arc<JetStream>) -> futures_util::future::LocalBoxFuture<'static, ()>| {
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
    test("rejects_headers_larger_than_64_kib", |_| Box::pin(rejects_headers_larger_than_64_kib()));
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
        Box::pin(async move {
            for none in ["two words", ""] {
                contract::rejects_unknown_topic(&*js, none, "no_such_subject").await;
            }
        })
    });
    test("a_server_without_jetstream_is_refused", |_| Box::pin(a_server_without_jetstream_is_refused()));
}

/// The server takes messages of 1 MiB; a stream's headers have two bytes for their length.
async fn rejects_headers_larger_than_64_kib() {
    let nats = Nats::start(Server { own: true, ..Server::default() }).await;
    let topic = unique("registry.push");
    nats.create_stream("S", &[&topic]).await;
    let mut all = messages(&topic, 3);
    all[1].headers.push(("x-large".into(), "x".repeat(70_000)));
    let yaml = format!("{{servers: '{}', jetstream: {{stream: S}}}}", nats.url());
    let mut driver = Driver::new(sink(&yaml), all);
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let [(message, why)] = &driver.outcome.rejected[..] else { panic!("{:?}", driver.outcome.rejected) };
    assert_eq!((message.offset, why.code), (2, "too_large"));
    assert!(why.text.contains("error 10097"), "{}", why.text);
    assert_eq!(nats.count("S").await, 2);
}

async fn a_stream_deleted_under_us_is_refused(js: Arc<JetStream>) {
    let topic = js.topic().await;
    let mut driver = Driver::new(js.sink(&topic, Variant::Good), messages(&topic, 20));
    driver.connect().await.expect("connect");
    js.nats.jetstream().await.delete_stream(JetStream::stream(&topic)).await.expect("delete the stream");
    let gone = fault(&mut driver).await;
    assert_eq!(gone.kind, FaultKind::Refused, "{gone}");
    driver.faulted(gone).await;
    let (name, subjects) = (JetStream::stream(&topic), vec![topic.clone()]);
    js.nats.create_stream_soon(stream::Config { name, subjects, ..Default::default() }).await;
    driver.finish().await;
    assert_eq!(js.nats.count(&JetStream::stream(&topic)).await, 20);
    assert!(driver.outcome.rejected.is_empty());
}

async fn creates_the_stream_if_asked(js: Arc<JetStream>) {
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
