//! Dead letters, from their making to their end.

use serde_json::{Value, json};

use crate::rig::{
    BOUND, bodies, cli, cli_ok, event, letters, letters_when, post, push, replay_letters, restart, send,
    send_ok, webhook,
};
use crate::support::http_sink::HttpSink;
use crate::support::relay::Relay;

pub async fn the_life_of_a_dead_letter() {
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

pub async fn dead_letters_are_chosen_and_discarded() {
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

pub async fn what_no_route_sends_any_more_stays() {
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

pub async fn dead_letters_go_to_another_sink_too() {
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

pub async fn what_cannot_be_stripped_small_enough_is_a_dead_letter() {
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
