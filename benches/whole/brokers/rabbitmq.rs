//! RabbitMQ: persistent, mandatory, confirmed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ExchangeKind, PublisherConfirm};
use relay::event::Event;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Broker, Destination, Publisher};
use crate::rig::rate;
use crate::support::rabbitmq;

/// The best window that was found: 128 gives 0.79 of it, 1,024 0.88.
const WINDOW: usize = 8192;

pub struct RabbitMq {
    node: rabbitmq::RabbitMq,
    /// The queue of each place.
    queues: Mutex<std::collections::HashMap<String, String>>,
}

impl RabbitMq {
    pub async fn start() -> Self {
        let options = rabbitmq::Options { own: true, ..Default::default() };
        Self { node: rabbitmq::RabbitMq::start(options).await, queues: Mutex::default() }
    }

    async fn confirmed_channel(&self) -> (Connection, Channel) {
        let connection = self.node.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        (connection, channel)
    }

    fn queue(&self, place: &str) -> String {
        self.queues.lock().expect("no panic")[place].clone()
    }
}

impl Destination for RabbitMq {
    async fn prepare(&self, place: &str) {
        self.node.declare_exchange(place, ExchangeKind::Topic).await;
        let queue = self.node.declare_queue_bound(place, "#").await;
        self.queues.lock().expect("no panic").insert(place.to_owned(), queue);
    }

    fn sink(&self, place: &str) -> String {
        format!("rabbitmq: {{ uri: \"{}\", exchange: {{ name: {place} }} }}", self.node.amqp_uri())
    }

    async fn publish(&self, place: &str, events: Arc<Vec<Event>>) -> f64 {
        let (connection, channel) = self.confirmed_channel().await;
        let mut confirms = VecDeque::with_capacity(WINDOW);
        let began = Instant::now();
        for event in events.iter() {
            confirms.push_back(publish(&channel, place, event).await);
            if confirms.len() == WINDOW {
                let oldest = confirms.pop_front().expect("a full window");
                assert!(oldest.await.expect("confirmed").is_ack());
            }
        }
        for confirm in confirms {
            assert!(confirm.await.expect("confirmed").is_ack());
        }
        let rate = rate(events.len() as u64, began.elapsed());
        let _ = connection.close(200, "done".into()).await;
        rate
    }

    async fn count(&self, place: &str) -> u64 {
        let queue = self.queue(place);
        u64::from(self.node.depth(&queue).await)
    }

    async fn remove(&self, place: &str) {
        let queue = self.queue(place);
        let connection = self.node.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        deleted.expect("delete a queue");
        let _ = connection.close(200, "done".into()).await;
    }
}

impl Broker for RabbitMq {
    fn peer_output(&self, place: &str) -> String {
        let (uri, queue) = (self.node.amqp_uri(), self.queue(place));
        format!("{{ amqp: {{ url: \"{uri}\", queue: {queue} }} }}")
    }

    type Publisher = One;

    async fn publisher(&self, place: &str) -> One {
        let (connection, channel) = self.confirmed_channel().await;
        One { _connection: connection, channel, place: place.to_owned() }
    }

    async fn arrivals(&self, place: &str) -> UnboundedReceiver<Instant> {
        let queue = self.queue(place);
        let connection = self.node.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let tag = "bench".into();
        let consumer =
            channel.basic_consume(queue.as_str().into(), tag, options, FieldTable::default()).await;
        let mut consumer = consumer.expect("a consumer");
        let (arrived, arrivals) = unbounded_channel();
        tokio::spawn(async move {
            let _connection = connection; // the consumer ends with it
            while let Some(Ok(_)) = consumer.next().await {
                if arrived.send(Instant::now()).is_err() {
                    return; // nobody listens any more
                }
            }
        });
        arrivals
    }
}

pub struct One {
    _connection: Connection,
    channel: Channel,
    place: String,
}

impl Publisher for One {
    async fn publish(&mut self, event: Event) {
        let confirm = publish(&self.channel, &self.place, &event).await;
        assert!(confirm.await.expect("confirmed").is_ack());
    }
}

async fn publish(channel: &Channel, place: &str, event: &Event) -> PublisherConfirm {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default()
        .with_message_id(event.id().into())
        .with_type(event.action().into())
        .with_timestamp(1_790_000_000)
        .with_content_type("application/json".into())
        .with_app_id("relay".into())
        .with_delivery_mode(2)
        .with_headers(FieldTable::default());
    let key = format!("registry.{}", event.action());
    let confirm = channel.basic_publish(place.into(), key.into(), options, event.raw(), properties).await;
    confirm.expect("published")
}
