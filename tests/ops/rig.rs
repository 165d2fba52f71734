//! What the tests ask of a relay, and how.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::support::http_sink::{HttpSink, Request};
use crate::support::nats::{Nats, Subscription};
use crate::support::process::eventually;
use crate::support::relay::{Answer, Relay};

pub const BOUND: Duration = Duration::from_secs(30);

/// An event with a registry's white space, which must survive.
pub fn event(id: &str, action: &str, repository: &str, more: &str) -> String {
    format!(
        "{{\n   \"id\": \"{id}\",\n   \"action\": \"{action}\",\n   \"target\": {{\"repository\": \"{repository}\"{more}}}\n}}"
    )
}

pub fn push(id: &str, repository: &str) -> String {
    event(id, "push", repository, "")
}

/// Stops and starts it, so that it goes on exactly where it was.
pub async fn restart(relay: &Relay) {
    assert_eq!(relay.terminate().await, Some(0));
    relay.restart().await;
}

pub async fn post(relay: &Relay, events: &[String]) {
    let answer = relay.post(format!("{{\"events\": [{}]}}", events.join(", "))).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.json()["accepted"], events.len(), "{}", answer.body);
}

pub async fn send(relay: &Relay, method: &str, path: &str) -> Answer {
    let url = format!("http://{}{path}", relay.admin());
    let method = method.parse().expect("a method");
    let response = relay.http().request(method, url).send().await.expect("an answer");
    Answer { status: response.status().as_u16(), body: response.text().await.expect("a body") }
}

pub async fn send_ok(relay: &Relay, method: &str, path: &str) -> Value {
    let answer = send(relay, method, path).await;
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
    answer.json()
}

pub async fn letters(relay: &Relay, query: &str) -> Vec<Value> {
    let list = send_ok(relay, "GET", &format!("/api/v1/dead-letters?{query}")).await;
    list["dead_letters"].as_array().expect("a list").clone()
}

pub async fn letters_when(relay: &Relay, sink: &str, count: usize) -> Vec<Value> {
    let what = format!("{count} dead letters of {sink}");
    eventually(&what, BOUND, async || {
        let letters = letters(relay, &format!("sink={sink}")).await;
        (letters.len() == count).then_some(letters)
    })
    .await
}

/// The replay at its end.
pub async fn ended(relay: &Relay, replay: &Value) -> Value {
    let path = format!("/api/v1/replays/{}", replay["id"]);
    eventually("a replay to end", BOUND, async || {
        Some(send_ok(relay, "GET", &path).await).filter(|replay| replay["state"] != "running")
    })
    .await
}

/// Replays dead letters of one sink, to the end.
pub async fn replay_letters(relay: &Relay, query: &str) -> Value {
    let begun = send_ok(relay, "POST", &format!("/api/v1/dead-letters/replay?{query}")).await;
    let replays = begun["replays"].as_array().expect("a list");
    assert_eq!(replays.len(), 1, "{begun}");
    ended(relay, &replays[0]).await
}

pub async fn replay(relay: &Relay, query: &str) -> Value {
    let begun = send_ok(relay, "POST", &format!("/api/v1/replays?{query}")).await;
    ended(relay, &begun).await
}

/// The relay's own commands against this relay.
pub async fn cli(relay: &Relay, args: &[&str]) -> Output {
    let url = format!("http://{}", relay.admin());
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let run =
        move || Command::new(env!("CARGO_BIN_EXE_relay")).args(args).env("RELAY_ADMIN_URL", url).output();
    tokio::task::spawn_blocking(run).await.expect("no panic").expect("it runs")
}

pub async fn cli_ok(relay: &Relay, args: &[&str]) -> String {
    let output = cli(relay, args).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub fn bodies(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(Request::text).collect()
}

pub fn webhook(name: &str, sink: &HttpSink, more: &str) -> String {
    format!(
        "- {{ name: {name}, webhook: {{ url: \"{}\", reject: [422] }}, format: event, timeout: 5s, \
         backoff: 100ms{more} }}\n",
        sink.url()
    )
}

pub fn nats_sink(nats: &Nats, prefix: &str, more: &str) -> String {
    format!(
        "- {{ name: bus, nats: {{ servers: \"{}\" }}, topic: \"{prefix}.{{action}}\", \
         timeout: 2s, backoff: 100ms{more} }}\n",
        nats.url()
    )
}

/// The ids of the next messages, in order.
pub async fn ids(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let received = subscription.take(count, BOUND).await;
    received.iter().map(|message| message.header("id").unwrap_or_default().to_owned()).collect()
}

/// A batch of events of about 1 KiB each.
pub fn batch(from: usize, count: usize) -> Vec<String> {
    let pad = format!(", \"url\": \"{}\"", "x".repeat(900));
    (from..from + count).map(|n| event(&n.to_string(), "push", "team/app", &pad)).collect()
}
