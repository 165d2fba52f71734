//! The Kafka sink: one idempotent librdkafka producer, a ring of confirmations, and a verdict for
//! every error code.
//!
//! librdkafka has a thread of its own for each broker, retries within the sink's `timeout` and keeps
//! the order within a partition while it does (idempotence). What it gives up on comes back as a
//! [`Fault`](crate::sinks::Fault): the producer is thrown away with all that it holds, and the
//! worker's next attempt begins with a new one. So a record is never confirmed by one producer and
//! counted for another: each has a [`Confirmations`](confirmations::Confirmations) of its own.

mod confirmations;
mod options;
mod producer;
mod topics;
mod verdict;

use std::sync::Arc;

use async_trait::async_trait;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::types::RDKafkaErrorCode;

use self::confirmations::Outcome;
pub use self::options::{Acks, Compression, CreateTopics, KafkaOptions, Mechanism, Sasl, Tls};
use self::producer::Connection;
use self::topics::Topics;
use self::verdict::{Verdict, judge};
use super::{Context, Fault, Message, Settled, Sink};

pub struct KafkaSink {
    options: KafkaOptions,
    context: Context,
    topics: Option<Topics>,
    connection: Option<Connection>,
}

impl KafkaSink {
    pub(super) fn new(options: KafkaOptions, context: Context) -> Self {
        Self { options, context, topics: None, connection: None }
    }

    async fn send_all(&mut self, batch: &[Message]) -> Result<(), Fault> {
        for message in batch {
            if let Some(topics) = &mut self.topics {
                topics.ensure(&message.topic).await?;
            }
            let Some(connection) = &self.connection else {
                return Err(Fault::disconnected("not connected"));
            };
            publish(connection, message).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn connect(&mut self) -> Result<(), Fault> {
        self.connection = None;
        let config = self.options.client_config(self.context.timeout);
        let connection = Connection::open(&config, self.context.timeout).await?;
        self.topics = match &self.options.create {
            Some(create) => Some(Topics::create(&config, create, &self.context).await?),
            None => None,
        };
        self.connection = Some(connection);
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let sent = self.send_all(batch).await;
        if sent.is_err() {
            self.connection = None;
        }
        sent
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        let Some(connection) = &self.connection else {
            return Err(Fault::disconnected("not connected"));
        };
        let settled = connection.confirmations.settle().await;
        if settled.is_err() {
            self.connection = None;
        }
        settled
    }

    async fn close(&mut self) {
        self.connection = None;
        self.topics = None;
    }

    fn window(&self) -> usize {
        self.options.window
    }
}

/// Hands one record to librdkafka, which copies it; waits while its buffer is full.
async fn publish(connection: &Connection, message: &Message) -> Result<(), Fault> {
    let confirmations = Arc::clone(&connection.confirmations);
    let number = confirmations.begin();
    loop {
        let progress = confirmations.progress();
        tokio::pin!(progress);
        progress.as_mut().enable();
        match connection.producer().send(record(message, number)) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                if let Some(fault) = confirmations.fault() {
                    return Err(fault);
                }
                progress.await;
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                // Refused by librdkafka itself, before any batch was made.
                return match judge(code, true, &connection.last_error()) {
                    Verdict::Rejected(rejection) | Verdict::Suspect(rejection) => {
                        confirmations.resolve(number, Outcome::Rejected(rejection));
                        Ok(())
                    }
                    Verdict::Failed(fault) => Err(fault),
                };
            }
        }
    }
}

/// The record carries the time of arrival, not the event's own: a broker deletes by this time, and a
/// registry with a wrong clock must not make it delete an event as soon as it is written.
fn record(message: &Message, number: usize) -> BaseRecord<'_, str, [u8], usize> {
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len() + 1);
    headers = headers.insert(Header { key: "id", value: Some(message.id.as_str()) });
    for (name, value) in &message.headers {
        headers = headers.insert(Header { key: name, value: Some(value.as_str()) });
    }
    BaseRecord::with_opaque_to(&message.topic, number)
        .key(message.key.as_str())
        .payload(&message.body[..])
        .timestamp(message.arrived / 1000)
        .headers(headers)
}
