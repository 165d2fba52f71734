//! What the relay does when something around it fails: brokers that are down, frozen or cut off, a
//! stop under load, a folder that is taken, a journal that is full, a configuration that is wrong.

mod support;

use std::{
    net::TcpListener,
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{
    Folder,
    load::{Load, Sent, assert_arrived},
    process::{Proc, free_ports},
    proxy::Proxy,
    relay::Relay,
    suite::Suite,
    trio::{Addresses, Place, SINKS, Trio, delivered, is_delivered, sink_of},
};

const BOUND: Duration = Duration::from_secs(60);
const SENDERS: usize = 3;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let trio = Trio::shared();
    macro_rules! with_brokers {
        ($($name:ident),* $(,)?) => {$(
            let shared = trio.clone();
            suite.test(stringify!($name), async move || $name(&shared.get().await).await);
        )*};
    }
    with_brokers!(
        brokers_that_are_down_at_the_start_get_everything_later,
        a_frozen_broker_holds_up_nobody_else_and_catches_up,
        connections_that_are_cut_in_mid_flow_lose_nothing,
        a_stop_under_load_loses_nothing,
        a_stop_with_a_frozen_broker_ends_at_the_deadline,
        a_full_journal_names_the_sink_and_recovers,
    );
    suite.test("a_second_relay_on_the_same_folder_is_refused", a_second_relay_is_refused);
    suite.test("a_bad_configuration_ends_it_before_anything_is_bound", a_bad_configuration_ends_it);
    suite.run()
}

/// Everything that was taken is in the journal, once, and at every broker.
async fn assert_all_arrived(relay: &Relay, place: &Place, sent: &[Sent]) {
    let status = delivered(relay, &SINKS, BOUND).await;
    assert_eq!(status["journal"]["next"], sent.len() + 1, "the journal holds each event once: {status}");
    for sink in SINKS {
        assert_arrived(sink, sent, &place.arrived(sink, &["events"], BOUND).await);
    }
}

/// Waits until `sink` has begun to deliver.
async fn at_work(relay: &Relay, sink: &str) {
    let begun = |status: &Value| sink_of(status, sink)["delivered"].as_u64() > Some(0);
    relay.status_when(&format!("{sink} delivers"), BOUND, begun).await;
}

async fn brokers_that_are_down_at_the_start_get_everything_later(trio: &Arc<Trio>) {
    let place = Place::new(trio, "down").await;
    SINKS.iter().for_each(|sink| trio.kill(sink));
    // Ready is when the receiver takes events.
    let relay = Relay::start(&place.config(&Addresses::direct(trio))).await;
    let load = Load::start(&relay.events_url(), SENDERS, 100);
    load.more(100, BOUND).await;
    let status = relay.status_when("all sinks have failed", BOUND, |status| {
        SINKS.iter().all(|sink| sink_of(status, sink)["failures"].as_u64() > Some(0))
    });
    let status = status.await;
    for sink in SINKS {
        let sink = sink_of(&status, sink);
        assert_eq!(
            (&sink["connected"], &sink["delivered"]),
            (&Value::from(false), &Value::from(0)),
            "{sink}"
        );
        assert!(sink["last_error"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{sink}");
    }
    let sent = load.stop(BOUND).await;
    tokio::join!(trio.start_again("kafka"), trio.start_again("rabbitmq"), trio.start_again("jetstream"));
    assert_all_arrived(&relay, &place, &sent).await;
}

async fn a_frozen_broker_holds_up_nobody_else_and_catches_up(trio: &Arc<Trio>) {
    for frozen in SINKS {
        let place = Place::new(trio, &format!("frozen-{frozen}")).await;
        let relay = Relay::start(&place.config(&Addresses::direct(trio))).await;
        let load = Load::start(&relay.events_url(), SENDERS, 100);
        load.more(50, BOUND).await;
        at_work(&relay, frozen).await;
        let freeze = trio.freeze(frozen);
        // Longer than its timeout: it counts as failed, and was tried again since.
        let failed = |status: &Value| sink_of(status, frozen)["failures"].as_u64() > Some(1);
        relay.status_when(&format!("{frozen} has failed"), BOUND, failed).await;
        let stuck = sink_of(&relay.status().await, frozen)["position"].clone();
        load.more(50, BOUND).await;
        let sent = load.stop(BOUND).await;
        let others: Vec<_> = SINKS.into_iter().filter(|&sink| sink != frozen).collect();
        let status = delivered(&relay, &others, BOUND).await;
        assert_eq!(sink_of(&status, frozen)["position"], stuck, "{frozen} is still frozen");
        assert!(sink_of(&status, frozen)["lag_events"].as_u64() >= Some(50), "{status}");
        for sink in &others {
            assert_arrived(sink, &sent, &place.arrived(sink, &["events"], BOUND).await);
        }
        drop(freeze);
        delivered(&relay, &SINKS, BOUND).await;
        assert_arrived(frozen, &sent, &place.arrived(frozen, &["events"], BOUND).await);
    }
}

async fn connections_that_are_cut_in_mid_flow_lose_nothing(trio: &Arc<Trio>) {
    let place = Place::new(trio, "cut").await;
    let rabbitmq = Proxy::start(&trio.rabbitmq.address()).await;
    let nats = Proxy::start(trio.nats.address()).await;
    let proxies = [trio.kafka.proxy(), &rabbitmq, &nats];
    let relay = Relay::start(&place.config(&Addresses::proxied(trio, &rabbitmq, &nats))).await;
    let load = Load::start(&relay.events_url(), SENDERS, 500);
    for round in 0..4 {
        // In the middle of a message; every second time in the middle of a few.
        let before = proxies.map(|proxy| proxy.bytes().0);
        proxies.iter().for_each(|proxy| proxy.cut_after(700 + round % 2 * 5_000));
        let delivered = |status: &Value| SINKS.map(|sink| sink_of(status, sink)["delivered"].as_u64());
        let earlier = delivered(&relay.status().await);
        let what = format!("every sink is cut off and delivers again, round {round}");
        let both = relay.status_when(&what, BOUND, |status| {
            let sent_on = proxies.iter().zip(before).all(|(proxy, before)| proxy.bytes().0 > before + 6_000);
            let again = delivered(status).iter().zip(earlier).all(|(now, earlier)| *now > earlier);
            sent_on && again && SINKS.iter().all(|sink| sink_of(status, sink)["connected"] == true)
        });
        both.await;
    }
    let sent = load.stop(BOUND).await;
    for proxy in proxies {
        assert!(proxy.accepted() >= 5, "each cut made a new connection: {}", proxy.accepted());
    }
    assert_all_arrived(&relay, &place, &sent).await;
}

async fn a_stop_under_load_loses_nothing(trio: &Arc<Trio>) {
    let place = Place::new(trio, "stop").await;
    let relay = Relay::start(&place.config(&Addresses::direct(trio))).await;
    let load = Load::start(&relay.events_url(), SENDERS, 100);
    for _ in 0..2 {
        load.more(100, BOUND).await;
        let begun = Instant::now();
        assert_eq!(relay.terminate().await, Some(0), "the exit code");
        // Nothing keeps it: far less than its `drain_timeout` of 20 s.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        relay.restart().await;
    }
    assert!(load.repeated() > 0, "the stops came under load");
    let sent = load.stop(BOUND).await;
    assert_all_arrived(&relay, &place, &sent).await;
}

async fn a_stop_with_a_frozen_broker_ends_at_the_deadline(trio: &Arc<Trio>) {
    for frozen in SINKS {
        let place = Place::new(trio, &format!("deadline-{frozen}")).await;
        // The sinks would wait for much longer than the relay may take to stop.
        let config = format!(
            "journal: {{ path: \"@DIR@/journal\", max_size: 256MiB, drain_timeout: 2s }}\n{}routes:\n  - to: [{}]\n",
            place.sinks(&Addresses::direct(trio), "events", &["timeout: 30s", "backoff: 100ms"]),
            SINKS.join(", ")
        );
        let relay = Relay::start(&config).await;
        let load = Load::start(&relay.events_url(), SENDERS, 100);
        load.more(50, BOUND).await;
        at_work(&relay, frozen).await;
        let freeze = trio.freeze(frozen);
        load.more(50, BOUND).await;
        let waits = |status: &Value| sink_of(status, frozen)["in_flight"].as_u64() > Some(0);
        relay.status_when(&format!("{frozen} has events in flight"), BOUND, waits).await;
        let begun = Instant::now();
        assert_eq!(relay.terminate().await, Some(0), "the exit code with {frozen} frozen");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?} with {frozen} frozen and a drain_timeout of 2 s");
        drop(freeze);
        relay.restart().await;
        let sent = load.stop(BOUND).await;
        assert_all_arrived(&relay, &place, &sent).await;
    }
}

async fn a_full_journal_names_the_sink_and_recovers(trio: &Arc<Trio>) {
    let place = Place::new(trio, "full").await;
    let config = format!(
        "receiver: {{ listen: \"@RECEIVER@\", body_max: 1MiB }}\n\
         journal: {{ path: \"@DIR@/journal\", max_size: 4MiB, segment_size: 1MiB, retention: 0s }}\n{}",
        place.config(&Addresses::direct(trio))
    );
    let relay = Relay::start(&config).await;
    trio.kill("jetstream");
    let mut sent = Vec::new();
    let refusal = loop {
        assert!(sent.len() < 200, "a journal of 4 MiB has taken {} events of 100 kB", sent.len());
        let event = Sent::new("team/app", 100_000);
        let answer = relay.post(event.envelope()).await;
        match answer.status {
            202 => sent.push(event),
            _ => break answer,
        }
    };
    assert!(sent.len() >= 20, "most of 4 MiB is for events: {}", sent.len());
    let problem = refusal.json();
    assert_eq!((refusal.status, &problem["sink"]), (503, &Value::from("jetstream")), "{problem}");
    assert_eq!(problem["type"], "urn:relay:problem:journal-full", "{problem}");
    let ready = relay.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("jetstream"), "{}", ready.body);
    // The others have what was taken.
    delivered(&relay, &["kafka", "rabbitmq"], BOUND).await;
    assert!(!is_delivered(&relay.status().await, &["jetstream"]));

    trio.start_again("jetstream").await;
    delivered(&relay, &SINKS, BOUND).await;
    let what = "a registry's next try is taken";
    let event = Sent::new("team/app", 100_000);
    support::process::eventually(what, BOUND, async || {
        (relay.post(event.envelope()).await.status == 202).then_some(())
    })
    .await;
    sent.push(event);
    relay.wait_ready().await;
    assert_all_arrived(&relay, &place, &sent).await;
}

/// A relay that is to end by itself: its exit code, and what it said.
async fn end_of(config: &str) -> (Option<i32>, String) {
    let folder = Folder::new("relay");
    let file = folder.write("relay.yml", config);
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(["serve", "-c"]).arg(file).current_dir(folder.path());
    let mut relay = Proc::spawn("relay", command, &folder.join("log"));
    let status = relay.wait(BOUND).await;
    (status.code(), relay.log())
}

async fn a_second_relay_is_refused() {
    let relay = Relay::start("sinks: [{ name: out, stream: {} }]\n").await;
    let journal = relay.path("journal");
    let [receiver, admin] = free_ports();
    let second = format!(
        "receiver: {{ listen: 127.0.0.1:{receiver} }}\nadmin: {{ listen: 127.0.0.1:{admin} }}\n\
         journal: {{ path: {:?} }}\nsinks: [{{ name: out, stream: {{}} }}]\n",
        journal.display().to_string()
    );
    let (code, said) = end_of(&second).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another relay runs on the journal"), "{said}");
    assert!(said.contains(journal.to_str().expect("UTF-8")), "it names the folder: {said}");
    assert_eq!(relay.post(Sent::new("team/app", 0).envelope()).await.status, 202, "the first goes on");
}

async fn a_bad_configuration_ends_it() {
    // The ports are taken: if it bound before it read, it would say so.
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bind"));
    let [receiver, admin] = taken.each_ref().map(|taken| taken.local_addr().expect("an address"));
    let folder = Folder::new("journal");
    let config = format!(
        "receiver: {{ listen: \"{receiver}\" }}\nadmin: {{ listen: \"{admin}\" }}\n\
         journal: {{ path: \"{}/data\" }}\n\
         sinks:\n  - name: bus\n    kafka: {{ brokres: \"127.0.0.1:9092\" }}\n\
         routes:\n  - to: [bsu]\n",
        folder.path().display()
    );
    let (code, said) = end_of(&config).await;
    assert_eq!(code, Some(78), "{said}");
    for part in ["brokres", "bsu", ":6:", ":8:"] {
        assert!(said.contains(part), "{part} in: {said}");
    }
    assert!(!folder.join("data").exists(), "a journal was begun");
    // The same, mended: now the ports matter.
    let (code, said) = end_of(&config.replace("brokres", "brokers").replace("bsu", "bus")).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&receiver.to_string()), "{said}");
}
