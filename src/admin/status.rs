//! The relay at one moment: `/api/v1/status`, and the gauges of `/metrics`.

use std::net::SocketAddr;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};

use super::{State, VERSION};
use crate::delivery::{BreakerState, SinkSnapshot};
use crate::journal::local::now;
use crate::journal::{AppendError, JournalStats};
use crate::telemetry::Metrics;

/// What `/api/v1/status` answers and `relay status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// Since the start.
    pub uptime_seconds: f64,
    #[serde(flatten)]
    pub ready: Ready,
    pub receiver: ReceiverStatus,
    pub journal: JournalStats,
    /// In the configuration's order, disabled ones too; the built-in stream is none of them.
    pub sinks: Vec<SinkSnapshot>,
    /// Clients of `/stream`.
    pub streams: u64,
}

/// Whether the receiver takes events, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The receiver's counters since the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceiverStatus {
    pub listen: SocketAddr,
    /// Open now.
    pub connections: u64,
    /// Events made durable, second copies dropped, and bodies that could not be read.
    pub received: u64,
    pub duplicates: u64,
    pub quarantined: u64,
}

impl Ready {
    /// Whether an append would be taken, as nearly as can be told without one.
    pub(super) fn of(state: &State) -> Self {
        Self::judge(&state.journal.stats(), *state.stopping.borrow())
    }

    fn judge(stats: &JournalStats, stopping: bool) -> Self {
        let reason = if stopping {
            Some(AppendError::Closed.to_string())
        } else if let Some(cause) = &stats.failed {
            Some(AppendError::Failed(cause.clone()).to_string())
        } else {
            stats.refused.clone()
        };
        Self { ready: reason.is_none(), reason }
    }
}

impl Status {
    pub(super) fn of(state: &State) -> Self {
        let (now, head) = (now(), state.journal.head());
        let metrics = &state.metrics;
        Self {
            version: VERSION.to_owned(),
            uptime_seconds: state.started.elapsed().as_secs_f64(),
            ready: Ready::of(state),
            receiver: ReceiverStatus {
                listen: state.config.receiver.listen,
                connections: gauge(&metrics.connections),
                received: count(&metrics.events_received),
                duplicates: count(&metrics.events_duplicated),
                quarantined: count(&metrics.bodies_quarantined),
            },
            journal: state.journal.stats(),
            sinks: state.sinks.iter().map(|sink| sink.snapshot(now, head)).collect(),
            streams: gauge(&metrics.streams),
        }
    }
}

/// Sets the gauges that mirror a state, just before they are read.
pub(super) fn refresh_gauges(state: &State) {
    let status = Status::of(state);
    let metrics = &state.metrics;
    metrics.ready.set(i64::from(status.ready.ready));
    metrics.uptime_seconds.set(status.uptime_seconds);
    refresh_journal(metrics, &status.journal);
    for sink in &status.sinks {
        refresh_sink(metrics, sink);
        let holds = status.journal.held_by.as_ref() == Some(&sink.name);
        metrics.journal_held.get_or_create(&Metrics::label(&sink.name)).set(i64::from(holds));
    }
}

fn refresh_journal(metrics: &Metrics, stats: &JournalStats) {
    metrics.journal_bytes.set(signed(stats.bytes));
    metrics.journal_bytes_max.set(signed(stats.bytes_max));
    metrics.journal_segments.set(signed(stats.segments as u64));
    metrics.journal_first.set(signed(stats.first));
    metrics.journal_head.set(signed(stats.next));
}

fn refresh_sink(metrics: &Metrics, sink: &SinkSnapshot) {
    let label = Metrics::label(&sink.name);
    let breaker = match sink.breaker {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    metrics.sink_breaker.get_or_create(&label).set(breaker);
    metrics.sink_connected.get_or_create(&label).set(i64::from(sink.connected));
    metrics.sink_lag_events.get_or_create(&label).set(signed(sink.lag_events));
    metrics.sink_lag_seconds.get_or_create(&label).set(sink.lag_seconds);
    metrics.sink_in_flight.get_or_create(&label).set(signed(sink.in_flight));
    metrics.sink_dead_letters.get_or_create(&label).set(signed(sink.dead_letters));
}

fn count(counter: &Counter) -> u64 {
    counter.get()
}

fn gauge(gauge: &Gauge) -> u64 {
    u64::try_from(gauge.get()).unwrap_or(0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_while_the_journal_takes_events() {
        let well = JournalStats::default();
        let failed = JournalStats { failed: Some("EIO".into()), ..JournalStats::default() };
        let full = JournalStats { refused: Some("the journal is full".into()), ..JournalStats::default() };
        for (stats, stopping, reason) in [
            (&well, false, None),
            (&well, true, Some("the relay is stopping")),
            (&failed, false, Some("a restart: EIO")),
            (&full, false, Some("the journal is full")),
        ] {
            let ready = Ready::judge(stats, stopping);
            assert_eq!(ready.ready, reason.is_none(), "{ready:?}");
            assert_eq!(ready.reason.is_some(), reason.is_some(), "{ready:?}");
            assert!(ready.reason.unwrap_or_default().ends_with(reason.unwrap_or_default()));
        }
    }
}
