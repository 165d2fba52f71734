//! The RabbitMQ sink against a real RabbitMQ: the contract, and each row of
//! `docs/failures/rabbitmq.md` that a broker can be made to give.

mod support;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay::sinks::rabbitmq::RabbitMqOptions;
use relay::sinks::{Context, Options as _, Sink};
use support::contract::{self, Destination, End, Received, Variant, WRONG_SECRET};
use support::rabbitmq::{Delivery, Options, RabbitMq};
use support::suite::{Shared, Suite};
use support::unique;

/// The broker's `max_message_size`, in bytes.
const MESSAGE_BYTES_MAX: usize = 200_000;
const TIMEOUT: Duration = Duration::from_secs(3);
const EXCHANGE: &str = "contract";

fn sink(yaml: &str) -> Box<dyn Sink> {
    let options: RabbitMqOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options.build(Context { name: "bus".into(), timeout: TIMEOUT, literal_topics: Vec::new() })
}

/// A broker, and what was taken out of its queues so far: RabbitMQ forgets what it has handed out.
struct Broker {
    rabbit: Arc<RabbitMq>,
    queues: Mutex<HashMap<String, (String, Vec<Received>)>>,
}

impl Broker {
    fn new(rabbit: Arc<RabbitMq>) -> Self {
        Self { rabbit, queues: Mutex::default() }
    }

    fn sink_with(&self, more: &str) -> Box<dyn Sink> {
        sink(&format!("{{uri: '{}', exchange: {{name: {EXCHANGE}}}{more}}}", self.rabbit.amqp_uri()))
    }

    async fn bind(&self, topic: &str) {
        self.rabbit.declare_exchange(EXCHANGE, lapin::ExchangeKind::Topic).await;
        let queue = self.rabbit.declare_queue_bound(EXCHANGE, topic).await;
        self.queues.lock().expect("queues").insert(topic.to_owned(), (queue, Vec::new()));
    }
}

fn received(delivery: Delivery) -> Received {
    let names: Vec<String> = match delivery.properties.headers() {
        Some(headers) => headers.inner().keys().map(ToString::to_string).collect(),
        None => Vec::new(),
    };
    Received {
        topic: delivery.routing_key.clone(),
        key: None,
        id: delivery.message_id().expect("an id").to_owned(),
        headers: names
            .into_iter()
            .filter_map(|name| delivery.header(&name).map(|value| (name, value)))
            .collect(),
        body: delivery.body,
    }
}

impl Destination for Broker {
    async fn topic(&self) -> String {
        let topic = unique("registry.push");
        self.bind(&topic).await;
        topic
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        match variant {
            Variant::Good => self.sink_with(", window: 500"),
            Variant::WrongCredentials => {
                let uri = self.rabbit.amqp_uri_as("guest", WRONG_SECRET);
                sink(&format!("{{uri: '{uri}', exchange: {{name: {EXCHANGE}}}}}"))
            }
            Variant::Missing => {
                let uri = self.rabbit.amqp_uri();
                sink(&format!("{{uri: '{uri}', exchange: {{name: nowhere, declare: false}}}}"))
            }
        }
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let end = Instant::now() + bound;
        let (queue, mut all) = self.queues.lock().expect("queues").get(topic).expect(topic).clone();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let waiting = self.rabbit.depth(&queue).await as usize;
            let wanted = waiting.max(count.saturating_sub(all.len()));
            if wanted == 0 {
                break;
            }
            all.extend(self.rabbit.consume(&queue, wanted, left).await.into_iter().map(received));
        }
        self.queues.lock().expect("queues").insert(topic.to_owned(), (queue, all.clone()));
        all
    }

    async fn stop(&self) {
        self.rabbit.stop().await;
    }
    async fn kill(&self) {
        self.rabbit.kill();
    }
    async fn start_again(&self) {
        self.rabbit.start_again().await;
    }
    fn freeze(&self) {
        self.rabbit.freeze();
    }
    fn thaw(&self) {
        self.rabbit.thaw();
    }
    fn too_large_bytes(&self) -> usize {
        MESSAGE_BYTES_MAX + 1
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let rabbit = Shared::new(|| {
        let config = vec![format!("max_message_size = {MESSAGE_BYTES_MAX}")];
        RabbitMq::start(Options { own: true, tls: true, config })
    });
    macro_rules! tests {
        ($($name:ident: $body:path;)*) => {$(
            let shared = rabbit.clone();
            suite.test(stringify!($name), async move || $body(&Broker::new(shared.get().await)).await);
        )*};
    }
    tests! {
        keeps_order: contract::keeps_order;
        confirms_what_is_there: contract::confirms_what_is_there;
        settle_is_cancel_safe: contract::settle_is_cancel_safe;
        closes_in_mid_batch: contract::closes_in_mid_batch;
        rejects_too_large: contract::rejects_too_large;
        rejects_unroutable: rejects_unroutable;
        refuses_wrong_credentials: contract::refuses_wrong_credentials;
        refuses_a_missing_exchange: contract::refuses_missing;
        survives_freeze: contract::survives_freeze;
        survives_stop: survives_stop;
        survives_kill: survives_kill;
    }
    suite.run()
}

async fn rejects_unroutable(broker: &Broker) {
    contract::rejects_unknown_topic(broker, &unique("nowhere"), "unroutable").await;
}

async fn survives_stop(broker: &Broker) {
    contract::survives_restart(broker, End::Stopped).await;
}

async fn survives_kill(broker: &Broker) {
    contract::survives_restart(broker, End::Killed).await;
}
