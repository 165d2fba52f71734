//! Delivering again out of the journal.

use serde_json::{Value, json};

use crate::rig::{BOUND, cli, cli_ok, event, ids, nats_sink, post, push, replay, send_ok, webhook};
use crate::support::http_sink::HttpSink;
use crate::support::nats::{self, Nats};
use crate::support::process::{eventually, free_ports};
use crate::support::relay::Relay;
use crate::support::unique;

pub async fn the_journal_is_replayed_by_offset_time_and_conditions() {
    let nats = Nats::start(nats::Options::default()).await;
    let prefix = unique("replay");
    let mut bus = nats.subscribe(&format!("{prefix}.>")).await;
    let relay = Relay::start(&format!("sinks:\n{}", nats_sink(&nats, &prefix, ""))).await;
    post(&relay, &[push("1", "team/app"), event("2", "pull", "team/app", ""), push("3", "lab/app")]).await;
    assert_eq!(ids(&mut bus, 3).await, ["1", "2", "3"]);
    let between = jiff::Timestamp::now();
    post(&relay, &[event("4", "push", "team/app", ", \"tag\": \"v1\""), push("5", "team/app")]).await;
    assert_eq!(ids(&mut bus, 2).await, ["4", "5"]);

    for (query, expected) in [
        ("from=beginning".to_owned(), &["1", "2", "3", "4", "5"][..]),
        ("from=2&to=4".to_owned(), &["2", "3"]),
        (format!("from={between}"), &["4", "5"]),
        (format!("from=beginning&to={between}"), &["1", "2", "3"]),
        ("from=1h&limit=2".to_owned(), &["1", "2"]),
        ("from=1&action=pull".to_owned(), &["2"]),
        ("from=1&repository=team/*&tag=v*".to_owned(), &["4"]),
        ("from=1&match=%7Bactions%3A%20%5Bpush%5D%2C%20not%3A%20%7Brepositories%3A%20%5B%22lab/**%22%5D%7D%7D".to_owned(), &["1", "4", "5"]),
    ] {
        let done = replay(&relay, &format!("sink=bus&{query}")).await;
        assert_eq!((&done["state"], &done["delivered"]), (&json!("done"), &json!(expected.len())), "{query}: {done}");
        assert_eq!(ids(&mut bus, expected.len()).await, expected, "{query}");
    }
    let said =
        cli_ok(&relay, &["replay", "--sink", "bus", "--from", "1", "--match", "{actions: [pull]}"]).await;
    assert_eq!(said, "bus: 1 delivered\n");
    assert_eq!(ids(&mut bus, 1).await, ["2"]);
    // The live flow has never stopped, and what was replayed is not live.
    let status = relay.status().await;
    assert_eq!((&status["sinks"][0]["delivered"], &status["sinks"][0]["position"]), (&json!(5), &json!(6)));
}

pub async fn a_replay_runs_beside_the_live_flow_and_can_be_cancelled() {
    let (live, dead) = (HttpSink::start().await, free_ports::<1>()[0]);
    let relay = Relay::start(&format!(
        "sinks:\n{}- {{ name: bus, nats: {{ servers: \"nats://127.0.0.1:{dead}\" }}, backoff: 100ms }}\n",
        webhook("hook", &live, "")
    ))
    .await;
    post(&relay, &[push("e-1", "app"), push("e-2", "app")]).await;
    live.take(2, BOUND).await;

    // To a broker that is down: it waits, and says why.
    let id = cli_ok(&relay, &["replay", "--sink", "bus", "--from", "1", "--detach"]).await;
    let path = format!("/api/v1/replays/{}", id.trim());
    let waiting = eventually("the replay to fail", BOUND, async || {
        Some(send_ok(&relay, "GET", &path).await).filter(|replay| !replay["last_error"].is_null())
    })
    .await;
    assert_eq!((&waiting["state"], &waiting["delivered"]), (&json!("running"), &json!(0)));
    // Meanwhile another, and the live flow, go on.
    assert_eq!(replay(&relay, "sink=hook&from=1").await["delivered"], 2);
    post(&relay, &[push("e-3", "app")]).await;
    assert_eq!(live.take(5, BOUND).await[4].text(), push("e-3", "app"));
    let list = cli_ok(&relay, &["replay", "--list"]).await;
    assert!(list.contains("bus") && list.contains("running") && list.contains("done"), "{list}");

    let cancelled = cli(&relay, &["replay", "--cancel", id.trim()]).await;
    assert!(String::from_utf8_lossy(&cancelled.stderr).contains("was cancelled"), "{cancelled:?}");
    assert_eq!(send_ok(&relay, "GET", &path).await["state"], "cancelled");
    assert_eq!(relay.terminate().await, Some(0), "and a stop waits for none");
}

pub async fn a_file_is_replayed_while_it_is_written() {
    let relay = Relay::start(
        "sinks:\n- { name: archive, file: { path: \"@DIR@/out\" }, topic: \"all.jsonl\", timeout: 2s, backoff: 100ms }\n",
    )
    .await;
    let lines = async |count: usize| {
        eventually("lines in the file", BOUND, async || {
            let text = std::fs::read_to_string(relay.path("out/all.jsonl")).unwrap_or_default();
            let ids: Vec<_> = text
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("a whole line")["id"].clone())
                .collect();
            (ids.len() == count).then_some(ids)
        })
        .await
    };
    post(&relay, &[push("1", "app"), push("2", "app")]).await;
    assert_eq!(lines(2).await, ["1", "2"]);
    assert_eq!(replay(&relay, "sink=archive&from=2").await["state"], "done");
    assert_eq!(lines(3).await, ["1", "2", "2"]);
    post(&relay, &[push("3", "app")]).await;
    assert_eq!(lines(4).await, ["1", "2", "2", "3"]);
}
