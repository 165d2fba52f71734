//! What an operator does when things go wrong: dead letters, replays, the quarantine, a sink that is
//! too far behind. By the admin listener and by the commands, against real destinations.

mod support;

use std::net::TcpListener;
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use serde_json::{Value, json};
use support::http_sink::{HttpSink, Request};
use support::nats::{self, Nats, Subscription};
use support::process::{eventually, free_ports};
use support::relay::{Answer, Relay};
use support::suite::Suite;
use support::unique;

const BOUND: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut suite = Suite::new();
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { $(suite.test(stringify!($name), $name);)* };
    }
    tests!(
        the_life_of_a_dead_letter,
        dead_letters_are_chosen_and_discarded,
        what_no_route_sends_any_more_stays,
        dead_letters_go_to_another_sink_too,
        what_cannot_be_stripped_small_enough_is_a_dead_letter,
        the_journal_is_replayed_by_offset_time_and_conditions,
        a_replay_runs_beside_the_live_flow_and_can_be_cancelled,
        a_file_is_replayed_while_it_is_written,
        the_life_of_a_quarantined_body,
        a_sink_too_far_behind_gives_up_its_oldest_and_nobody_else_waits,
        what_is_too_old_is_given_up,
        who_holds_the_journal_is_said_before_it_is_full,
        the_breaker_and_a_registrys_restart_are_visible,
        operations_are_guarded_and_strict,
    );
    suite.run()
}

/// An event with a registry's white space, which must survive.
fn event(id: &str, action: &str, repository: &str, more: &str) -> String {
    format!(
        "{{\n   \"id\": \"{id}\",\n   \"action\": \"{action}\",\n   \"target\": {{\"repository\": \"{repository}\"{more}}}\n}}"
    )
}

fn push(id: &str, repository: &str) -> String {
    event(id, "push", repository, "")
}

/// Stops and starts it, so that it goes on exactly where it was.
async fn restart(relay: &Relay) {
    assert_eq!(relay.terminate().await, Some(0));
    relay.restart().await;
}

async fn post(relay: &Relay, events: &[String]) {
    let answer = relay.post(format!("{{\"events\": [{}]}}", events.join(", "))).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.json()["accepted"], events.len(), "{}", answer.body);
}

async fn send(relay: &Relay, method: &str, path: &str) -> Answer {
    let url = format!("http://{}{path}", relay.admin());
    let method = method.parse().expect("a method");
    let response = relay.http().request(method, url).send().await.expect("an answer");
    Answer { status: response.status().as_u16(), body: response.text().await.expect("a body") }
}

async fn send_ok(relay: &Relay, method: &str, path: &str) -> Value {
    let answer = send(relay, method, path).await;
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
    answer.json()
}

async fn letters(relay: &Relay, query: &str) -> Vec<Value> {
    let list = send_ok(relay, "GET", &format!("/api/v1/dead-letters?{query}")).await;
    list["dead_letters"].as_array().expect("a list").clone()
}

async fn letters_when(relay: &Relay, sink: &str, count: usize) -> Vec<Value> {
    let what = format!("{count} dead letters of {sink}");
    eventually(&what, BOUND, async || {
        let letters = letters(relay, &format!("sink={sink}")).await;
        (letters.len() == count).then_some(letters)
    })
    .await
}

/// The replay at its end.
async fn ended(relay: &Relay, replay: &Value) -> Value {
    let path = format!("/api/v1/replays/{}", replay["id"]);
    eventually("a replay to end", BOUND, async || {
        Some(send_ok(relay, "GET", &path).await).filter(|replay| replay["state"] != "running")
    })
    .await
}

/// Replays dead letters of one sink, to the end.
async fn replay_letters(relay: &Relay, query: &str) -> Value {
    let begun = send_ok(relay, "POST", &format!("/api/v1/dead-letters/replay?{query}")).await;
    let replays = begun["replays"].as_array().expect("a list");
    assert_eq!(replays.len(), 1, "{begun}");
    ended(relay, &replays[0]).await
}

/// The relay's own commands against this relay.
async fn cli(relay: &Relay, args: &[&str]) -> Output {
    let url = format!("http://{}", relay.admin());
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let run =
        move || Command::new(env!("CARGO_BIN_EXE_relay")).args(args).env("RELAY_ADMIN_URL", url).output();
    tokio::task::spawn_blocking(run).await.expect("no panic").expect("it runs")
}

async fn cli_ok(relay: &Relay, args: &[&str]) -> String {
    let output = cli(relay, args).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn bodies(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(Request::text).collect()
}

fn webhook(name: &str, sink: &HttpSink, more: &str) -> String {
    format!(
        "- {{ name: {name}, webhook: {{ url: \"{}\", reject: [422] }}, format: event, timeout: 5s, \
         backoff: 100ms{more} }}\n",
        sink.url()
    )
}

async fn the_life_of_a_dead_letter() {
    let destination = HttpSink::start().await;
    destination.answer(422);
    let relay = Relay::start(&format!("sinks:\n{}", webhook("hook", &destination, ""))).await;
    let events = [push("e-1", "team/app"), push("e-2", "team/other")];
    post(&relay, &events).await;

    // Made, listed, shown.
    let found = letters_when(&relay, "hook", 2).await;
    assert_eq!(found[0]["code"], "rejected");
    assert_eq!((&found[0]["repository"], &found[0]["attempts"]), (&json!("team/app"), &json!(1)));
    let shown = send_ok(&relay, "GET", "/api/v1/dead-letters/hook/1").await;
    assert_eq!(shown["event"], events[0], "byte for byte");
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.contains("422")), "{shown}");
    let status = relay.status().await;
    assert_eq!(
        (&status["sinks"][0]["dead_letters"], &status["sinks"][0]["dead_lettered"]),
        (&json!(2), &json!(2))
    );

    // Tried again in vain: the same letters, with more tries.
    let replay = replay_letters(&relay, "sink=hook").await;
    assert_eq!((&replay["state"], &replay["dead_lettered"]), (&json!("done"), &json!(2)), "{replay}");
    let again = letters_when(&relay, "hook", 2).await;
    for (before, after) in found.iter().zip(&again) {
        assert_eq!((&before["id"], &before["first"]), (&after["id"], &after["first"]));
        assert_eq!(after["attempts"], 2);
    }

    // They outlive the relay.
    restart(&relay).await;
    assert_eq!(letters(&relay, "").await, again);

    // Mended.
    destination.answer(202);
    let table = cli_ok(&relay, &["dead-letters", "list", "--repository", "team/*"]).await;
    assert!(table.contains("hook/1") && table.contains("team/other"), "{table}");
    assert_eq!(cli_ok(&relay, &["dead-letters", "show", "hook/2", "--event"]).await.trim_end(), events[1]);
    let said = cli_ok(&relay, &["dead-letters", "replay", "--sink", "hook"]).await;
    assert!(said.contains("hook: 2 delivered; 2 dead letters are gone, 0 were refused again"), "{said}");
    let taken = destination.taken();
    assert_eq!(bodies(&taken), events);
    assert_eq!(taken[0].header("relay-id"), Some("e-1"), "the id that it always had");
    assert_eq!(letters(&relay, "").await, [] as [Value; 0]);
    assert_eq!(relay.status().await["sinks"][0]["dead_letters"], 0);
    assert!(cli_ok(&relay, &["dead-letters", "list"]).await.contains("no dead letters"));
}

async fn dead_letters_are_chosen_and_discarded() {
    let destination = HttpSink::start().await;
    destination.answer(422);
    let other = HttpSink::start().await;
    other.answer(413);
    let relay = Relay::start(&format!(
        "sinks:\n{}{}routes:\n- {{ match: {{ actions: [push] }}, to: [hook] }}\n- {{ to: [second] }}\n",
        webhook("hook", &destination, ""),
        webhook("second", &other, "")
    ))
    .await;
    post(&relay, &(0..5).map(|n| push(&format!("e-{n}"), &format!("team/app-{n}"))).collect::<Vec<_>>())
        .await;
    letters_when(&relay, "hook", 5).await;
    letters_when(&relay, "second", 5).await;

    for (query, count) in [
        ("", 10),
        ("code=too_large", 5),
        ("reason=422", 5),
        ("repository=team/app-3", 2),
        ("repository=*", 0),
        ("sink=hook&id=2&id=4", 2),
        ("newer_than=1h", 10),
        ("older_than=1h", 0),
    ] {
        assert_eq!(letters(&relay, query).await.len(), count, "{query}");
    }
    // Page by page, across sinks.
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = send_ok(&relay, "GET", &format!("/api/v1/dead-letters?limit=4&after={after}")).await;
        pages.push(page["dead_letters"].as_array().expect("a list").len());
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(pages, [4, 4, 2]);

    let refused = cli(&relay, &["dead-letters", "discard"]).await;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--yes"));
    assert_eq!(send(&relay, "POST", "/api/v1/dead-letters/discard").await.status, 400);
    assert_eq!(send(&relay, "POST", "/api/v1/dead-letters/discard?cdoe=rejected").await.status, 400);
    assert_eq!(letters(&relay, "").await.len(), 10, "none of these has discarded anything");

    let gone = cli_ok(&relay, &["dead-letters", "discard", "--sink", "hook", "--id", "2", "--id", "4"]).await;
    assert_eq!(gone, "2 discarded\n");
    let gone = send_ok(&relay, "POST", "/api/v1/dead-letters/discard?code=too_large").await;
    assert_eq!(gone, json!({"discarded": 5}));
    let left: Vec<_> = letters(&relay, "").await.iter().map(|letter| letter["id"].clone()).collect();
    assert_eq!(left, [1, 3, 5]);
    assert_eq!(cli_ok(&relay, &["dead-letters", "discard", "--yes"]).await, "3 discarded\n");
    assert_eq!(send(&relay, "GET", "/api/v1/dead-letters/hook/1").await.status, 404);
}

async fn what_no_route_sends_any_more_stays() {
    let destination = HttpSink::start().await;
    destination.answer(422);
    let config = |actions: &str| {
        format!(
            "sinks:\n{}routes:\n- {{ match: {{ actions: [{actions}] }}, to: [hook] }}\n",
            webhook("hook", &destination, "")
        )
    };
    let relay = Relay::start(&config("push, pull")).await;
    post(&relay, &[push("e-1", "app"), event("e-2", "pull", "app", "")]).await;
    letters_when(&relay, "hook", 2).await;

    relay.configure(&config("pull"));
    restart(&relay).await;
    destination.answer(202);
    let replay = replay_letters(&relay, "sink=hook").await;
    assert_eq!((&replay["removed"], &replay["unrouted"]), (&json!(1), &json!(1)), "{replay}");
    let left = letters_when(&relay, "hook", 1).await;
    assert_eq!(left[0]["event_id"], "e-1");
}

async fn dead_letters_go_to_another_sink_too() {
    let (destination, spare) = (HttpSink::start().await, HttpSink::start().await);
    destination.answer(422);
    let relay = Relay::start(&format!(
        "sinks:\n{}{}routes:\n- {{ to: [hook] }}\n",
        webhook("hook", &destination, ", dead_letters: { also_to: spare }"),
        webhook("spare", &spare, "")
    ))
    .await;
    // The copies wait for their sink, across a kill too.
    spare.answer(503);
    let events: Vec<_> = (0..3).map(|n| push(&format!("e-{n}"), "team/app")).collect();
    post(&relay, &events).await;
    letters_when(&relay, "hook", 3).await;
    spare.heard("a first try", &["e-0"], BOUND).await;
    relay.kill_9();
    spare.answer(202);
    relay.restart().await;
    // What the kill made the relay deliver again was refused again.
    relay
        .status_when("nothing is left to deliver", BOUND, |status| {
            status["sinks"][0]["position"] == status["journal"]["next"]
        })
        .await;
    let count = letters(&relay, "sink=hook").await.len();
    let copies = spare.take(count, BOUND).await;
    let mut firsts: Vec<&str> = Vec::new();
    for body in bodies(&copies) {
        if !firsts.contains(&body) {
            firsts.push(body);
        }
    }
    assert_eq!(firsts, events);
    for (name, value) in [
        ("relay-dead-letter-sink", "hook"),
        ("relay-dead-letter-code", "rejected"),
        ("relay-dead-letter-topic", "registry.push"),
    ] {
        assert_eq!(copies[0].header(name), Some(value), "{:?}", copies[0].headers);
    }
    assert!(copies[0].header("relay-dead-letter-reason").is_some_and(|reason| reason.contains("422")));
    // Copied, not moved; and each once, though it starts again.
    restart(&relay).await;
    post(&relay, &[push("e-9", "team/app")]).await;
    letters_when(&relay, "hook", count + 1).await;
    let copies = spare.take(count + 1, BOUND).await;
    assert_eq!((copies.len(), copies[count].text()), (count + 1, push("e-9", "team/app").as_str()));
}

async fn what_cannot_be_stripped_small_enough_is_a_dead_letter() {
    let destination = HttpSink::start().await;
    let limits = ", message_max: 1KiB, strip: [references]";
    let relay = Relay::start(&format!("sinks:\n{}", webhook("hook", &destination, limits))).await;
    let long = "x".repeat(2000);
    let fits = push("e-1", "app");
    let shrinks = event("e-2", "push", "app", &format!(", \"references\": [{{\"digest\": \"{long}\"}}]"));
    let stays = event("e-3", "push", "app", &format!(", \"url\": \"{long}\""));
    post(&relay, &[fits.clone(), shrinks.clone(), stays.clone(), push("e-4", "app")]).await;

    let taken = destination.take(3, BOUND).await;
    assert_eq!(taken[0].text(), fits);
    assert!(taken[1].text().contains("e-2") && taken[1].body.len() < 1024, "{}", taken[1].text());
    assert!(taken[2].text().contains("e-4"), "what follows is not held up");
    let found = letters_when(&relay, "hook", 1).await;
    assert_eq!((&found[0]["code"], &found[0]["attempts"]), (&json!("too_large"), &json!(0)));
    let shown = send_ok(&relay, "GET", "/api/v1/dead-letters/hook/1").await;
    assert_eq!(shown["event"], stays);
    assert_eq!(destination.requests().len(), 3, "it was never sent");

    // The limit is raised, and the letter with its whole event is as good as ever.
    relay.configure(&format!("sinks:\n{}", webhook("hook", &destination, ", message_max: 10KiB")));
    restart(&relay).await;
    replay_letters(&relay, "sink=hook&code=too_large").await;
    assert_eq!(destination.take(4, BOUND).await[3].text(), stays);
    letters_when(&relay, "hook", 0).await;
}

fn nats_sink(nats: &Nats, prefix: &str, more: &str) -> String {
    format!(
        "- {{ name: bus, nats: {{ servers: \"{}\" }}, topic: \"{prefix}.{{action}}\", \
         timeout: 2s, backoff: 100ms{more} }}\n",
        nats.url()
    )
}

/// The ids of the next messages, in order.
async fn ids(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let received = subscription.take(count, BOUND).await;
    received.iter().map(|message| message.header("id").unwrap_or_default().to_owned()).collect()
}

async fn replay(relay: &Relay, query: &str) -> Value {
    let begun = send_ok(relay, "POST", &format!("/api/v1/replays?{query}")).await;
    ended(relay, &begun).await
}

async fn the_journal_is_replayed_by_offset_time_and_conditions() {
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

async fn a_replay_runs_beside_the_live_flow_and_can_be_cancelled() {
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

async fn a_file_is_replayed_while_it_is_written() {
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

async fn the_life_of_a_quarantined_body() {
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

/// A batch of events of about 1 KiB each.
fn batch(from: usize, count: usize) -> Vec<String> {
    let pad = format!(", \"url\": \"{}\"", "x".repeat(900));
    (from..from + count).map(|n| event(&n.to_string(), "push", "team/app", &pad)).collect()
}

async fn a_sink_too_far_behind_gives_up_its_oldest_and_nobody_else_waits() {
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

async fn what_is_too_old_is_given_up() {
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

async fn who_holds_the_journal_is_said_before_it_is_full() {
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

async fn the_breaker_and_a_registrys_restart_are_visible() {
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

async fn operations_are_guarded_and_strict() {
    let destination = HttpSink::start().await;
    let relay = Relay::start(&format!(
        "admin: {{ listen: \"@ADMIN@\", tokens: [sesame] }}\nsinks:\n{}- {{ name: live, stream: {{}} }}\n",
        webhook("hook", &destination, "")
    ))
    .await;
    for (method, path) in [
        ("GET", "/api/v1/dead-letters"),
        ("POST", "/api/v1/dead-letters/discard?all=true"),
        ("POST", "/api/v1/replays?sink=hook&from=1"),
        ("DELETE", "/api/v1/replays/1"),
        ("GET", "/api/v1/quarantine"),
        ("POST", "/api/v1/quarantine/discard?all=true"),
        ("GET", "/api/v1/gaps"),
    ] {
        assert_eq!(send(&relay, method, path).await.status, 401, "{method} {path}");
    }
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let url = format!("http://{}{path}", relay.admin());
        let mut request = relay.http().request(method.parse().expect("a method"), url).bearer_auth("sesame");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let kind =
            response.headers().get("content-type").and_then(|value| value.to_str().ok()).map(str::to_owned);
        (response.status().as_u16(), kind.unwrap_or_default())
    };
    let problem = "application/problem+json";
    for (method, path, status) in [
        ("GET", "/api/v1/dead-letters/hook/9", 404),
        ("GET", "/api/v1/dead-letters?sink=nobody", 404),
        ("GET", "/api/v1/dead-letters?sink=live", 400),
        ("GET", "/api/v1/dead-letters?older_than=soon", 400),
        ("GET", "/api/v1/dead-letters?limit=100000", 400),
        ("POST", "/api/v1/dead-letters/replay", 400),
        ("POST", "/api/v1/dead-letters/replay?id=1", 400),
        ("POST", "/api/v1/replays?sink=hook", 400),
        ("POST", "/api/v1/replays?sink=hook&from=yesterday", 400),
        ("POST", "/api/v1/replays?sink=hook&from=1", 400),
        ("POST", "/api/v1/replays?sink=live&from=beginning&match=%5B", 400),
        ("GET", "/api/v1/replays/7", 404),
        ("DELETE", "/api/v1/replays/7", 404),
        ("GET", "/api/v1/quarantine/7", 404),
        ("GET", "/api/v1/quarantine/7/body", 404),
        ("GET", "/api/v1/gaps?sink=nobody", 404),
        ("PUT", "/api/v1/replays", 405),
    ] {
        assert_eq!(ask(method, path, &[]).await, (status, problem.to_owned()), "{method} {path}");
    }
    post(&relay, &[push("e-1", "app")]).await;
    assert_eq!(ask("POST", "/api/v1/replays?sink=live&from=1", &[]).await.0, 409, "nothing delivers to it");
    let evil = [("origin", "https://evil.example")];
    assert_eq!(ask("POST", "/api/v1/dead-letters/discard?all=true", &evil).await.0, 403);
    assert_eq!(ask("POST", "/api/v1/dead-letters/discard?all=true", &[]).await.0, 200);
    let output = cli(&relay, &["dead-letters", "list"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("--token"), "{output:?}");
    cli_ok(&relay, &["dead-letters", "list", "--token", "sesame"]).await;
}
