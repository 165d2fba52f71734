//! How a sink stands, for status and metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::DeadLetters;
use crate::journal::{Micros, Offset};

/// The breaker, as distribution's `notifications/sinks.go` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// All is well, or fewer than `threshold` failures in a row.
    #[default]
    Closed,
    /// Resting for `backoff`.
    Open,
    /// Trying once, after a rest.
    HalfOpen,
}

/// A sink's last failure.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastError {
    pub text: String,
    /// When it last failed so, and since when it has failed without a success in between.
    pub at: Micros,
    pub since: Micros,
}

/// A sink at one moment. This is the JSON of `/api/v1/status`.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SinkSnapshot {
    pub name: String,
    /// `kafka`, `rabbitmq`, ….
    pub kind: String,
    /// Where it goes, without credentials.
    pub target: String,
    pub disabled: bool,
    pub connected: bool,
    pub breaker: BreakerState,
    /// Failures in a row.
    pub failures: u32,
    /// The first offset that is not confirmed.
    pub position: Offset,
    pub lag_events: u64,
    /// Age of the oldest undelivered event, in seconds; 0 when there is none.
    pub lag_seconds: f64,
    pub in_flight: u64,
    pub delivered: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    /// Dead letters now kept.
    pub dead_letters: u64,
    pub given_up: u64,
    pub last_error: Option<LastError>,
}

/// What a worker writes and status reads.
#[derive(Debug, Default)]
pub struct SinkStatus {
    pub name: String,
    pub kind: &'static str,
    pub target: String,
    pub disabled: bool,
    /// The first offset that is not confirmed.
    pub position: AtomicU64,
    /// When the event at `position` arrived; 0: there is none.
    pub oldest: AtomicI64,
    pub in_flight: AtomicU64,
    pub delivered: AtomicU64,
    pub retried: AtomicU64,
    pub dead_lettered: AtomicU64,
    pub given_up: AtomicU64,
    letters: Option<Arc<DeadLetters>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    breaker: BreakerState,
    failures: u32,
    last_error: Option<LastError>,
}

impl SinkStatus {
    pub fn new(name: String, kind: &'static str, target: String, disabled: bool) -> Self {
        Self { name, kind, target, disabled, ..Self::default() }
    }

    /// With the dead letters whose number it is to tell.
    pub fn with_letters(self, letters: Arc<DeadLetters>) -> Self {
        Self { letters: Some(letters), ..self }
    }

    /// Notes a failed attempt.
    pub fn failed(&self, text: &str, now: Micros, breaker: BreakerState, failures: u32, connected: bool) {
        let mut state = self.lock();
        let since = state.last_error.as_ref().filter(|_| state.failures > 0).map_or(now, |last| last.since);
        state.last_error = Some(LastError { text: text.to_owned(), at: now, since });
        (state.breaker, state.failures, state.connected) = (breaker, failures, connected);
    }

    /// Notes a connection or a change of the breaker that is no failure.
    pub fn set(&self, breaker: BreakerState, failures: u32, connected: bool) {
        let mut state = self.lock();
        (state.breaker, state.failures, state.connected) = (breaker, failures, connected);
    }

    pub fn breaker(&self) -> BreakerState {
        self.lock().breaker
    }

    /// What the last failure was.
    pub fn last_error(&self) -> Option<String> {
        self.lock().last_error.as_ref().map(|error| error.text.clone())
    }

    /// The sink as it stands at `now`, with the journal's head at `head`.
    pub fn snapshot(&self, now: Micros, head: Offset) -> SinkSnapshot {
        let state = self.lock();
        let position = self.position.load(Ordering::Relaxed);
        let oldest = self.oldest.load(Ordering::Relaxed);
        let lag_events = if self.disabled || oldest == 0 { 0 } else { head.saturating_sub(position) };
        SinkSnapshot {
            name: self.name.clone(),
            kind: self.kind.to_owned(),
            target: self.target.clone(),
            disabled: self.disabled,
            connected: state.connected,
            breaker: state.breaker,
            failures: state.failures,
            position,
            lag_events,
            lag_seconds: if lag_events == 0 { 0.0 } else { (now - oldest).max(0) as f64 / 1e6 },
            in_flight: self.in_flight.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
            dead_lettered: self.dead_lettered.load(Ordering::Relaxed),
            dead_letters: self.letters.as_ref().map_or(0, |letters| letters.count()),
            given_up: self.given_up.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
