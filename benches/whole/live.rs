//! Live: from the first byte of a registry's POST until a consumer at the broker has the event.
//!
//! One event at a time, so that what is measured is the way and not the crowd on it. The reference's
//! way is the bare handler's answer and then the same publish made directly, by the same client
//! library with the same settings.

use std::time::{Duration, Instant};

use relay::event::{Envelope, Event};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::brokers::{Broker, Publisher};
use crate::handler::Handler;
use crate::load;
use crate::measure::{Aim, Row, Unit, quantile};
use crate::rig::{Bench, blocking, receiver};
use crate::support::relay::Relay;
use crate::support::unique;

pub async fn kafka(bench: &Bench) -> Vec<Row> {
    measure(bench, bench.kafka().await, "Kafka").await
}

pub async fn jetstream(bench: &Bench) -> Vec<Row> {
    measure(bench, bench.jetstream().await, "JetStream").await
}

pub async fn rabbitmq(bench: &Bench) -> Vec<Row> {
    measure(bench, bench.rabbitmq().await, "RabbitMQ").await
}

async fn measure<B: Broker>(bench: &Bench, broker: &B, name: &str) -> Vec<Row> {
    let [relayed, direct] = ["relayed", "direct"].map(unique);
    broker.prepare(&relayed).await;
    broker.prepare(&direct).await;
    let sink = broker.sink(&relayed);
    let config = format!("sinks:\n  - name: bus\n    {sink}\nroutes:\n  - name: all\n    to: [bus]\n");
    let relay = Relay::start(&config).await;
    let handler = Handler::start().await;
    let mut arrivals = (broker.arrivals(&relayed).await, broker.arrivals(&direct).await);
    let mut publisher = broker.publisher(&direct).await;
    let mut rows = ["p50", "p99"].map(|part| {
        let what = format!("live: from the POST's first byte to {name}'s consumer, {part}");
        let reference = "the bare handler's answer, then the same publish made directly";
        Row::new(&what, reference, Unit::Microseconds, Aim::AtMost(1.3))
    });
    // The first round warms both ways up: connections, consumers, a JVM.
    for round in 0..=bench.rounds {
        let events = bench.count(2_000);
        let to = receiver(&relay);
        let (times, back) = blocking(move || {
            let times = sample(to, events, &mut arrivals.0, |_| ());
            (times, arrivals)
        })
        .await;
        arrivals = back;
        let (to, runtime) = (handler.address, Handle::current());
        let (direct_times, back, publisher_back) = blocking(move || {
            let publish = |event: Event| runtime.block_on(publisher.publish(event));
            let times = sample(to, events, &mut arrivals.1, publish);
            (times, arrivals, publisher)
        })
        .await;
        (arrivals, publisher) = (back, publisher_back);
        if round > 0 {
            rows[0].add(quantile(&times, 0.5), quantile(&direct_times, 0.5));
            rows[1].add(quantile(&times, 0.99), quantile(&direct_times, 0.99));
        }
    }
    broker.remove(&relayed).await;
    broker.remove(&direct).await;
    rows.into()
}

/// Sends `count` events, one at a time; gives each one's time in microseconds. `then` does what is to be
/// done once the event is answered.
fn sample(
    to: std::net::SocketAddr,
    count: u64,
    arrivals: &mut UnboundedReceiver<Instant>,
    mut then: impl FnMut(Event),
) -> Vec<f64> {
    let generator = load::sample();
    let mut stream = load::connect(to);
    load::fresh(count)
        .map(|number| {
            let body = generator.envelope([number]);
            let request = load::request(&body);
            let event = Envelope::parse(&body.into()).expect("an envelope").events.remove(0);
            let began = Instant::now();
            load::exchange(&mut stream, &request);
            then(event);
            let arrived = arrivals.blocking_recv().expect("a consumer");
            arrived.saturating_duration_since(began).max(Duration::from_nanos(1)).as_secs_f64() * 1e6
        })
        .collect()
}
