//! The contract's destinations: a server with JetStream, and one without.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use futures_util::StreamExt;
use relay::sinks::Sink;

use crate::{
    MAX_PAYLOAD, PASSWORD, received, server, sink,
    support::{
        self,
        contract::{Destination, Received, Variant, WRONG_SECRET},
        nats::Nats,
        process::eventually,
        proxy::{Direction, Mode, Proxy},
        unique,
    },
    user,
};

/// One server, and a stream of its own for each topic.
pub struct JetStream {
    pub nats: Nats,
}

impl JetStream {
    pub async fn start() -> Self {
        Self { nats: server(user(), &[]).await }
    }

    /// A topic's stream: names of streams have no dots.
    pub fn stream(topic: &str) -> String {
        topic.replace('.', "-")
    }

    pub fn yaml(&self, topic: &str, more: &str) -> String {
        format!(
            "{{servers: '{}', user: relay, password: {PASSWORD}, jetstream: {{stream: {}{more}}}}}",
            self.nats.url(),
            Self::stream(topic)
        )
    }
}

impl Destination for JetStream {
    async fn topic(&self) -> String {
        let topic = unique("registry.push");
        self.nats.create_stream(&Self::stream(&topic), &[&topic]).await;
        topic
    }

    fn sink(&self, topic: &str, variant: Variant) -> Box<dyn Sink> {
        let yaml = self.yaml(topic, "");
        sink(&match variant {
            Variant::Good => yaml,
            Variant::WrongCredentials => yaml.replace(PASSWORD, WRONG_SECRET),
            Variant::Missing => yaml.replace("{stream: ", "{stream: no-"),
        })
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let stream = Self::stream(topic);
        let count = count.max(self.nats.count(&stream).await as usize);
        self.nats.consume_stream(&stream, count, bound).await.iter().map(received).collect()
    }

    async fn stop(&self) {
        self.nats.stop().await;
    }

    async fn kill(&self) {
        self.nats.kill();
    }

    async fn start_again(&self) {
        self.nats.start_again().await;
    }

    fn freeze(&self) {
        self.nats.freeze();
    }

    fn thaw(&self) {
        self.nats.thaw();
    }

    fn too_large_bytes(&self) -> usize {
        MAX_PAYLOAD as usize
    }
}

/// One server, and a proxy before it: core NATS keeps nothing, so the subscribers stay connected while
/// the sink's own connection is cut and stalled.
pub struct Core {
    nats: Nats,
    proxy: Proxy,
    subscribers: tokio::sync::Mutex<HashMap<String, Subscriber>>,
}

struct Subscriber {
    client: async_nats::Client,
    subscription: async_nats::Subscriber,
    received: Vec<Received>,
}

impl Core {
    pub async fn start() -> Self {
        let nats = server(user(), &[]).await;
        let proxy = Proxy::start(nats.address()).await;
        Self { nats, proxy, subscribers: tokio::sync::Mutex::default() }
    }
}

impl Subscriber {
    /// Takes everything that the server has for us by now: what it had before it got our own mark.
    async fn catch_up(&mut self, topic: &str) -> usize {
        let mark = unique("mark");
        self.client.publish(topic.to_owned(), mark.clone().into()).await.expect("publish the mark");
        while let Some(message) = self.subscription.next().await {
            if message.headers.is_none() {
                if message.payload == mark {
                    break;
                }
                continue;
            }
            self.received.push(received(&support::nats::Received {
                subject: message.subject.to_string(),
                payload: message.payload.to_vec(),
                headers: message.headers.unwrap_or_default(),
                sequence: 0,
            }));
        }
        self.received.len()
    }
}

impl Destination for Core {
    async fn topic(&self) -> String {
        let topic = unique("registry.push");
        let client = self.nats.connect().await;
        let subscription = client.subscribe(topic.clone()).await.expect("subscribe");
        let mut subscriber = Subscriber { client, subscription, received: Vec::new() };
        subscriber.catch_up(&topic).await;
        self.subscribers.lock().await.insert(topic.clone(), subscriber);
        topic
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        let password = if variant == Variant::WrongCredentials { WRONG_SECRET } else { PASSWORD };
        let address = self.proxy.address();
        sink(&format!("{{servers: '{address}', user: relay, password: {password}, window: 300}}"))
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let mut subscribers = self.subscribers.lock().await;
        let subscriber = RefCell::new(subscribers.get_mut(topic).expect("a topic of ours"));
        let what = format!("{count} messages to {topic}");
        // One look at a time: the borrow never meets another.
        #[allow(clippy::await_holding_refcell_ref)]
        eventually(&what, bound, async || {
            (subscriber.borrow_mut().catch_up(topic).await >= count).then_some(())
        })
        .await;
        subscriber.into_inner().received.clone()
    }

    async fn stop(&self) {
        self.proxy.down();
    }

    async fn kill(&self) {
        self.proxy.down();
    }

    async fn start_again(&self) {
        self.proxy.pass();
    }

    fn freeze(&self) {
        self.proxy.set(Direction::Both, Mode::Stall);
    }

    fn thaw(&self) {
        self.proxy.pass();
    }

    fn too_large_bytes(&self) -> usize {
        MAX_PAYLOAD as usize
    }
}
