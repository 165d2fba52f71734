//! `kill -9` under load, again and again: nothing that was answered with 2xx is lost on the way to any
//! broker, and no repository's events change places.

mod support;

use std::{process::ExitCode, sync::Arc, time::Duration};

use support::{
    load::{Load, assert_arrived},
    relay::Relay,
    suite::Suite,
    trio::{Addresses, Place, SINKS, Trio, delivered, sink_of},
};

const BOUND: Duration = Duration::from_secs(60);
const SENDERS: usize = 4;
/// How many more events each round takes before the relay is killed: from the first moments after a
/// start, when no sink is connected, to a steady flow.
const ROUNDS: [u64; 10] = [200, 1, 120, 7, 350, 30, 2, 250, 60, 150];
/// Segments of about a hundred events: kills meet a journal that goes from one to the next.
const JOURNAL: &str = "journal: { path: \"@DIR@/journal\", max_size: 64MiB, segment_size: 128KiB }\n\
                       receiver: { listen: \"@RECEIVER@\", body_max: 128KiB }\n";

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let trio = Trio::shared();
    suite.test("ten_kills_under_load_lose_nothing", async move || ten_kills(&trio.get().await).await);
    suite.run()
}

async fn ten_kills(trio: &Arc<Trio>) {
    let place = Place::new(trio, "crash").await;
    let config = JOURNAL.to_owned() + &place.config(&Addresses::direct(trio));
    let relay = Relay::start(&config).await;
    let load = Load::start(&relay.events_url(), SENDERS, 300);
    for (round, more) in ROUNDS.into_iter().enumerate() {
        load.more(more, BOUND).await;
        // Every other round the kill comes while a sink is at it, each sink in turn.
        if round % 2 == 0 {
            let sink = SINKS[round / 2 % SINKS.len()];
            let at_work = |status: &serde_json::Value| {
                sink_of(status, sink)["delivered"].as_u64() > Some(0)
                    && sink_of(status, sink)["in_flight"].as_u64() > Some(0)
            };
            relay.status_when(&format!("{sink} delivers"), BOUND, at_work).await;
        }
        relay.kill_9();
        relay.restart().await;
    }
    assert!(load.repeated() >= ROUNDS.len() as u64, "the kills came under load");
    let sent = load.stop(BOUND).await;
    let status = delivered(&relay, &SINKS, BOUND).await;
    let segments = status["journal"]["segments"].as_u64();
    assert!(segments > Some(5), "the journal went through several segments: {segments:?}");
    // What was sent again because a kill took its answer away is there once, over every restart.
    assert_eq!(status["journal"]["next"], sent.len() + 1, "the journal holds each event once");
    for sink in SINKS {
        let arrived = place.arrived(sink, &["events"], BOUND).await;
        let repeated = assert_arrived(sink, &sent, &arrived);
        println!("{sink}: {} events, {repeated} repetitions", sent.len());
        // The stream's duplicate window is longer than this test.
        assert!(sink != "jetstream" || repeated == 0, "JetStream drops repetitions by their id");
    }
}
