//! A broker as the contract's destination.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay::sinks::rabbitmq::RabbitMqOptions;
use relay::sinks::{Context, Fault, Message, Options as _, Sink};

use crate::support::contract::{self, Destination, Received, Variant, WRONG_SECRET};
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::{Delivery, RabbitMq};
use crate::support::unique;

/// The broker's `max_message_size`, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 200_000;
pub const TIMEOUT: Duration = Duration::from_secs(3);
pub const BOUND: Duration = Duration::from_secs(30);
pub const EXCHANGE: &str = "contract";

pub fn sink(yaml: &str) -> Box<dyn Sink> {
    let options: RabbitMqOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options.build(Context { name: "bus".into(), timeout: TIMEOUT, literal_topics: Vec::new() })
}

/// A broker, and what was taken out of its queues so far: RabbitMQ forgets what it has handed out.
pub struct Broker {
    pub rabbit: Arc<RabbitMq>,
    uri: String,
    queues: Mutex<HashMap<String, (String, Vec<Received>)>>,
}

impl Broker {
    pub fn new(rabbit: Arc<RabbitMq>) -> Self {
        Self { uri: rabbit.amqp_uri().to_owned(), rabbit, queues: Mutex::default() }
    }

    /// The same broker as another user.
    pub fn by(&self, uri: &str) -> Self {
        let queues = Mutex::new(self.queues.lock().expect("queues").clone());
        Self { rabbit: Arc::clone(&self.rabbit), uri: uri.to_owned(), queues }
    }

    /// The same broker by way of a proxy.
    pub fn by_proxy(&self, proxy: &Proxy) -> Self {
        self.by(&format!("amqp://guest:guest@{}/%2f", proxy.address()))
    }

    pub fn sink_with(&self, more: &str) -> Box<dyn Sink> {
        sink(&format!("{{uri: '{}', exchange: {{name: {EXCHANGE}}}{more}}}", self.uri))
    }

    pub async fn bind(&self, topic: &str) {
        self.rabbit.declare_exchange(EXCHANGE, lapin::ExchangeKind::Topic).await;
        let queue = self.rabbit.declare_queue_bound(EXCHANGE, topic).await;
        self.queues.lock().expect("queues").insert(topic.to_owned(), (queue, Vec::new()));
    }

    /// The queue that has the messages of a topic.
    pub fn queue(&self, topic: &str) -> String {
        self.queues.lock().expect("queues").get(topic).expect(topic).0.clone()
    }

    /// Everything arrives, in order but for copies that bear the same id.
    pub async fn all_arrive(&self, topic: &str, sent: &[Message]) {
        contract::check(sent, &contract::arrived(self, topic, sent).await);
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
    /// Mnesia writes down what was declared up to two seconds later. A binding that is gone makes every
    /// message behind it unroutable, which is not what the kill is to show.
    async fn keep_topics(&self) {
        self.rabbit.ctl(&["eval", "mnesia:sync_log()."]).await;
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

/// That the sink cannot even connect, and why.
pub async fn fault_at_connecting(yaml: &str) -> Fault {
    sink(yaml).connect().await.expect_err("must be refused")
}
