//! The Kafka sink: one idempotent librdkafka producer, a ring of confirmations, and a verdict for
//! every error code.
//!
//! librdkafka has a thread of its own for each broker, retries within the sink's `timeout` and keeps
//! the order within a partition while it does (idempotence). What it gives up on comes back as a
//! [`Fault`](crate::sinks::Fault): the producer is thrown away with all that it holds, and the
//! worker's next attempt begins with a new one. So a record is never confirmed by one producer and
//! counted for another: each has a [`Confirmations`](confirmations::Confirmations) of its own.

mod aside;
mod client;
mod confirmations;
mod isolation;
mod options;
mod producer;
mod topics;
mod verdict;

use async_trait::async_trait;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::types::RDKafkaErrorCode;

use self::client::Batching;
use self::confirmations::{Outcome, Trouble};
use self::isolation::Isolation;
pub use self::options::{Acks, Compression, CreateTopics, KafkaOptions, Mechanism, Sasl, Tls};
use self::producer::Connection;
use self::topics::Topics;
use super::{Context, Fault, Message, Rejection, Settled, Sink};

pub struct KafkaSink {
    options: KafkaOptions,
    context: Context,
    topics: Option<Topics>,
    connection: Option<Connection>,
    isolation: Isolation,
    /// The suspects are cleared, and the producer still makes batches of one.
    isolated_producer: bool,
}

impl KafkaSink {
    pub(super) fn new(options: KafkaOptions, context: Context) -> Self {
        let isolation = Isolation::new(options.batch_max.0);
        Self { options, context, topics: None, connection: None, isolation, isolated_producer: false }
    }

    fn batching(&self) -> Batching {
        Batching { bytes_max: self.isolation.batch_max(), single: self.isolation.active() }
    }

    async fn try_send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        if self.isolated_producer {
            self.end_isolation().await?;
        }
        for message in batch {
            if let Some(topics) = &mut self.topics {
                topics.ensure(&message.topic).await?;
            }
            while let Err(trouble) = self.publish(message).await {
                match trouble {
                    Trouble::Fault(fault) => return Err(fault),
                    Trouble::Batch(why) => self.isolate(&why).await?,
                }
            }
        }
        Ok(())
    }

    /// Hands one record to librdkafka, which copies it; waits while its buffer is full.
    async fn publish(&self, message: &Message) -> Result<(), Trouble> {
        let connection = self.connection()?;
        let confirmations = &connection.confirmations;
        let millis = message.arrived / 1000;
        if let Some(rejection) = oversize(message, self.options.message_max.0) {
            confirmations.resolve(confirmations.begin(millis)?, Outcome::Rejected(rejection));
            return Ok(());
        }
        let mut room = None;
        loop {
            let number = confirmations.begin(millis)?;
            match connection.producer().send(record(message, number, millis)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    confirmations.unbegin();
                    // Listened for before another try, so that no room made in between is missed.
                    match room.take() {
                        Some(room) => room.await,
                        None => room = Some(confirmations.listen()),
                    }
                }
                Err((error, _)) => return connection.not_taken(number, &error),
            }
        }
    }

    async fn try_settle(&mut self) -> Result<Settled, Fault> {
        loop {
            match self.connection()?.confirmations.settle().await {
                Ok(settled) => {
                    self.isolated_producer |= self.isolation.settled(&settled);
                    return Ok(settled);
                }
                Err(Trouble::Fault(fault)) => return Err(fault),
                Err(Trouble::Batch(why)) => self.isolate(&why).await?,
            }
        }
    }

    /// After a refused batch: takes back what is not confirmed and sends it in batches of one. Can be
    /// cancelled while it waits, and begins anew then.
    async fn isolate(&mut self, why: &Rejection) -> Result<(), Fault> {
        let connection = self.connection()?;
        connection.purge();
        connection.confirmations.landed().await?;
        let in_flight = connection.confirmations.len();
        tracing::debug!(in_flight, reason = why.text, "a batch was refused; sending its records one by one");
        self.isolation.begin(in_flight, why.code == "too_large");
        self.replace_producer()?;
        let connection = self.connection()?;
        for (number, record) in connection.confirmations.take_back() {
            connection.publish_again(number, record)?;
        }
        Ok(())
    }

    /// Back to whole batches, once the records that went out alone are all back: two producers at the
    /// same time would overtake each other.
    async fn end_isolation(&mut self) -> Result<(), Fault> {
        self.connection()?.confirmations.landed().await?;
        self.isolated_producer = false;
        self.replace_producer()
    }

    fn replace_producer(&mut self) -> Result<(), Fault> {
        let batching = self.batching();
        let config = self.options.client_config(self.context.timeout, batching);
        match &mut self.connection {
            Some(connection) => connection.replace(&config, batching),
            None => Err(not_connected()),
        }
    }

    /// After a fault all that is in flight is forgotten, with the producer that holds it. Answers the fault
    /// at the root of it.
    fn give_up(&mut self, fault: Fault) -> Fault {
        self.connection.take().and_then(|connection| connection.fatal()).unwrap_or(fault)
    }

    fn connection(&self) -> Result<&Connection, Fault> {
        self.connection.as_ref().ok_or_else(not_connected)
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn connect(&mut self) -> Result<(), Fault> {
        self.connection = None;
        let batching = self.batching();
        let config = self.options.client_config(self.context.timeout, batching);
        let connection = Connection::open(&config, batching, self.context.timeout).await?;
        self.topics = match &self.options.create {
            Some(create) => Some(Topics::create(&config, create, &self.context).await?),
            None => None,
        };
        self.connection = Some(connection);
        self.isolated_producer = false;
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        self.try_send(batch).await.map_err(|fault| self.give_up(fault))
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        self.try_settle().await.map_err(|fault| self.give_up(fault))
    }

    async fn close(&mut self) {
        self.connection = None;
        self.topics = None;
    }

    fn window(&self) -> usize {
        self.options.window
    }
}

fn not_connected() -> Fault {
    Fault::disconnected("not connected")
}

/// librdkafka's own check leaves out the headers, and a batch over `message.max.bytes` then ends the
/// whole process by an assertion (`rd_kafka_msgset_writer_finalize`).
fn oversize(message: &Message, bytes_max: u64) -> Option<Rejection> {
    /// More than a record batch, a record and one of its headers take around what they hold.
    const FRAMING: usize = 128;
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + FRAMING).sum();
    let bytes = message.body.len() + message.key.len() + message.id.len() + headers + FRAMING;
    (bytes as u64 > bytes_max).then(|| Rejection {
        code: "too_large",
        text: format!("{bytes} bytes with its headers, over this sink's `message_max` of {bytes_max}"),
    })
}

/// The record carries the time of arrival, not the event's own: a broker deletes by this time, and a
/// registry with a wrong clock must not make it delete an event as soon as it is written.
fn record(message: &Message, number: usize, millis: i64) -> BaseRecord<'_, str, [u8], usize> {
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len() + 1);
    headers = headers.insert(Header { key: "id", value: Some(message.id.as_str()) });
    for (name, value) in &message.headers {
        headers = headers.insert(Header { key: name, value: Some(value.as_str()) });
    }
    BaseRecord::with_opaque_to(&message.topic, number)
        .key(message.key.as_str())
        .payload(&message.body[..])
        .timestamp(millis)
        .headers(headers)
}
