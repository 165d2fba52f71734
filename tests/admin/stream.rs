//! The built-in stream.

use std::time::Duration;

use relay::admin::stream::Options;
use relay::journal::Journal as _;

use crate::harness::{Block, Relay, Setup, eventually};

fn event(action: &str, repository: &str, tag: &str) -> String {
    let target = serde_json::json!({"repository": repository, "tag": tag});
    // Indented by three spaces and over several lines, as a registry writes it.
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, format);
    serde::Serialize::serialize(&serde_json::json!({"action": action, "target": target}), &mut writer)
        .expect("JSON");
    String::from_utf8(out).expect("UTF-8")
}

#[tokio::test]
async fn events_come_as_they_came() {
    let relay = Relay::start(Setup::default()).await;
    let mut client = relay.stream("?topic=registry.push").await;
    let odd = [
        event("push", "team/app", ""),
        "{\"action\":\"push\",\n\n  \t\"a\" : \"\\u00e9 é \\n data: x\"\n}".to_owned(),
        r#"{"action":"push"}"#.to_owned(),
    ];
    for json in &odd {
        relay.append(json).await;
    }
    for (index, json) in odd.iter().enumerate() {
        let expected = Block {
            id: Some(index as u64 + 1),
            event: Some("registry.push".into()),
            data: Some(json.clone()),
            comment: None,
        };
        assert_eq!(client.event().await, Some(expected));
    }
}

#[tokio::test]
async fn a_client_gets_the_topics_it_asks_for() {
    let relay = Relay::start(Setup::default()).await;
    let mut all = relay.stream("").await;
    let mut pushes = relay.stream("?topic=registry.push").await;
    let mut two = relay.stream("?topic=registry.delete&topic=releases.*").await;
    relay.append(&event("push", "team/app", "v1")).await;
    relay.append(&event("pull", "team/app", "v1")).await;
    relay.append(&event("delete", "other", "old")).await;
    let topics =
        |events: Vec<(String, String)>| events.into_iter().map(|(topic, _)| topic).collect::<Vec<_>>();
    // Under each of its topics; what goes only to other sinks is not here.
    let expected = ["registry.push", "releases.team", "registry.pull", "releases.team", "registry.delete"];
    assert_eq!(topics(all.events(5).await), expected);
    assert_eq!(topics(two.events(3).await), ["releases.team", "releases.team", "registry.delete"]);
    relay.append(&event("push", "other", "last")).await;
    let got = pushes.events(2).await;
    assert!(got[0].1.contains("team/app") && got[1].1.contains("\"last\""), "{got:?}");
}

#[tokio::test]
async fn resumes_after_the_last_id_and_misses_nothing() {
    let relay = Relay::start(Setup::default()).await;
    for n in 0..10 {
        relay.append(&event("push", "a", &n.to_string())).await;
    }
    let mut client = relay.stream("?topic=registry.push&from=beginning").await;
    let mut last = None;
    for _ in 0..4 {
        last = client.event().await.expect("an event").id;
    }
    drop(client);
    assert_eq!(last, Some(4));
    relay.append(&event("push", "a", "10")).await;
    // The header counts for more than what the URL still says.
    let mut client =
        relay.stream_with("?topic=registry.push&from=beginning", &[("last-event-id", "4")]).await;
    for n in 4..11 {
        let block = client.event().await.expect("an event");
        assert_eq!((block.id, block.data), (Some(n + 1), Some(event("push", "a", &n.to_string()))));
    }
    let mut client = relay.stream("?last_event_id=10").await;
    assert_eq!(client.event().await.and_then(|block| block.id), Some(11));
}

#[tokio::test]
async fn a_cut_between_two_topics_of_an_event_repeats_rather_than_loses() {
    let relay = Relay::start(Setup::default()).await;
    relay.append(&event("pull", "a", "")).await;
    relay.append(&event("push", "team/app", "v1")).await;
    let mut client = relay.stream("?from=beginning").await;
    let first = client.event().await.and_then(|block| block.id);
    let second = client.event().await.expect("under its first topic");
    assert_eq!((first, second.id, second.event.as_deref()), (Some(1), None, Some("registry.push")));
    let third = client.event().await.expect("under its second topic");
    assert_eq!((third.id, third.event.as_deref()), (Some(2), Some("releases.team")));
}

#[tokio::test]
async fn begins_where_it_is_told() {
    let relay = Relay::start(Setup::default()).await;
    let second = 1_000_000;
    for n in 1..=4 {
        relay.append_at(&event("push", "a", &n.to_string()), n * second).await;
    }
    for (query, first) in [
        ("?from=beginning", 1),
        ("?from=0", 1),
        ("?from=3", 3),
        ("?from=1970-01-01T00:00:02Z", 2),
        ("?from=10m", 5),
        ("?from=head", 5),
        ("?from=99", 5),
        ("", 5),
        // Of a journal that was begun anew since: all in it is news.
        ("?last_event_id=99", 1),
    ] {
        let mut client = relay.stream(query).await;
        let hello = client.block().await.expect("a first block");
        assert_eq!((hello.id, hello.data), (Some(first - 1), None), "{query}");
        if first <= 4 {
            assert_eq!(client.event().await.and_then(|block| block.id), Some(first), "{query}");
        }
    }
}

#[tokio::test]
async fn a_slow_client_lags_alone_and_in_bounded_memory() {
    let stream = Options { read_bytes_max: 64 << 10, ..Options::default() };
    let relay = Relay::start(Setup { stream, ..Setup::default() }).await;
    let mut slow = relay.stream("?topic=registry.push&from=beginning").await;
    let mut quick = relay.stream("?topic=registry.push&from=beginning").await;
    let count = 2000;
    let padding = "x".repeat(10_000);
    for begin in (0..count).step_by(50) {
        relay.append_all((begin..begin + 50).map(|n| event("push", &padding, &n.to_string()))).await;
    }
    let tag = |n: usize| format!("\"tag\": \"{n}\"");
    for n in 0..count {
        let block = quick.event().await.expect("the quick one gets all");
        assert!(block.data.expect("data").contains(&tag(n)));
    }
    // 20 MB are written for it; what was read is what the kernel's buffers and a few reads hold.
    let read_for_slow = relay.metrics.stream_events.get() - count as u64;
    assert!(read_for_slow < count as u64 / 2, "{read_for_slow} of {count} are in memory");
    for n in 0..count {
        let block = slow.event().await.expect("the slow one gets all");
        assert!(block.data.expect("data").contains(&tag(n)));
    }
}

#[tokio::test]
async fn a_heartbeat_moves_the_place_past_what_is_not_for_the_client() {
    let stream = Options { heartbeat: Duration::from_millis(30), ..Options::default() };
    let relay = Relay::start(Setup { stream, ..Setup::default() }).await;
    let mut client = relay.stream("?topic=registry.delete").await;
    assert_eq!(client.block().await.and_then(|hello| hello.id), Some(0));
    for n in 0..3 {
        relay.append(&event("push", "a", &n.to_string())).await;
    }
    loop {
        let block = client.block().await.expect("a heartbeat");
        assert_eq!((block.comment.as_deref(), &block.data), (Some("heartbeat"), &None));
        if block.id == Some(3) {
            break;
        }
    }
    let silent = client.block().await.expect("a heartbeat");
    assert_eq!((silent.id, silent.comment.as_deref()), (None, Some("heartbeat")));
}

#[tokio::test]
async fn tells_of_a_gap() {
    let setup = Setup { segment_bytes: 8 << 10, journal_bytes_max: 32 << 10, ..Setup::default() };
    let relay = Relay::start(setup).await;
    let padding = "x".repeat(2000);
    for n in 0..40 {
        // Nobody holds the space: the oldest segments go.
        relay.append(&event("push", &padding, &n.to_string())).await;
    }
    let first = relay.journal.stats().first;
    assert!(first > 2, "something was given back");
    // The newest events are kept in memory too, beyond their segments.
    let relay = relay.restart().await;
    let mut client = relay.stream("?last_event_id=1").await;
    let gap = client.event().await.expect("a gap");
    let data = format!(r#"{{"lost":{},"next":{first}}}"#, first - 2);
    assert_eq!((gap.event.as_deref(), gap.data), (Some("gap"), Some(data)));
    assert_eq!(client.event().await.and_then(|block| block.id), Some(first));
}

#[tokio::test]
async fn ends_cleanly_when_the_relay_stops() {
    let relay = Relay::start(Setup::default()).await;
    let mut idle = relay.stream("").await;
    let mut slow = relay.stream("?topic=registry.push").await;
    let padding = "x".repeat(100_000);
    for begin in (0..100).step_by(10) {
        relay.append_all((begin..begin + 10).map(|n| event("push", &padding, &n.to_string()))).await;
    }
    let metrics = relay.metrics.clone();
    let stopped = tokio::spawn(relay.stop());
    // Both at once: what is not read by the deadline is cut.
    tokio::join!(async { while idle.event().await.is_some() {} }, async {
        while slow.event().await.is_some() {}
    });
    stopped.await.expect("it stops");
    assert_eq!(metrics.streams.get(), 0);
}

#[tokio::test]
async fn only_so_many_at_a_time() {
    let stream = Options { streams_max: 2, ..Options::default() };
    let relay = Relay::start(Setup { stream, ..Setup::default() }).await;
    let first = relay.stream("").await;
    let _second = relay.stream("").await;
    let refused = relay.get("/stream").await;
    assert_eq!(refused.problem(503), "there are 2 already; try again later");
    assert!(refused.headers.contains_key("retry-after"));
    drop(first);
    let metrics = relay.metrics.clone();
    eventually("a place is free again", || metrics.streams.get() == 1).await;
    relay.stream("").await;
}

#[tokio::test]
async fn says_what_is_wrong_with_a_request() {
    let relay = Relay::start(Setup::default()).await;
    for (query, expected) in [
        ("?topic=a%5B", "topic `a[` is no glob"),
        ("?topic=", "a topic has 1 to 1024 bytes"),
        ("?from=yesterday", "`yesterday` is no start"),
        ("?topics=a", "no parameter `topics`"),
        ("?last_event_id=x", "`x` is no id of this stream"),
    ] {
        let detail = relay.get(&format!("/stream{query}")).await.problem(400);
        assert!(detail.starts_with(expected), "{query}: {detail}");
    }
    let without = Relay::start(Setup { streams: false, ..Setup::default() }).await;
    assert!(without.get("/stream").await.problem(404).contains("no sink of type `stream`"));
}
