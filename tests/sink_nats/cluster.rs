//! A cluster of three with servers missing: a stream without its leader looks to a publisher as if there
//! were none, and must not be taken for that.

use std::time::Instant;

use async_nats::jetstream::{self, ErrorCode, context::GetStreamErrorKind, stream};
use relay::sinks::{Fault, FaultKind};

use crate::{
    fault, first_fault, sink,
    support::{
        contract::{BOUND, Driver, messages},
        nats::{Nats, cluster::Cluster},
        process::eventually,
        suite::Suite,
        unique,
    },
};

pub fn register(suite: &mut Suite) {
    suite.test("cluster::a_stream_offline_is_waited_for", a_stream_offline_is_waited_for);
    suite.test("cluster::a_lost_quorum_is_waited_for", a_lost_quorum_is_waited_for);
    suite.test("cluster::an_id_in_process_is_busy", an_id_in_process_is_busy);
}

async fn create(cluster: &Cluster, replicas: usize) -> (String, String) {
    let topic = unique("registry.push");
    let name = topic.replace('.', "-");
    let (subjects, num_replicas) = (vec![topic.clone()], replicas);
    let config = stream::Config { name: name.clone(), subjects, num_replicas, ..Default::default() };
    cluster.any().create_stream_soon(config).await;
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

/// Two sinks that are in the midst of their work: one for a configured stream, and one that leaves it to
/// JetStream which stream captures a subject.
async fn at_work(near: &Nats, topic: &str, stream: &str) -> [Driver; 2] {
    let mut all = messages(topic, 200);
    let rest = all.split_off(100);
    let connected = async |stream: &str, messages| {
        let yaml = format!("{{servers: '{}', jetstream: {{{stream}}}}}", near.url());
        let mut driver = Driver::new(sink(&yaml), messages);
        driver.connect().await.expect("connect");
        driver.send_batch().await.expect("send");
        driver.settle().await.expect("a whole cluster");
        driver
    };
    [connected(&format!("stream: {stream}"), all).await, connected("", rest).await]
}

/// Everything is delivered: nothing is a dead letter, nobody is told to mend a configuration, and all is
/// in the stream once, in each sink's order.
async fn finish_in_order(drivers: [Driver; 2], cluster: &Cluster, stream: &str) {
    let mut expected = Vec::new();
    for mut driver in drivers {
        driver.finish().await;
        assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
        let refused = driver.outcome.faults.iter().find(|fault| fault.kind == FaultKind::Refused);
        assert_eq!(refused, None);
        expected.push(driver.outcome.settled.iter().map(|message| message.id.clone()).collect::<Vec<_>>());
    }
    cluster.wait_ready().await;
    let nats = cluster.any();
    let there = nats.consume_stream(stream, 200, BOUND).await;
    let found: Vec<_> = there.iter().map(|message| message.header("id").expect("an id").to_owned()).collect();
    for ids in expected {
        assert_eq!(
            found.iter().filter(|id| ids.contains(id)).collect::<Vec<_>>(),
            ids.iter().collect::<Vec<_>>()
        );
    }
    assert_eq!(nats.count(stream).await, 200);
}

/// The one server that has the stream is down. Whether somebody was connected or connects anew, it is the
/// stream that is waited for.
async fn a_stream_offline_is_waited_for() {
    let cluster = Cluster::start().await;
    let (topic, name) = create(&cluster, 1).await;
    let home = cluster.leader_of(&name).await;
    let [near, _] = cluster.others(home);
    let mut drivers = at_work(near, &topic, &name).await;
    home.stop().await;
    answers_with(&near.jetstream().await, &name, ErrorCode::STREAM_OFFLINE).await;
    // JetStream says that the stream is there, and cannot be asked.
    for (driver, says) in drivers.iter_mut().zip(["10118", "does not answer"]) {
        driver.fill().await.expect("send");
        let offline = busy(driver).await;
        assert!(offline.text.contains(says), "{offline}");
        driver.faulted(offline).await;
    }
    let anew = format!("{{servers: '{}', jetstream: {{stream: {name}}}}}", near.url());
    let anew = sink(&anew).connect().await.expect_err("the stream is offline");
    assert_eq!(anew.kind, FaultKind::Disconnected, "{anew}");
    home.start_again().await;
    finish_in_order(drivers, &cluster, &name).await;
}

/// Two of three are down: neither the stream nor JetStream itself has a leader.
async fn a_lost_quorum_is_waited_for() {
    let cluster = Cluster::start().await;
    let (topic, name) = create(&cluster, 3).await;
    let near = cluster.leader_of(&name).await;
    let others = cluster.others(near);
    let mut drivers = at_work(near, &topic, &name).await;
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
    // JetStream says that the stream is there; asked which stream captures a subject, it says nothing.
    for (driver, says) in drivers.iter_mut().zip(["does not answer", "temporarily unavailable"]) {
        driver.fill().await.expect("send");
        let leaderless = busy(driver).await;
        assert!(leaderless.text.contains(says), "{leaderless}");
        driver.faulted(leaderless).await;
    }
    let missing = "stream: none, create: {subjects: [none]}";
    let missing = format!("{{servers: '{}', jetstream: {{{missing}}}}}", near.url());
    let anew = sink(&missing).connect().await.expect_err("nobody can say whether it is there");
    assert_eq!(anew.kind, FaultKind::Disconnected, "{anew}");
    for other in others {
        other.start_again().await;
    }
    finish_in_order(drivers, &cluster, &name).await;
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
    // On a busy machine the leader may change just before the others are frozen, and nobody answers; or they
    // are frozen too late, and both are stored.
    for attempt in 1..=5 {
        let near = cluster.leader_of(&name).await;
        let mut pair = messages(&topic, 2 * attempt).split_off(2 * attempt - 2);
        pair[1].dedup_id = pair[0].dedup_id.clone();
        let yaml = format!("{{servers: '{}', jetstream: {{stream: {name}}}}}", near.url());
        let mut driver = Driver::new(sink(&yaml), pair);
        driver.connect().await.expect("connect");
        let others = cluster.others(near);
        others.iter().for_each(|other| other.freeze());
        let fault = first_fault(&mut driver).await;
        others.iter().for_each(|other| other.thaw());
        let Some(fault) = fault else { continue };
        let is_in_process = fault.text.contains("error 10158");
        assert_ne!(fault.kind, FaultKind::Refused, "{fault}");
        assert!(!is_in_process || matches!(fault.kind, FaultKind::Busy { .. }), "{fault:?}");
        driver.faulted(fault).await;
        driver.finish().await;
        assert!(driver.outcome.rejected.is_empty(), "{:?}", driver.outcome.rejected);
        cluster.wait_ready().await;
        assert_eq!(near.count(&name).await, attempt as u64, "one of each pair");
        if is_in_process {
            return;
        }
    }
    panic!("nobody said that the id is in process");
}
