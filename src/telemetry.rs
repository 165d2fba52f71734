//! Every metric's name, in one place. Counters are bumped where things happen; gauges that mirror a
//! state (lag, journal size, breaker) are set when `/metrics` is asked for.

use std::fmt;
use std::sync::Mutex;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SinkLabel {
    pub sink: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CodeLabel {
    pub sink: String,
    pub code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StatusLabel {
    pub status: u16,
}

/// All metrics of one relay. Cheap handles; clone what a part needs.
pub struct Metrics {
    registry: Mutex<Registry>,

    pub requests: Family<StatusLabel, Counter>,
    pub request_seconds: Histogram,
    pub connections: Gauge,
    pub events_received: Counter,
    pub events_duplicated: Counter,
    pub bodies_quarantined: Counter,
    pub registry_restarts: Counter,

    pub journal_append_seconds: Histogram,
    pub journal_fsync_seconds: Histogram,
    pub journal_batch_events: Histogram,
    pub journal_bytes: Gauge,
    pub journal_bytes_max: Gauge,
    pub journal_segments: Gauge,
    pub journal_head: Gauge,
    pub journal_damaged: Counter,

    pub sink_delivered: Family<SinkLabel, Counter>,
    pub sink_retried: Family<SinkLabel, Counter>,
    pub sink_failures: Family<SinkLabel, Counter>,
    pub sink_dead_lettered: Family<CodeLabel, Counter>,
    pub sink_given_up: Family<SinkLabel, Counter>,
    /// 0 closed, 1 half-open, 2 open.
    pub sink_breaker: Family<SinkLabel, Gauge>,
    pub sink_lag_events: Family<SinkLabel, Gauge>,
    pub sink_lag_seconds: Family<SinkLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub sink_in_flight: Family<SinkLabel, Gauge>,
    pub sink_dead_letters: Family<SinkLabel, Gauge>,
}

/// 50 µs to 26 s: an fsync on a fast disk to an answer that a registry has long given up on.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("relay");
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            request_seconds: seconds(),
            connections: Gauge::default(),
            events_received: Counter::default(),
            events_duplicated: Counter::default(),
            bodies_quarantined: Counter::default(),
            registry_restarts: Counter::default(),
            journal_append_seconds: seconds(),
            journal_fsync_seconds: seconds(),
            journal_batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            journal_bytes: Gauge::default(),
            journal_bytes_max: Gauge::default(),
            journal_segments: Gauge::default(),
            journal_head: Gauge::default(),
            journal_damaged: Counter::default(),
            sink_delivered: Family::default(),
            sink_retried: Family::default(),
            sink_failures: Family::default(),
            sink_dead_lettered: Family::default(),
            sink_given_up: Family::default(),
            sink_breaker: Family::default(),
            sink_lag_events: Family::default(),
            sink_lag_seconds: Family::default(),
            sink_in_flight: Family::default(),
            sink_dead_letters: Family::default(),
        };
        metrics.register(&mut registry);
        Self { registry: Mutex::new(registry), ..metrics }
    }

    /// Names and help texts; `docs/metrics.md` is held in step with them by a test.
    fn register(&self, to: &mut Registry) {
        to.register("requests", "Requests to the receiver, by status", self.requests.clone());
        to.register("request_seconds", "From a request's head to its answer", self.request_seconds.clone());
        to.register("connections", "Open connections to the receiver", self.connections.clone());
        to.register("events_received", "Events made durable", self.events_received.clone());
        to.register("events_duplicated", "Second copies of events, dropped", self.events_duplicated.clone());
        to.register(
            "bodies_quarantined",
            "Bodies that could not be read, kept whole",
            self.bodies_quarantined.clone(),
        );
        to.register(
            "registry_restarts",
            "Registries seen with a new instance: the queue they held in memory was lost",
            self.registry_restarts.clone(),
        );
        to.register(
            "journal_append_seconds",
            "From an append's call to its durability",
            self.journal_append_seconds.clone(),
        );
        to.register("journal_fsync_seconds", "One fdatasync", self.journal_fsync_seconds.clone());
        to.register(
            "journal_batch_events",
            "Events made durable by one fsync",
            self.journal_batch_events.clone(),
        );
        to.register("journal_bytes", "Bytes of the journal on disk", self.journal_bytes.clone());
        to.register("journal_bytes_max", "Bytes that the journal may take", self.journal_bytes_max.clone());
        to.register("journal_segments", "Segments of the journal", self.journal_segments.clone());
        to.register("journal_head", "The offset that the next event gets", self.journal_head.clone());
        to.register("journal_damaged", "Records found damaged on disk", self.journal_damaged.clone());
        to.register(
            "sink_delivered",
            "Messages confirmed by the sink's destination",
            self.sink_delivered.clone(),
        );
        to.register("sink_retried", "Messages sent again after a failure", self.sink_retried.clone());
        to.register("sink_failures", "Failed attempts", self.sink_failures.clone());
        to.register("sink_dead_lettered", "Events that became dead letters", self.sink_dead_lettered.clone());
        to.register(
            "sink_given_up",
            "Events skipped undelivered because of backlog_max",
            self.sink_given_up.clone(),
        );
        to.register("sink_breaker", "0 closed, 1 half-open, 2 open", self.sink_breaker.clone());
        to.register(
            "sink_lag_events",
            "Events between the sink and the journal's head",
            self.sink_lag_events.clone(),
        );
        to.register("sink_lag_seconds", "Age of the oldest undelivered event", self.sink_lag_seconds.clone());
        to.register("sink_in_flight", "Messages sent and not yet confirmed", self.sink_in_flight.clone());
        to.register("sink_dead_letters", "Dead letters kept", self.sink_dead_letters.clone());
    }

    /// The OpenMetrics text.
    ///
    /// # Errors
    /// None that can happen: writing to a `String` does not fail.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut out, &registry)?;
        Ok(out)
    }

    /// The label of a sink.
    pub fn label(sink: &str) -> SinkLabel {
        SinkLabel { sink: sink.to_owned() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
