//! A librdkafka producer from its making to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _, OwnedMessage};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::oneshot;

use super::aside::Aside;
use super::client::Batching;
use super::confirmations::{Confirmations, Outcome, Trouble};
use super::verdict::{Verdict, fault, judge};
use crate::sinks::Fault;

/// How often the wait for the cluster looks whether it has become pointless.
const PROBE: Duration = Duration::from_millis(100);

/// Older than this, what librdkafka said has nothing to do with what happens now.
const STALE: Duration = Duration::from_secs(60);

type Client = ThreadedProducer<Callbacks>;

/// A producer that has found its cluster. Dropped, it forgets what is in flight.
pub(super) struct Connection {
    producer: Aside<Client>,
    pub confirmations: Arc<Confirmations>,
    errors: Arc<Errors>,
}

impl Connection {
    /// Makes a producer and waits until a broker has answered it.
    pub async fn open(config: &ClientConfig, batching: Batching, timeout: Duration) -> Result<Self, Fault> {
        let connection = Self::new(config, batching, Arc::default())?;
        let client = connection.producer().clone();
        let errors = Arc::clone(&connection.errors);
        // Closed when this future is dropped, so that nothing goes on looking for nobody.
        let (caller, _open) = oneshot::channel();
        tokio::task::spawn_blocking(move || find_cluster(&client, &errors, timeout, &caller))
            .await
            .map_err(|_| Fault::disconnected("the relay is stopping"))??;
        Ok(connection)
    }

    /// Another producer in the place of this one, whose records have all come back; what they came to
    /// is still there to be settled.
    pub fn replace(&mut self, config: &ClientConfig, batching: Batching) -> Result<(), Fault> {
        *self = Self::new(config, batching, Arc::clone(&self.confirmations))?;
        Ok(())
    }

    fn new(
        config: &ClientConfig,
        batching: Batching,
        confirmations: Arc<Confirmations>,
    ) -> Result<Self, Fault> {
        let errors = Arc::new(Errors::default());
        let callbacks =
            Callbacks { batching, confirmations: Arc::clone(&confirmations), errors: Arc::clone(&errors) };
        let producer = config.create_with_context(callbacks).map_err(Fault::refused)?;
        Ok(Self { producer: Aside::new(producer), confirmations, errors })
    }

    /// Has librdkafka give back all that it holds, by way of the callback.
    pub fn purge(&self) {
        self.producer().purge(PurgeConfig::default().queue().inflight());
    }

    /// Why this producer can do nothing any more, if it cannot. A callback and a record are told only that
    /// it is so (`_FATAL`).
    pub fn fatal(&self) -> Option<Fault> {
        let (code, text) = self.producer().client().fatal_error()?;
        Some(fault(code, &text))
    }

    pub fn producer(&self) -> &Client {
        &self.producer
    }

    /// Sends a record that came back, under its number. There is room: all that came back was in the
    /// queue at the same time.
    pub fn publish_again(&self, number: usize, mut record: OwnedMessage) -> Result<(), Fault> {
        let headers = record.detach_headers().unwrap_or_default();
        let again = BaseRecord::with_opaque_to(record.topic(), number)
            .key(record.key().unwrap_or_default())
            .payload(record.payload().unwrap_or_default())
            .timestamp(record.timestamp().to_millis().unwrap_or_default())
            .headers(headers);
        match self.producer().send(again) {
            Ok(()) => Ok(()),
            Err((error, _)) => self.not_taken(number, &error).map_err(|trouble| match trouble {
                Trouble::Fault(fault) => fault,
                Trouble::Batch(why) => Fault::disconnected(why.text),
            }),
        }
    }

    /// What it means that librdkafka itself refuses a record, before any batch is made.
    pub fn not_taken(&self, number: usize, error: &KafkaError) -> Result<(), Trouble> {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        match judge(code, true, &self.errors.text()) {
            Verdict::Rejected(rejection) => {
                self.confirmations.resolve(number, Outcome::Rejected(rejection));
                Ok(())
            }
            Verdict::Batch(why) => Err(Trouble::Batch(why)),
            Verdict::Failed(fault) => Err(fault.into()),
        }
    }
}

/// Waits for the cluster's id, which every broker tells with its first metadata. Ends early when the
/// credentials were refused or no broker is left to try.
fn find_cluster(
    client: &Client,
    errors: &Errors,
    timeout: Duration,
    caller: &oneshot::Sender<()>,
) -> Result<(), Fault> {
    let end = Instant::now() + timeout;
    loop {
        if caller.is_closed() {
            return Err(Fault::disconnected("given up"));
        }
        if client.client().fetch_cluster_id(PROBE).is_some() {
            return Ok(());
        }
        match errors.last() {
            Some((code @ (Code::Authentication | Code::SSL | Code::AllBrokersDown), text)) => {
                return Err(fault(code, &text));
            }
            Some((code, text)) if Instant::now() >= end => return Err(fault(code, &text)),
            None if Instant::now() >= end => {
                return Err(Fault::disconnected(format!("no broker answered within {timeout:?}")));
            }
            _ => {}
        }
    }
}

/// What librdkafka said about the cluster, for the text of a fault.
#[derive(Default)]
pub(super) struct Errors(Mutex<Option<Said>>);

#[derive(Clone)]
struct Said {
    code: Code,
    text: String,
    at: Instant,
}

impl Errors {
    fn last(&self) -> Option<(Code, String)> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|said| said.at.elapsed() < STALE).map(|said| (said.code, said.text.clone()))
    }

    /// What was said last; `""` if nothing was of late.
    fn text(&self) -> String {
        self.last().map(|(_, text)| text).unwrap_or_default()
    }

    /// That all brokers are down says less than why the last one is.
    fn note(&self, code: Code, text: &str) {
        let text = match self.last() {
            Some((Code::Authentication | Code::SSL, _)) if code == Code::AllBrokersDown => return,
            Some((_, reason)) if code == Code::AllBrokersDown => reason,
            _ => text.to_owned(),
        };
        let said = Said { code, text, at: Instant::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }
}

/// Called on the thread that polls librdkafka.
pub(super) struct Callbacks {
    batching: Batching,
    confirmations: Arc<Confirmations>,
    errors: Arc<Errors>,
}

impl ClientContext for Callbacks {
    /// librdkafka's own lines repeat at each of its attempts what the worker logs once.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        self.errors.note(code, reason);
        if code == Code::Fatal {
            self.confirmations.fail(fault(code, reason));
        }
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let (error, record) = match result {
            Ok(record) if record.offset() >= 0 => {
                return self.confirmations.resolve(number, Outcome::Confirmed);
            }
            // librdkafka concludes it from a later record's confirmation (`rd_kafka_dr_implicit_ack`). The
            // broker has not said so, and may never have had this one.
            Ok(record) => {
                let fault = Fault::disconnected("a record was confirmed without its offset");
                return self.confirmations.failed(number, || record.detach(), fault);
            }
            Err((error, record)) => (error, record),
        };
        let bytes = record.key_len() + record.payload_len();
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        match judge(code, self.batching.alone(bytes), &self.errors.text()) {
            Verdict::Rejected(rejection) => self.confirmations.resolve(number, Outcome::Rejected(rejection)),
            Verdict::Batch(rejection) => self.confirmations.give_back(number, record.detach(), rejection),
            Verdict::Failed(fault) => self.confirmations.failed(number, || record.detach(), fault),
        }
    }
}
