//! From a body to something durable: the journal for what can be read, the quarantine for what
//! cannot. Knows nothing of HTTP, so that a replay out of the quarantine goes the same way.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::instances::Instances;
use crate::event::{Envelope, EnvelopeError};
use crate::journal::{AppendError, Appended, Journal, Micros};
use crate::quarantine::{Id, Note, Quarantine, QuarantineError};
use crate::telemetry::Metrics;

/// Takes bodies. One for the whole relay.
pub struct Intake {
    journal: Arc<dyn Journal>,
    quarantine: Arc<Quarantine>,
    metrics: Arc<Metrics>,
    instances: Instances,
}

/// Where a body is now, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of its events are in the journal (none, for an empty envelope).
    Appended(Appended),
    /// It could not be read, for `reason`, and is in the quarantine, whole.
    Quarantined { id: Id, reason: String },
}

/// Why nothing of a body was kept: its sender must keep it, and is answered 503.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Journal(AppendError),
    Quarantine(QuarantineError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(error) => error.fmt(f),
            Self::Quarantine(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

/// What became of a body that was taken out of the quarantine again.
#[derive(Debug, PartialEq, Eq)]
pub enum Replayed {
    /// Its events are in the journal, and the quarantine no longer has it.
    Appended(Appended),
    /// It still cannot be read; it stays.
    Unreadable(EnvelopeError),
    /// There is none of this id.
    Unknown,
}

impl Intake {
    pub fn new(journal: Arc<dyn Journal>, quarantine: Arc<Quarantine>, metrics: Arc<Metrics>) -> Self {
        Self { journal, quarantine, metrics, instances: Instances::default() }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Makes `body`, which was complete at `arrived`, durable. `note` tells where it came from; it
    /// is asked only about a body that cannot be read.
    ///
    /// # Errors
    /// [`Refusal`]: nothing of the body was kept.
    pub async fn take(
        &self,
        body: Bytes,
        arrived: Micros,
        note: impl FnOnce(String) -> Note,
    ) -> Result<Outcome, Refusal> {
        match Envelope::parse(&body) {
            Ok(envelope) => {
                self.instances.observe(&envelope.events, &self.metrics);
                self.append(envelope, arrived).await.map(Outcome::Appended)
            }
            Err(error) => self.set_aside(body, arrived, note(error.to_string())).await,
        }
    }

    /// Tries a quarantined body again, as if it came at `arrived`, and discards it once its events
    /// are durable. Its sources are not looked at for restarts: they are of the past.
    ///
    /// # Errors
    /// [`Refusal`]: the body is still in the quarantine. When only the discarding failed the events
    /// are in the journal too, and a further try within the duplicate window adds nothing.
    pub async fn replay(&self, id: Id, arrived: Micros) -> Result<Replayed, Refusal> {
        let Some(body) = self.quarantine.get(id).await.map_err(Refusal::Quarantine)? else {
            return Ok(Replayed::Unknown);
        };
        let envelope = match Envelope::parse(&body.body) {
            Ok(envelope) => envelope,
            Err(error) => return Ok(Replayed::Unreadable(error)),
        };
        let appended = self.append(envelope, arrived).await?;
        self.quarantine.discard(id).await.map_err(Refusal::Quarantine)?;
        Ok(Replayed::Appended(appended))
    }

    async fn append(&self, envelope: Envelope, arrived: Micros) -> Result<Appended, Refusal> {
        if envelope.events.is_empty() {
            return Ok(Appended::default());
        }
        let appended = self.journal.append(envelope.events, arrived).await.map_err(Refusal::Journal)?;
        self.metrics.events_received.inc_by(appended.accepted as u64);
        self.metrics.events_duplicated.inc_by(appended.duplicates as u64);
        Ok(appended)
    }

    async fn set_aside(&self, body: Bytes, arrived: Micros, note: Note) -> Result<Outcome, Refusal> {
        let (reason, bytes) = (note.reason.clone(), body.len());
        let remote = note.remote.clone();
        let id = self.quarantine.put(body, arrived, note).await.map_err(Refusal::Quarantine)?;
        self.metrics.bodies_quarantined.inc();
        tracing::warn!(%id, bytes, remote, reason, "a body could not be read; it is in the quarantine");
        Ok(Outcome::Quarantined { id, reason })
    }
}
