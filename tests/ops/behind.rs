//! Sinks that are behind, and how that is seen.

use std::net::TcpListener;

use serde_json::json;

use crate::rig::{BOUND, batch, cli_ok, ids, nats_sink, post, replay, restart, send_ok, webhook};
use crate::support::http_sink::HttpSink;
use crate::support::nats::{self, Nats};
use crate::support::process::{eventually, free_ports};
use crate::support::relay::Relay;

pub async fn a_sink_too_far_behind_gives_up_its_oldest_and_nobody_else_waits() {
    const EVENTS: usize = 400;
    let nats = Nats::start(nats::Options { own: true, ..nats::Options::default() }).await;
    let healthy = HttpSink::start().await;
    let relay = Relay::start(&format!(
        "sinks:\n{}{}",
        nats_sink(&nats, "late", ", backlog_max: 64KiB"),
        webhook("hook", &healthy, "")
    ))
    .await;
    nats.stop().await;
    for from in (0..EVENTS).step_by(10) {
        post(&relay, &batch(from, 10)).await;
    }
    healthy.take(EVENTS, BOUND).await;
    // The rest that is kept is about the limit, and no less than it.
    let status = relay
        .status_when("the backlog to be cut", BOUND, |status| {
            status["sinks"][0]["lag_events"].as_u64().is_some_and(|lag| lag < 100)
        })
        .await;
    let given_up = status["sinks"][0]["given_up"].as_u64().expect("a number");
    assert!((EVENTS as u64 - 100..=EVENTS as u64 - 50).contains(&given_up), "{given_up}: {status}");
    assert_eq!(status["sinks"][1]["given_up"], 0);
    let metrics = relay.get("/metrics").await.body;
    let line = format!("relay_sink_given_up_total{{sink=\"bus\"}} {given_up}");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(relay.log().contains("its oldest events are given up"));

    // Written down, durably.
    restart(&relay).await;
    let gaps = send_ok(&relay, "GET", "/api/v1/gaps?sink=bus").await;
    let gaps = gaps["gaps"].as_array().expect("a list").clone();
    let sum: u64 = gaps.iter().filter_map(|gap| gap["events"].as_u64()).sum();
    assert_eq!((sum, &gaps[0]["from"]), (given_up, &json!(1)), "{gaps:?}");
    assert!(cli_ok(&relay, &["status"]).await.contains("bus"));

    // Once it is back the rest comes by itself, and a replay fetches what is still there.
    assert_eq!(relay.terminate().await, Some(0));
    nats.start_again().await;
    let mut bus = nats.subscribe("late.>").await;
    relay.restart().await;
    let rest = EVENTS - given_up as usize;
    let live = bus.take(rest, BOUND).await;
    assert_eq!(live[0].header("id"), Some(given_up.to_string().as_str()));
    for gap in &gaps {
        replay(&relay, &format!("sink=bus&from={}&to={}", gap["from"], gap["to"])).await;
    }
    let ids = ids(&mut bus, given_up as usize).await;
    assert_eq!(ids, (0..given_up).map(|n| n.to_string()).collect::<Vec<_>>());
}

pub async fn what_is_too_old_is_given_up() {
    let dead = free_ports::<1>()[0];
    let relay = Relay::start(&format!(
        "sinks:\n- {{ name: bus, nats: {{ servers: \"nats://127.0.0.1:{dead}\" }}, timeout: 500ms, backoff: 100ms, \
         backlog_max: 2s }}\n"
    ))
    .await;
    post(&relay, &batch(0, 5)).await;
    let status = relay
        .status_when("what is old to be given up", BOUND, |status| status["sinks"][0]["given_up"] == 5)
        .await;
    assert_eq!(status["sinks"][0]["lag_events"], 0, "{status}");
}

pub async fn who_holds_the_journal_is_said_before_it_is_full() {
    let dead = free_ports::<1>()[0];
    let relay = Relay::start(&format!(
        "receiver: {{ listen: \"@RECEIVER@\", body_max: 1MiB }}\n\
         journal: {{ path: \"@DIR@/journal\", max_size: 4MiB, segment_size: 1MiB, retention: 0s }}\n\
         sinks:\n- {{ name: bus, nats: {{ servers: \"nats://127.0.0.1:{dead}\" }}, backoff: 100ms }}\n"
    ))
    .await;
    for from in (0..2_700).step_by(300) {
        post(&relay, &batch(from, 300)).await;
    }
    relay.status_when("the holder's name", BOUND, |status| status["journal"]["held_by"] == "bus").await;
    assert_eq!(relay.get("/readyz").await.status, 200, "it is not full yet");
    assert!(relay.get("/metrics").await.body.contains("relay_journal_held{sink=\"bus\"} 1"));
    eventually("a word in the log", BOUND, async || {
        relay.log().contains("holds more than half of the journal").then_some(())
    })
    .await;
}

pub async fn the_breaker_and_a_registrys_restart_are_visible() {
    let nats = Nats::start(nats::Options { own: true, ..nats::Options::default() }).await;
    let relay = Relay::start(&format!(
        "sinks:\n{}",
        nats_sink(&nats, "breaker", ", threshold: 2").replace("backoff: 100ms", "backoff: 1s")
    ))
    .await;
    let breaker = async |state: &str, metric: u8| {
        let line = format!("relay_sink_breaker{{sink=\"bus\"}} {metric}");
        relay.status_when(state, BOUND, |status| status["sinks"][0]["breaker"] == state).await;
        eventually(&line, BOUND, async || relay.get("/metrics").await.body.contains(&line).then_some(()))
            .await;
    };
    let registry = |id: &str, instance: &str| {
        format!(
            "{{\"id\": \"{id}\", \"action\": \"push\", \"source\": {{\"addr\": \"r:5000\", \"instanceID\": \"{instance}\"}}}}"
        )
    };
    post(&relay, &[registry("e-1", "a")]).await;
    breaker("closed", 0).await;
    nats.stop().await;
    post(&relay, &[registry("e-2", "b")]).await;
    breaker("open", 2).await;
    // Whoever has the port now says nothing, so that the one try after the rest takes its time.
    let silent = TcpListener::bind(nats.address()).expect("the broker's port");
    breaker("half-open", 1).await;
    drop(silent);
    nats.start_again().await;
    breaker("closed", 0).await;
    assert!(relay.get("/metrics").await.body.contains("relay_registry_restarts_total 1"));
    assert!(relay.log().contains("a registry has restarted"));
}
