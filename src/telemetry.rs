//! Every metric's name, in one place. Counters are bumped where things happen; gauges that mirror a
//! state (lag, journal size, breaker) are set when `/metrics` is asked for.

use std::fmt;
use std::sync::Mutex;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

/// A gauge of fractions: seconds.
pub type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

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
    reference: Vec<Reference>,

    pub ready: Gauge,
    pub uptime_seconds: FloatGauge,
    pub streams: Gauge,
    pub stream_events: Counter,

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
    pub journal_first: Gauge,
    pub journal_head: Gauge,
    pub journal_damaged: Counter,
    /// 1 for the sink whose backlog holds more than half of the journal.
    pub journal_held: Family<SinkLabel, Gauge>,

    pub sink_delivered: Family<SinkLabel, Counter>,
    pub sink_retried: Family<SinkLabel, Counter>,
    pub sink_failures: Family<SinkLabel, Counter>,
    pub sink_dead_lettered: Family<CodeLabel, Counter>,
    pub sink_given_up: Family<SinkLabel, Counter>,
    /// 0 closed, 1 half-open, 2 open.
    pub sink_breaker: Family<SinkLabel, Gauge>,
    pub sink_connected: Family<SinkLabel, Gauge>,
    pub sink_lag_events: Family<SinkLabel, Gauge>,
    pub sink_lag_seconds: Family<SinkLabel, FloatGauge>,
    pub sink_in_flight: Family<SinkLabel, Gauge>,
    pub sink_dead_letters: Family<SinkLabel, Gauge>,
}

/// 50 µs to 26 s: an fsync on a fast disk to an answer that a registry has long given up on.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Mutex::default(),
            reference: Vec::new(),
            ready: Gauge::default(),
            uptime_seconds: FloatGauge::default(),
            streams: Gauge::default(),
            stream_events: Counter::default(),
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
            journal_first: Gauge::default(),
            journal_head: Gauge::default(),
            journal_damaged: Counter::default(),
            journal_held: Family::default(),
            sink_delivered: Family::default(),
            sink_retried: Family::default(),
            sink_failures: Family::default(),
            sink_dead_lettered: Family::default(),
            sink_given_up: Family::default(),
            sink_breaker: Family::default(),
            sink_connected: Family::default(),
            sink_lag_events: Family::default(),
            sink_lag_seconds: Family::default(),
            sink_in_flight: Family::default(),
            sink_dead_letters: Family::default(),
        };
        let mut to = Registration { registry: Registry::with_prefix("relay"), reference: Vec::new() };
        metrics.register_relay(&mut to);
        metrics.register_journal(&mut to);
        metrics.register_sinks(&mut to);
        (metrics.registry, metrics.reference) = (Mutex::new(to.registry), to.reference);
        metrics
    }

    fn register_relay(&self, to: &mut Registration) {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        to.add("build", "The relay's version", build);
        to.add("ready", "1 while the journal takes events, else 0", self.ready.clone());
        to.add("uptime_seconds", "Time since the start", self.uptime_seconds.clone());
        to.add("streams", "Clients of the built-in stream", self.streams.clone());
        to.add("stream_events", "Events sent to clients of the stream", self.stream_events.clone());
        to.add("requests", "Requests to the receiver, by status", self.requests.clone());
        to.add("request_seconds", "From a request's head to its answer", self.request_seconds.clone());
        to.add("connections", "Open connections to the receiver", self.connections.clone());
        to.add("events_received", "Events made durable", self.events_received.clone());
        to.add("events_duplicated", "Second copies of events, dropped", self.events_duplicated.clone());
        to.add(
            "bodies_quarantined",
            "Bodies that could not be read, kept whole",
            self.bodies_quarantined.clone(),
        );
        to.add(
            "registry_restarts",
            "Registries seen with a new instance: the queue they held in memory was lost",
            self.registry_restarts.clone(),
        );
    }

    fn register_journal(&self, to: &mut Registration) {
        to.add(
            "journal_append_seconds",
            "From an append's call to its durability",
            self.journal_append_seconds.clone(),
        );
        to.add("journal_fsync_seconds", "One fdatasync", self.journal_fsync_seconds.clone());
        to.add("journal_batch_events", "Events made durable by one fsync", self.journal_batch_events.clone());
        to.add("journal_bytes", "Bytes of the journal on disk", self.journal_bytes.clone());
        to.add("journal_bytes_max", "Bytes that the journal may take", self.journal_bytes_max.clone());
        to.add("journal_segments", "Segments of the journal", self.journal_segments.clone());
        to.add("journal_first", "The oldest offset that can still be read", self.journal_first.clone());
        to.add("journal_head", "The offset that the next event gets", self.journal_head.clone());
        to.add("journal_damaged", "Records found damaged on disk", self.journal_damaged.clone());
        to.add(
            "journal_held",
            "1 for the sink whose backlog holds more than half of what the journal may take, else 0",
            self.journal_held.clone(),
        );
    }

    fn register_sinks(&self, to: &mut Registration) {
        to.add("sink_delivered", "Messages confirmed by the sink's destination", self.sink_delivered.clone());
        to.add("sink_retried", "Messages sent again after a failure", self.sink_retried.clone());
        to.add("sink_failures", "Failed attempts", self.sink_failures.clone());
        to.add(
            "sink_dead_lettered",
            "Events that became dead letters, by the reason's code",
            self.sink_dead_lettered.clone(),
        );
        to.add(
            "sink_given_up",
            "Events skipped undelivered because of backlog_max",
            self.sink_given_up.clone(),
        );
        to.add("sink_breaker", "0 closed, 1 half-open, 2 open", self.sink_breaker.clone());
        to.add("sink_connected", "1 while connected, else 0", self.sink_connected.clone());
        to.add(
            "sink_lag_events",
            "Events between the sink and the journal's head",
            self.sink_lag_events.clone(),
        );
        to.add("sink_lag_seconds", "Age of the oldest undelivered event", self.sink_lag_seconds.clone());
        to.add("sink_in_flight", "Messages sent and not yet confirmed", self.sink_in_flight.clone());
        to.add("sink_dead_letters", "Dead letters kept", self.sink_dead_letters.clone());
    }

    /// What there is, in the order of registration: the contents of `docs/metrics.md`.
    pub fn reference(&self) -> &[Reference] {
        &self.reference
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

/// A metric as a reference page describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// As it is scraped: with prefix, and with the suffix that its type gives it.
    pub name: String,
    pub kind: String,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Registers metrics, and writes down what was registered.
struct Registration {
    registry: Registry,
    reference: Vec<Reference>,
}

impl Registration {
    fn add<M: Described>(&mut self, name: &'static str, help: &'static str, metric: M) {
        let kind = metric.metric_type();
        let suffix = match kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        let name_scraped = format!("relay_{name}{suffix}");
        let kind = kind.as_str().to_owned();
        self.reference.push(Reference { name: name_scraped, kind, labels: M::LABELS, help });
        self.registry.register(name, help, metric);
    }
}

/// A metric that can tell its labels without holding a value.
trait Described: Metric {
    const LABELS: &'static [&'static str];
}

macro_rules! described {
    ($($(#[$meta:meta])* [$($generics:tt)*] $metric:ty => $labels:expr;)*) => {
        $(impl<$($generics)*> Described for $metric { const LABELS: &'static [&'static str] = $labels; })*
    };
}

described! {
    [] Counter => &[];
    [] Gauge => &[];
    [] FloatGauge => &[];
    [] Histogram => &[];
    [] Info<[(&'static str, &'static str); 1]> => &["version"];
    [M: TypedMetric + Metric] Family<SinkLabel, M> => &["sink"];
    [M: TypedMetric + Metric] Family<CodeLabel, M> => &["sink", "code"];
    [M: TypedMetric + Metric] Family<StatusLabel, M> => &["status"];
}
