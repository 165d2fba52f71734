//! A librdkafka producer from its making to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::confirmations::{Confirmations, Outcome};
use super::verdict::{Verdict, fault, judge};
use crate::sinks::Fault;

/// How often the wait for the cluster looks whether it has become pointless.
const PROBE: Duration = Duration::from_millis(100);

type Client = ThreadedProducer<Callbacks>;

/// A producer that has found its cluster. Dropped, it forgets what is in flight.
pub(super) struct Connection {
    /// `None` only while it is dropped.
    producer: Option<Client>,
    pub confirmations: Arc<Confirmations>,
    errors: Arc<Errors>,
}

impl Connection {
    /// Makes a producer and waits until a broker has answered it.
    pub async fn open(config: &ClientConfig, timeout: Duration) -> Result<Self, Fault> {
        let confirmations = Arc::new(Confirmations::default());
        let errors = Arc::new(Errors::default());
        let callbacks = Callbacks { confirmations: Arc::clone(&confirmations), errors: Arc::clone(&errors) };
        let producer: Client = config.create_with_context(callbacks).map_err(Fault::refused)?;
        let connection = Self { producer: Some(producer), confirmations, errors };
        let client = connection.producer().clone();
        let errors = Arc::clone(&connection.errors);
        tokio::task::spawn_blocking(move || find_cluster(&client, &errors, timeout))
            .await
            .map_err(|_| Fault::disconnected("the relay is stopping"))??;
        Ok(connection)
    }

    pub fn producer(&self) -> &Client {
        self.producer.as_ref().expect("only `drop` takes it")
    }

    /// What librdkafka last said about the cluster; `""` if nothing.
    pub fn last_error(&self) -> String {
        self.errors.last().map(|(_, text)| text).unwrap_or_default()
    }
}

impl Drop for Connection {
    /// librdkafka's end waits for its threads: not on a thread of the runtime.
    fn drop(&mut self) {
        let producer = self.producer.take();
        let spawned = std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || drop(producer));
        if let Err(error) = spawned {
            tracing::debug!(%error, "no thread to end a Kafka producer on; ended in place");
        }
    }
}

/// Waits for the cluster's id, which every broker tells with its first metadata. Ends early when the
/// credentials were refused or no broker is left to try.
fn find_cluster(client: &Client, errors: &Errors, timeout: Duration) -> Result<(), Fault> {
    let end = Instant::now() + timeout;
    loop {
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
pub(super) struct Errors(Mutex<Option<(Code, String)>>);

impl Errors {
    fn last(&self) -> Option<(Code, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That all brokers are down says less than why the last one is.
    fn note(&self, code: Code, text: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match &*last {
            Some((Code::Authentication | Code::SSL, _)) if code == Code::AllBrokersDown => return,
            Some((_, reason)) if code == Code::AllBrokersDown => reason.clone(),
            _ => text.to_owned(),
        };
        *last = Some((code, text));
    }
}

/// Called on the thread that polls librdkafka.
pub(super) struct Callbacks {
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
        let Err((error, _)) = result else {
            return self.confirmations.resolve(number, Outcome::Confirmed);
        };
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let context = self.errors.last().map(|(_, text)| text).unwrap_or_default();
        match judge(code, true, &context) {
            Verdict::Rejected(rejection) | Verdict::Suspect(rejection) => {
                self.confirmations.resolve(number, Outcome::Rejected(rejection));
            }
            Verdict::Failed(fault) => self.confirmations.fail(fault),
        }
    }
}
