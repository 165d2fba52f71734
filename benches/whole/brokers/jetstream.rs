//! NATS JetStream with a file store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::context::PublishAckFuture;
use futures_util::StreamExt;
use relay::event::Event;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Broker, Destination, Publisher};
use crate::rig::rate;
use crate::support::nats::{Nats, Options};

/// How many messages the reference has in flight.
const WINDOW: usize = 1024;

pub struct JetStream {
    server: Nats,
}

impl JetStream {
    /// `syncs`: it confirms a message only once that is on disk.
    pub async fn start(syncs: bool) -> Self {
        Self { server: Nats::start(Options { own: true, syncs, ..Default::default() }).await }
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }
}

impl Destination for JetStream {
    async fn prepare(&self, place: &str) {
        self.server.create_stream(place, &[&format!("{place}.>")]).await;
    }

    fn sink(&self, place: &str) -> String {
        format!(
            "nats: {{ servers: \"{}\", jetstream: {{}} }}\n    topic: \"{place}.{{action}}\"",
            self.server.url()
        )
    }

    async fn publish(&self, place: &str, events: Arc<Vec<Event>>) -> f64 {
        let context = self.server.jetstream().await;
        let mut acks = VecDeque::with_capacity(WINDOW);
        let began = Instant::now();
        for event in events.iter() {
            acks.push_back(publish(&context, place, event).await);
            if acks.len() == WINDOW {
                acks.pop_front().expect("a full window").await.expect("stored");
            }
        }
        for ack in acks {
            ack.await.expect("stored");
        }
        rate(events.len() as u64, began.elapsed())
    }

    async fn count(&self, place: &str) -> u64 {
        self.server.count(place).await
    }

    async fn remove(&self, place: &str) {
        self.server.jetstream().await.delete_stream(place).await.expect("delete a stream");
    }
}

impl Broker for JetStream {
    fn peer_output(&self, place: &str) -> String {
        let url = self.server.url();
        format!("{{ nats: {{ url: \"{url}\", subject: \"{place}.peer\", stream: {place} }} }}")
    }

    type Publisher = One;

    async fn publisher(&self, place: &str) -> One {
        One { context: self.server.jetstream().await, place: place.to_owned() }
    }

    async fn arrivals(&self, place: &str) -> UnboundedReceiver<Instant> {
        let stream = self.server.jetstream().await.get_stream(place).await.expect("the stream");
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("messages");
        let (arrived, arrivals) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(_)) = messages.next().await {
                if arrived.send(Instant::now()).is_err() {
                    return; // nobody listens any more
                }
            }
        });
        arrivals
    }
}

pub struct One {
    context: Context,
    place: String,
}

impl Publisher for One {
    async fn publish(&mut self, event: Event) {
        publish(&self.context, &self.place, &event).await.await.expect("stored");
    }
}

async fn publish(context: &Context, place: &str, event: &Event) -> PublishAckFuture {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    headers.insert("id", event.id());
    headers.insert("Nats-Msg-Id", event.id());
    let subject = format!("{place}.{}", event.action());
    let ack = context.publish_with_headers(subject, headers, event.raw().clone()).await;
    ack.expect("published")
}
