//! A cluster of three with servers missing: a stream without its leader looks to a publisher as if there
//! were none, and must not be taken for that.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, ErrorCode, context::GetStreamErrorKind, stream};
use relay::sinks::{Fault, FaultKind};

use crate::{
    answers, fault, sink,
    support::{
        contract::{BOUND, Driver, messages},
        nats::{Nats, cluster::Cluster},
        process::eventually,
        suite::Suite,
        unique,
    },
};

pub fn register(suite: &mut Suite) {
    for configured in [true, false] {
        let name = format!("cluster::a_stream_offline_is_waited_for::configured={configured}");
        suite.test(&name, async move || a_stream_offline_is_waited_for(configured).await);
        let name = format!("cluster::a_lost_quorum_is_waited_for::configured={configured}");
        suite.test(&name, async move || a_lost_quorum_is_waited_for(configured).await);
    }
    suite.test("cluster::an_id_in_process_is_busy", an_id_in_process_is_busy);
}

async fn create(cluster: &Cluster, replicas: usize) -> (String, String) {
    let topic = unique("registry.push");
    let name = topic.replace('.', "-");
    let (subjects, num_replicas) = (vec![topic.clone()], replicas);
    let config = stream::Config { name: name.clone(), subjects, num_replicas, ..Default::default() };
    cluster.any().create_stream_with(config).await;
    (topic, name)
}

/// Waits until the cluster itself gives this answer to the question for a stream.
async fn answers_with(jetstream: &jetstream::Context, stream: &str, code: ErrorCode) {
    eventually(&format!("{code:?} for {stream}"), BOUND, async || {
        let error = jetstream.get_stream(stream).await.err()?;
        matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == code)
            .then_some(())
    })
    .await;
}

/// Delivers everything; nothing is a dead letter, nobody is told to mend a configuration, and all is in
/// the stream once, in order.
async fn finishes_in_order(mut driver: Driver, nats: &Nats, stream: &str, ids: Vec<String>) {
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
    let refused = driver.outcome.faults.iter().find(|fault| fault.kind == FaultKind::Refused);
    assert_eq!(refused, None);
    let there = nats.consume_stream(stream, ids.len(), BOUND).await;
    let found: Vec<_> = there.iter().map(|message| message.header("id").expect("an id").to_owned()).collect();
    assert_eq!(found, ids);
    assert_eq!(nats.count(stream).await, ids.len() as u64);
}

/// The one server that has the stream is down. While somebody connects anew, and while somebody is
/// connected, it is the stream that is waited for.
async fn a_stream_offline_is_waited_for(configured: bool) {
    let cluster = Cluster::start().await;
    let (topic, name) = create(&cluster, 1).await;
    let home = cluster.leader_of(&name).await;
    let [near, _] = cluster.others(home);
    let stream = if configured { format!("{{stream: {name}}}") } else { "{}".to_owned() };
    let yaml = format!("{{servers: '{}', jetstream: {stream}}}", near.url());
    let sent = messages(&topic, 100);
    let ids = sent.iter().map(|message| message.id.clone()).collect();
    let mut driver = Driver::new(sink(&yaml), sent);
    driver.connect().await.expect("connect");
    driver.send_batch().await.expect("send");
    driver.settle().await.expect("a whole cluster");
    home.stop().await;
    answers_with(&near.jetstream().await, &name, ErrorCode::STREAM_OFFLINE).await;
    driver.fill().await.expect("send");
    let offline = busy(&mut driver).await;
    if configured {
        assert!(offline.text.contains("10118"), "{offline}");
        let anew = sink(&yaml).connect().await.expect_err("the stream is offline");
        assert_eq!(anew.kind, FaultKind::Disconnected, "{anew}");
    }
    driver.faulted(offline).await;
    home.start_again().await;
    finishes_in_order(driver, near, &name, ids).await;
}

/// Two of three are down: neither the stream nor JetStream itself has a leader.
async fn a_lost_quorum_is_waited_for(configured: bool) {
    let cluster = Cluster::start().await;
    let (topic, name) = create(&cluster, 3).await;
    let near = cluster.leader_of(&name).await;
    let others = cluster.others(near);
    let stream = if configured { format!("{{stream: {name}}}") } else { "{}".to_owned() };
    let yaml = format!("{{servers: '{}', jetstream: {stream}}}", near.url());
    let sent = messages(&topic, 100);
    let ids = sent.iter().map(|message| message.id.clone()).collect();
    let mut driver = Driver::new(sink(&yaml), sent);
    driver.connect().await.expect("connect");
    driver.send_batch().await.expect("send");
    driver.settle().await.expect("a whole cluster");
    for other in others {
        other.stop().await;
    }
    let jetstream = near.jetstream().await;
    answers_with(&jetstream, "none", ErrorCode::CLUSTER_NOT_AVAILABLE).await;
    eventually("the leader to step down", BOUND, async || {
        let stream = jetstream.get_stream(&name).await.ok()?;
        stream.cached_info().cluster.clone()?.leader.is_none().then_some(())
    })
    .await;
    let missing =
        format!("{{servers: '{}', jetstream: {{stream: none, create: {{subjects: [none]}}}}}}", near.url());
    let anew = sink(&missing).connect().await.expect_err("nobody can say whether it is there");
    assert_eq!(anew.kind, FaultKind::Disconnected, "{anew}");
    driver.fill().await.expect("send");
    let leaderless = busy(&mut driver).await;
    // JetStream says that the stream is there; asked for the stream of a subject, it says nothing.
    let says = if configured { "does not answer" } else { "temporarily unavailable" };
    assert!(leaderless.text.contains(says), "{leaderless}");
    driver.faulted(leaderless).await;
    for other in others {
        other.start_again().await;
    }
    finishes_in_order(driver, near, &name, ids).await;
}

/// The first fault that says busy. What went to a server that was about to end gets no answer at all, and
/// what follows gets one.
async fn busy(driver: &mut Driver) -> Fault {
    let deadline = Instant::now() + BOUND;
    loop {
        assert!(Instant::now() < deadline, "{:?}", driver.outcome.faults);
        let fault = fault(driver).await;
        if matches!(fault.kind, FaultKind::Busy { .. }) {
            return fault;
        }
        driver.faulted(fault).await;
    }
}

/// A copy that comes while the first one still waits for the other replicas: neither stored nor known.
async fn an_id_in_process_is_busy() {
    let cluster = Cluster::start().await;
    let (topic, name) = create(&cluster, 3).await;
    let near = cluster.leader_of(&name).await;
    let others = cluster.others(near);
    let yaml = format!("{{servers: '{}', jetstream: {{stream: {name}}}}}", near.url());
    let mut sent = messages(&topic, 2);
    sent[1].dedup_id = sent[0].dedup_id.clone();
    let mut driver = Driver::new(sink(&yaml), sent).call_timeout(Duration::from_secs(10));
    driver.connect().await.expect("connect");
    others.iter().for_each(|other| other.freeze());
    let result = answers::meets(&mut driver, 10158).await;
    others.iter().for_each(|other| other.thaw());
    assert!(matches!(result.kind, FaultKind::Busy { .. }), "{result:?}");
    driver.faulted(result).await;
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
    assert_eq!(near.count(&name).await, 1);
}
