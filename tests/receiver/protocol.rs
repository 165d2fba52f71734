//! What a registry, or anything else that speaks HTTP, may do, and what it gets.

use tokio::io::AsyncWriteExt as _;

use crate::rig::Rig;

const ENVELOPE: &str = r#"{"events":[{"action":"push","target":{"repository":"a"}}]}"#;

#[tokio::test]
async fn paths_with_and_without_a_trailing_slash() {
    let rig = Rig::with(|config| config.paths = vec!["/hooks/registry".into(), "plain/".into()]);
    let mut connection = rig.connect().await;
    let taken = [
        "/",
        "/event",
        "/event/",
        "/events",
        "/events/",
        "/hooks/registry",
        "/hooks/registry/",
        "/plain",
        "/plain/",
        "//",
        "/events?source=eu",
        "http://relay/events",
    ];
    for path in taken {
        assert_eq!(connection.post(path, ENVELOPE.as_bytes()).await.counts(), (1, 0, 0), "{path}");
    }
    for path in ["///", "/events//", "/Events", "/events/x", "/hooks", "/healthz", "/event%73", "*"] {
        connection.post(path, ENVELOPE.as_bytes()).await.problem(404, "not-found");
    }
    assert_eq!(rig.events().await.len(), taken.len());
}

#[tokio::test]
async fn other_methods_are_told_which_is_right() {
    let rig = Rig::start();
    for path in ["/", "/events", "/events/"] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO"] {
            let answer = rig.connect().await.request(&format!("{method} {path}"), &[], b"").await;
            answer.problem(405, "method-not-allowed");
            assert_eq!(answer.header("allow"), ["POST"], "{method}");
        }
        // A HEAD's answer has the head alone.
        let mut connection = rig.connect().await;
        connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")).await;
        assert!(connection.try_answer().await.is_none_or(|answer| answer.status == 405));
    }
    rig.connect().await.request("GET /nowhere", &[], b"").await.problem(404, "not-found");
    assert!(rig.events().await.is_empty());
}

#[tokio::test]
async fn whatever_the_content_type_says() {
    let rig = Rig::start();
    let json = ("Content-Type", "application/json");
    let registry = ("Content-Type", "application/vnd.docker.distribution.events.v1+json");
    let cases: [&[(&str, &str)]; 6] = [
        &[],
        &[json],
        &[registry, ("content-type", "application/json")],
        &[("Content-Type", "text/plain; charset=latin1")],
        &[("Content-Type", "nonsense")],
        &[("Content-Type", "")],
    ];
    for headers in cases {
        let answer = rig.connect().await.request("POST /events", headers, ENVELOPE.as_bytes()).await;
        assert_eq!(answer.counts(), (1, 0, 0), "{headers:?}");
    }
}

#[tokio::test]
async fn envelopes_of_none_one_or_many_and_bare_events() {
    let rig = Rig::start();
    let cases = [
        (r#"{"events":[]}"#, (0, 0, 0)),
        (ENVELOPE, (1, 0, 0)),
        (r#"{"action":"push","future":{"x":[1]}}"#, (1, 0, 0)),
        (
            r#"{"events":[{"id":"1","action":"a"},{"id":"1","action":"a"},{"id":"2","action":"b"}]}"#,
            (2, 1, 0),
        ),
        (
            r#"{"events":[{"action":"rename","target":{}},{"action":"never heard of"},{}],"more":1}"#,
            (3, 0, 0),
        ),
        // Whole or not at all: the good event beside a bad one is quarantined with it.
        (r#"{"events":[{"id":"9","action":"a"},7]}"#, (0, 0, 1)),
        ("", (0, 0, 1)),
    ];
    for (body, counts) in cases {
        assert_eq!(rig.post(body).await.counts(), counts, "{body}");
    }
    let events = rig.events().await;
    assert_eq!(events.len(), 7);
    assert_eq!(events[1].event.raw(), &r#"{"action":"push","future":{"x":[1]}}"#);
}

#[tokio::test]
async fn chunked_bodies_in_any_pieces() {
    let rig = Rig::start();
    let mut connection = rig.connect().await;
    for size in [1, 7, ENVELOPE.len()] {
        connection.send("POST /events HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for piece in ENVELOPE.as_bytes().chunks(size) {
            connection.send(format!("{:x}\r\n", piece.len())).await;
            connection.send(piece).await;
            connection.send("\r\n").await;
        }
        connection.send("0\r\nTrailer: x\r\n\r\n").await;
        assert_eq!(connection.answer().await.counts(), (1, 0, 0), "pieces of {size}");
    }
    for stored in rig.events().await {
        assert_eq!(stored.event.repository(), "a");
    }
}

#[tokio::test]
async fn expect_100_continue() {
    let rig = Rig::start();
    let mut connection = rig.connect().await;
    let head = format!("POST /events HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n", ENVELOPE.len());
    connection.send(format!("{head}Expect: 100-continue\r\n\r\n")).await;
    assert_eq!(connection.answer().await.status, 100);
    connection.send(ENVELOPE).await;
    assert_eq!(connection.answer().await.counts(), (1, 0, 0));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::start();
    let mut connection = rig.connect().await;
    let one =
        |body: &str| format!("POST / HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let bodies = [ENVELOPE, "oops", r#"{"events":[{},{}]}"#];
    connection.send(bodies.map(one).concat()).await;
    for counts in [(1, 0, 0), (0, 0, 1), (2, 0, 0)] {
        assert_eq!(connection.answer().await.counts(), counts);
    }
}

#[tokio::test]
async fn http_1_0_and_a_sender_that_closes_its_side() {
    let rig = Rig::start();
    let mut connection = rig.connect().await;
    connection
        .send(format!("POST /events HTTP/1.0\r\nContent-Length: {}\r\n\r\n{ENVELOPE}", ENVELOPE.len()))
        .await;
    connection.stream.shutdown().await.expect("half closed");
    assert_eq!(connection.answer().await.counts(), (1, 0, 0));
    connection.closed().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_with_where_it_came_from() {
    let rig = Rig::with(|config| config.tokens = vec![relay::config::Secret::new("hush")]);
    let headers = [
        ("Authorization", "Bearer hush"),
        ("Content-Type", "application/json"),
        ("Content-Encoding", "gzip"),
    ];
    let mut connection = rig.connect().await;
    let local = connection.stream.local_addr().expect("an address").to_string();
    let answer = connection.request("POST /event/?x=1", &headers, b"\x1f\x8b\x08").await;
    assert_eq!(answer.counts(), (0, 0, 1));
    let kept = rig.quarantined().await.remove(0);
    assert_eq!(&kept.body[..], b"\x1f\x8b\x08");
    assert_eq!(answer.json()["id"], kept.id.0);
    assert_eq!(answer.json()["reason"], kept.note.reason);
    assert!(kept.note.reason.contains("utf-8"), "{}", kept.note.reason);
    assert_eq!(kept.note.path, "/event/");
    assert_eq!(kept.note.content_type.as_deref(), Some("application/json"));
    assert_eq!(kept.note.content_encoding.as_deref(), Some("gzip"));
    assert_eq!(kept.note.remote, Some(local));
    let file = std::fs::read_dir(rig.quarantine.dir()).expect("the folder").next().expect("a file");
    let content = std::fs::read(file.expect("a file").path()).expect("readable");
    assert!(!String::from_utf8_lossy(&content).contains("hush"), "no credentials on disk");
    assert_eq!(rig.metrics.bodies_quarantined.get(), 1);
}

#[tokio::test]
async fn replay_goes_the_same_way_as_a_request() {
    use relay::quarantine::Id;
    use relay::receiver::Replayed;
    let rig = Rig::start();
    assert_eq!(rig.post("{").await.counts(), (0, 0, 1));
    let id = rig.quarantined().await[0].id;
    let again = rig.intake.replay(id, 1).await.expect("no refusal");
    assert!(matches!(again, Replayed::Unreadable(_)), "{again:?}");
    assert_eq!(rig.intake.replay(Id(7), 1).await.expect("no refusal"), Replayed::Unknown);
    // A body that a later version can read.
    let note = relay::quarantine::Note { reason: "a version that knew less".into(), ..Default::default() };
    let id = rig.quarantine.put(ENVELOPE.into(), 1, note).await.expect("kept");
    let appended = rig.intake.replay(id, 5).await.expect("no refusal");
    assert!(matches!(appended, Replayed::Appended(counts) if counts.accepted == 1), "{appended:?}");
    let events = rig.events().await;
    assert_eq!((events.len(), events[0].arrived, events[0].event.repository()), (1, 5, "a"));
    assert_eq!(rig.quarantine.stats().bodies, 1, "the replayed one is gone, the unreadable one stays");
}

#[tokio::test]
async fn a_registry_s_restart_is_counted() {
    let rig = Rig::start();
    let event = |instance: &str| {
        format!(
            r#"{{"events":[{{"action":"push","source":{{"addr":"r:5000","instanceID":"{instance}"}}}}]}}"#
        )
    };
    for (instance, restarts) in [("a", 0), ("a", 0), ("b", 1), ("b", 1)] {
        rig.post(event(instance)).await;
        assert_eq!(rig.metrics.registry_restarts.get(), restarts);
    }
}
