//! Bodies that could not be read.

use serde_json::{Value, json};

use crate::rig::{BOUND, cli, cli_ok, push, send, send_ok, webhook};
use crate::support::http_sink::HttpSink;
use crate::support::relay::Relay;

pub async fn the_life_of_a_quarantined_body() {
    let destination = HttpSink::start().await;
    let relay = Relay::start(&format!("sinks:\n{}", webhook("hook", &destination, ""))).await;
    let broken = "{\"events\": [{\"id\": \"e-1\", ";
    assert_eq!(relay.post(broken).await.json()["quarantined"], 1);
    assert_eq!(relay.post(&[0xff, 0x00][..]).await.json()["quarantined"], 1);

    let list = send_ok(&relay, "GET", "/api/v1/quarantine").await;
    let found = list["quarantine"].as_array().expect("a list");
    assert_eq!((&list["bodies"], found.len()), (&json!(2), 2), "{list}");
    let ids: Vec<u64> = found.iter().map(|entry| entry["id"].as_u64().expect("a number")).collect();
    let shown = send_ok(&relay, "GET", &format!("/api/v1/quarantine/{}", ids[0])).await;
    assert_eq!((&shown["body"], &shown["note"]["path"]), (&json!(broken), &json!("/events")), "{shown}");
    assert_eq!(send_ok(&relay, "GET", &format!("/api/v1/quarantine/{}", ids[1])).await["body"], Value::Null);
    let raw = cli(&relay, &["quarantine", "show", &ids[1].to_string(), "--body"]).await;
    assert_eq!(raw.stdout, [0xff, 0x00], "byte for byte");

    // Still unreadable: it stays.
    let said = cli_ok(&relay, &["quarantine", "replay", "--id", &ids[0].to_string()]).await;
    assert!(said.contains(&format!("{} stays", ids[0])) && said.contains("0 replayed"), "{said}");

    // One that an earlier relay could not read and this one can.
    relay.terminate().await;
    let body = format!("{{\"events\": [{}]}}", push("e-7", "team/app"));
    let header = json!({"version": 1, "bytes": body.len(), "crc32c": crc32c::crc32c(body.as_bytes()),
        "reason": "no such thing", "path": "/events"});
    let file = format!("{header}\n{body}");
    std::fs::write(relay.path(&format!("journal/quarantine/1000-{}.body", file.len())), file)
        .expect("a file");
    relay.restart().await;
    let said = cli_ok(&relay, &["quarantine", "replay", "--reason", "no such"]).await;
    assert!(said.contains("1 replayed: 1 events"), "{said}");
    assert_eq!(destination.take(1, BOUND).await[0].text(), push("e-7", "team/app"));
    assert_eq!(send_ok(&relay, "GET", "/api/v1/quarantine").await["bodies"], 2);

    assert_eq!(send(&relay, "POST", "/api/v1/quarantine/discard").await.status, 400);
    let gone = cli_ok(&relay, &["quarantine", "discard", "--id", &ids[1].to_string()]).await;
    assert_eq!(gone, "1 discarded\n");
    assert_eq!(cli_ok(&relay, &["quarantine", "discard", "--yes"]).await, "1 discarded\n");
    assert_eq!(send_ok(&relay, "GET", "/api/v1/quarantine").await["bodies"], 0);
    assert!(!relay.log().contains("e-7"), "no body is logged");
}
