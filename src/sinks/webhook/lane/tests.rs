//! Lanes against a peer that answers byte for byte as a test says.

mod peer;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use self::peer::{BOUND, Peer, within};
use super::*;
use crate::sinks::FaultKind;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

fn content(body: &str) -> Content {
    Content { head: Arc::default(), id: None, body: Bytes::from(body.to_owned()) }
}

fn jobs<const COUNT: usize>(bodies: [&str; COUNT]) -> [Content; COUNT] {
    bodies.map(content)
}

/// A lane without a task: the test is its task.
fn lane() -> Lane {
    Lane::new(sleep(BOUND))
}

/// What is heard of next.
async fn heard(crew: &Crew) -> Result<usize, Fault> {
    let next = async {
        loop {
            match crew.hear() {
                Some(heard) => return heard.map(|settled| settled.count),
                None => crew.news().await,
            }
        }
    };
    within(next).await
}

fn fault(verdict: Verdict) -> Fault {
    match verdict {
        Verdict::Fault(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn answers_after_which_a_connection_is_used_again_and_others() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", " ".repeat(100_000));
    for (answer, is_kept) in [
        (OK, true),
        ("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok", true),
        (chunked, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            true,
        ),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nwhat nobody asked for", false),
        (&long, false),
    ] {
        let peer = Peer::start().await;
        let mut lane = lane();
        let [first, second] = jobs(["one", "two"]);
        let server = async {
            let mut wire = peer.accept().await;
            assert_eq!(wire.request().await.as_deref(), Some("one"));
            wire.answer(answer).await;
            if !is_kept {
                wire = peer.accept().await;
            }
            assert_eq!(wire.request().await.as_deref(), Some("two"), "{answer}");
            wire.answer(OK).await;
        };
        let orders = peer.orders();
        let client = async { [lane.attempt(first, &orders).await, lane.attempt(second, &orders).await] };
        let (verdicts, ()) = tokio::join!(client, server);
        assert_eq!(verdicts, [Verdict::Taken, Verdict::Taken], "{answer}");
    }
}

#[tokio::test]
async fn an_answers_status_counts_though_the_rest_is_missing() {
    let rest_missing = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1234";
    for is_closed in [true, false] {
        let peer = Peer::start().await;
        let orders = Orders { timeout: Duration::from_millis(50), ..peer.orders() };
        let (mut lane, [job]) = (lane(), jobs(["one"]));
        let server = async {
            let mut wire = peer.accept().await;
            wire.request().await;
            wire.answer(rest_missing).await;
            (!is_closed).then_some(wire)
        };
        let (verdict, _open) = tokio::join!(lane.attempt(job, &orders), server);
        assert_eq!(verdict, Verdict::Taken);
        assert!(lane.connection.is_none());
    }
}

/// The endpoint rejects a body that it does not read. What is left of it must not hold up the next.
#[tokio::test]
async fn an_answer_before_the_requests_end_costs_the_connection() {
    let peer = Peer::start().await;
    let large = "x".repeat(50 << 20);
    let (mut lane, orders, [first, second]) = (lane(), peer.orders(), jobs([&large, "two"]));
    let server = async {
        let mut refused = peer.accept().await;
        refused.answer("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
        let mut wire = peer.accept().await;
        assert_eq!(wire.request().await.as_deref(), Some("two"));
        wire.answer(OK).await;
    };
    let client = async { (lane.attempt(first, &orders).await, lane.attempt(second, &orders).await) };
    let ((first, second), ()) = tokio::join!(client, server);
    assert!(matches!(first, Verdict::Rejected(rejection) if rejection.code == "too_large"));
    assert_eq!(second, Verdict::Taken);
}

/// The endpoint ends kept connections that nothing comes on: no failure of anybody.
#[tokio::test]
async fn a_connection_that_was_closed_while_it_rested_is_replaced() {
    let peer = Peer::start().await;
    let crew = Crew::new(peer.orders(), 1);
    for body in ["one", "two", "three"] {
        crew.push([("key", content(body))]);
        let mut wire = peer.accept().await;
        assert_eq!(wire.request().await.as_deref(), Some(body));
        wire.answer(OK).await;
        assert_eq!(heard(&crew).await, Ok(1));
        wire.0.shutdown().await.expect("closed");
        // The lane closes its end, without anything to send.
        assert_eq!(wire.request().await, None);
    }
}

/// A request may cross the end of a connection that rested; one behind another does not.
#[tokio::test]
async fn a_request_that_crosses_the_end_of_a_rested_connection_is_made_again() {
    let garbage = Some("what is this\r\n\r\n");
    let resends =
        [(Duration::ZERO, None, false), (REST_DOUBTFUL, None, true), (REST_DOUBTFUL, garbage, false)];
    for (rested, answer, is_made_again) in resends {
        let peer = Peer::start().await;
        let (mut lane, orders, [first, second]) = (lane(), peer.orders(), jobs(["one", "two"]));
        let server = async {
            let mut wire = peer.accept().await;
            wire.request().await;
            wire.answer(OK).await;
            assert_eq!(wire.request().await.as_deref(), Some("two"));
            wire.answer(answer.unwrap_or_default()).await;
            drop(wire);
            if is_made_again {
                let mut wire = peer.accept().await;
                assert_eq!(wire.request().await.as_deref(), Some("two"));
                wire.answer(OK).await;
            }
        };
        let client = async {
            assert_eq!(lane.attempt(first, &orders).await, Verdict::Taken);
            lane.rests_since = Instant::now().checked_sub(rested);
            lane.attempt(second, &orders).await
        };
        let (verdict, ()) = tokio::join!(client, server);
        assert_eq!(verdict == Verdict::Taken, is_made_again, "{rested:?} {answer:?}");
        assert!(!peer.is_wanted().await, "made again once too often");
    }
}

#[tokio::test]
async fn a_connection_that_rested_for_long_is_not_used() {
    let peer = Peer::start().await;
    let (mut lane, orders, [first, second]) = (lane(), peer.orders(), jobs(["one", "two"]));
    let server = async {
        let mut old = peer.accept().await;
        old.request().await;
        old.answer(OK).await;
        let mut fresh = peer.accept().await;
        assert_eq!(fresh.request().await.as_deref(), Some("two"));
        fresh.answer(OK).await;
        assert_eq!(old.request().await, None);
    };
    let client = async {
        assert_eq!(lane.attempt(first, &orders).await, Verdict::Taken);
        lane.rests_since = Instant::now().checked_sub(REST_MAX);
        assert_eq!(lane.attempt(second, &orders).await, Verdict::Taken);
    };
    tokio::join!(client, server);
}

/// The faults of a transport, which hold no secret of the address.
#[tokio::test]
async fn no_answer() {
    for (answer, expected) in [
        (None, "no answer in time"),
        (Some(""), "connection closed before message completed"),
        (Some("HTTP/1.1 200"), "connection closed before message completed"),
        (Some("what is this\r\n\r\n"), "invalid HTTP version parsed"),
    ] {
        let peer = Peer::start().await;
        let late = Duration::from_millis(50);
        let orders = Orders { timeout: if answer.is_none() { late } else { BOUND }, ..peer.orders() };
        let (mut lane, [job]) = (lane(), jobs(["one"]));
        let server = async {
            let mut wire = peer.accept().await;
            wire.request().await;
            match answer {
                Some(text) => wire.answer(text).await,
                None => assert_eq!(wire.request().await, None, "the connection ends with the attempt"),
            }
        };
        let (verdict, ()) = tokio::join!(async { lane.attempt(job, &orders).await }, server);
        let fault = fault(verdict);
        assert_eq!(fault.kind, FaultKind::Disconnected);
        assert_eq!(fault.text, format!("{}: {expected}", orders.target.name));
        assert!(lane.connection.is_none() && !fault.text.contains("secret"), "{fault}");
    }
}

#[tokio::test]
async fn nothing_is_begun_after_a_failure() {
    let peer = Peer::start().await;
    let crew = Crew::new(peer.orders(), 2);
    crew.push([("a", content("fails")), ("a", content("behind it"))]);
    let mut failing = peer.accept().await;
    assert_eq!(failing.request().await.as_deref(), Some("fails"));
    crew.push([("b", content("on its way")), ("b", content("behind it"))]);
    let mut other = peer.accept().await;
    assert_eq!(other.request().await.as_deref(), Some("on its way"));

    failing.answer(BUSY).await;
    let fault = heard(&crew).await.expect_err("a fault");
    assert_eq!(fault.kind, FaultKind::Busy { retry_after: None });
    assert_eq!(heard(&crew).await.expect_err("an end").text, "a connection's task has ended");
    crew.push([("c", content("later"))]);
    other.answer(OK).await;
    let noted = async {
        while crew.shared.state().unheard == 0 {
            tokio::task::yield_now().await;
        }
    };
    within(noted).await;
    assert!(!peer.is_wanted().await, "no third connection");
    drop(crew);
    assert_eq!(failing.request().await, None);
    assert_eq!(other.request().await, None);
}

/// What was done before a failure is heard of before it.
#[tokio::test]
async fn a_failure_comes_after_what_was_taken() {
    let peer = Peer::start().await;
    let crew = Crew::new(peer.orders(), 1);
    crew.push(["one", "two", "fails"].map(|body| ("key", content(body))));
    let mut wire = peer.accept().await;
    for answer in [OK, OK, BUSY] {
        wire.request().await;
        wire.answer(answer).await;
    }
    let (mut count, mut last) = (0, heard(&crew).await);
    while let Ok(more) = last {
        count += more;
        last = heard(&crew).await;
    }
    assert_eq!((count, last.expect_err("a fault").kind), (2, FaultKind::Busy { retry_after: None }));
}

/// As many connections as are needed, and no more.
#[tokio::test]
async fn one_message_at_a_time_needs_one_connection() {
    let peer = Peer::start().await;
    let crew = Crew::new(peer.orders(), 8);
    let mut wire = None;
    for number in 0..20 {
        crew.push([(number.to_string().as_str(), content("event"))]);
        if wire.is_none() {
            wire = Some(peer.accept().await);
        }
        let wire = wire.as_mut().expect("the first connection");
        wire.request().await.expect("a request");
        wire.answer(OK).await;
        assert_eq!(heard(&crew).await, Ok(1));
    }
    assert!(!peer.is_wanted().await, "no other connection");
}

#[tokio::test]
async fn requests_on_their_way_end_with_the_crew() {
    let peer = Peer::start().await;
    let crew = Crew::new(peer.orders(), 1);
    crew.push(["on its way", "behind it"].map(|body| ("key", content(body))));
    let mut wire = peer.accept().await;
    assert_eq!(wire.request().await.as_deref(), Some("on its way"));
    drop(crew);
    assert_eq!(wire.request().await, None);
    assert!(!peer.is_wanted().await);
}

/// What the two halves of a connection tell each other wakes nobody: one run of the task an answer.
#[tokio::test]
async fn an_answer_wakes_its_lane_once() {
    const COUNT: usize = 100;
    let peer = Peer::start().await;
    let shared = Arc::new(Shared::new(peer.orders()));
    for _ in 0..COUNT {
        shared.state().queue.push("key", content("event"));
    }
    let runs = Arc::<AtomicUsize>::default();
    let mut lane = Box::pin(lane().run(Arc::clone(&shared)));
    let counted = Arc::clone(&runs);
    tokio::spawn(poll_fn(move |cx: &mut Context<'_>| {
        counted.fetch_add(1, Relaxed);
        lane.as_mut().poll(cx)
    }));
    let mut wire = peer.accept().await;
    for number in 1..=COUNT {
        wire.request().await.expect("a request");
        wire.answer(OK).await;
        let noted = async {
            while shared.state().unheard < number {
                tokio::task::yield_now().await;
            }
        };
        within(noted).await;
    }
    let runs = runs.load(Relaxed);
    assert!(runs <= COUNT + 5, "{runs} runs for {COUNT} requests");
}
