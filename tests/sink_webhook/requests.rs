//! What a request holds, which requests run beside each other, and how events are joined.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    envelopes,
    server::{Got, Server, status},
    sink,
    support::contract::Driver,
};

pub async fn the_request_is_a_registrys() {
    let server = Server::start(|_| status(200)).await;
    let mut message = envelopes(1).remove(0);
    message.headers = vec![("Authorization".into(), "Bearer t".to_owned())];
    message.id = "id with ümlaut\n".to_owned();
    let body = message.body.clone();
    let mut driver = Driver::new(sink(&format!("{{url: '{}'}}", server.url())), vec![message]);
    driver.finish().await;
    let got = server.taken().remove(0);
    assert_eq!((got.method.as_str(), got.path.as_str()), ("POST", "/events"));
    assert_eq!(got.body, body);
    assert_eq!(got.header("content-type"), Some("application/vnd.docker.distribution.events.v1+json"));
    assert_eq!(got.header("content-length"), Some(body.len().to_string().as_str()));
    assert_eq!(got.header("authorization"), Some("Bearer t"));
    assert_eq!(got.header("relay-id"), Some("id%20with%20%C3%BCmlaut%0A"));
    assert!(got.header("user-agent").is_some_and(|agent| agent.starts_with("relay/")));
}

pub async fn a_configured_content_type_wins() {
    let server = Server::start(|_| status(200)).await;
    let mut all = envelopes(1);
    all[0]
        .headers
        .push(("content-type".into(), "application/vnd.docker.distribution.events.v2+json".to_owned()));
    Driver::new(sink(&format!("{{url: '{}'}}", server.url())), all).finish().await;
    let types: Vec<_> =
        server.taken().remove(0).headers.into_iter().filter(|(name, _)| name == "content-type").collect();
    assert_eq!(types.len(), 1);
    assert_eq!(types[0].1, "application/vnd.docker.distribution.events.v2+json");
}

pub async fn one_lane_keeps_strict_order() {
    let server = Server::start(|_| status(200)).await;
    let sent = envelopes(300);
    Driver::new(sink(&format!("{{url: '{}'}}", server.url())), sent.clone()).finish().await;
    let ids: Vec<_> = server.taken().iter().flat_map(Got::event_ids).collect();
    assert_eq!(ids, sent.iter().map(|message| message.id.clone()).collect::<Vec<_>>());
}

pub async fn lanes_run_beside_each_other_and_keys_do_not() {
    // By key: how many are being answered, and whether it was ever more than one; by all, the most.
    #[derive(Default)]
    struct Seen {
        open: HashMap<String, usize>,
        most: usize,
        most_of_a_key: usize,
    }
    let seen = Arc::<Mutex<Seen>>::default();
    let counted = Arc::clone(&seen);
    // Blocks while it answers, so that requests meet; each on a thread of the runtime.
    let server = Server::start(move |got| {
        let json: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
        let key = json["events"][0]["target"]["repository"].to_string();
        let mut seen = counted.lock().expect("no panic");
        *seen.open.entry(key.clone()).or_default() += 1;
        seen.most = seen.most.max(seen.open.values().sum());
        seen.most_of_a_key = seen.most_of_a_key.max(seen.open[&key]);
        drop(seen);
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(2)));
        *counted.lock().expect("no panic").open.entry(key).or_default() -= 1;
        status(200)
    })
    .await;
    Driver::new(sink(&format!("{{url: '{}', concurrency: 8}}", server.url())), envelopes(200)).finish().await;
    let seen = seen.lock().expect("no panic");
    assert!(seen.most > 1, "never two at once");
    assert_eq!(seen.most_of_a_key, 1, "two of one key at once");
}

pub async fn envelopes_are_joined() {
    let server = Server::start(|_| status(200)).await;
    let sent = envelopes(230);
    let yaml = format!("{{url: '{}', batch: 100}}", server.url());
    let mut driver = Driver::new(sink(&yaml), sent.clone());
    driver.finish().await;
    let taken = server.taken();
    assert!(taken.len() < 10, "{} requests", taken.len());
    assert!(taken.iter().all(|got| got.event_ids().len() <= 100));
    let ids: Vec<_> = taken.iter().flat_map(Got::event_ids).collect();
    assert_eq!(ids, sent.iter().map(|message| message.id.clone()).collect::<Vec<_>>());
    let joined = taken.iter().find(|got| got.event_ids().len() > 1).expect("a batch");
    assert_eq!(joined.header("relay-id"), None);
}

pub async fn a_batch_that_is_rejected_is_taken_apart() {
    let server = Server::start(|got| {
        let bad = got.event_ids().iter().any(|id| id.ends_with("#17"));
        status(if bad { 422 } else { 200 })
    })
    .await;
    let sent = envelopes(60);
    let yaml = format!("{{url: '{}', batch: 20, reject: [422]}}", server.url());
    let mut driver = Driver::new(sink(&yaml), sent.clone());
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let rejected: Vec<_> =
        driver.outcome.rejected.iter().map(|(message, why)| (message.offset, why.code)).collect();
    assert_eq!(rejected, [(18, "rejected")]);
    let ids: Vec<_> = server.taken().iter().flat_map(Got::event_ids).collect();
    let expected: Vec<_> =
        sent.iter().map(|message| message.id.clone()).filter(|id| !id.ends_with("#17")).collect();
    assert_eq!(ids, expected);
}
