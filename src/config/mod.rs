//! What a configuration says, in two layers: the YAML's shape (`shape`) and, checked and complete,
//! what runs (the types here). Nothing downstream of this module sees the raw one.
//!
//! The way of a text: [`tree`] reads the YAML with the place of each key, [`fill`] puts in what
//! `${…}` stands for, [`read`] (with [`mistake`]) makes the [`shape`] of it, [`check`] the types
//! below. Each step goes on after a mistake, so that all of them are reported at once.

mod check;
mod fill;
mod load;
mod mistake;
mod problem;
mod read;
pub mod registry;
mod shape;
#[cfg(test)]
mod tests;
mod tree;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use fill::Surroundings;
pub use load::{Loaded, conditions, load, parse};
pub use problem::{KeyPath, Place, Problem, Step};
pub use units::{Address, Secret, Size, Time};

use crate::route::{Table, Template};
use crate::sinks::{Context, SinkOptions};

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub receiver: ReceiverConfig,
    pub admin: Option<AdminConfig>,
    pub journal: JournalConfig,
    /// All sinks, disabled ones too, in the file's order; a route names them by their index.
    pub sinks: Vec<SinkConfig>,
    pub table: Table,
}

impl Config {
    /// The topics without placeholders that routes can send to sink number `sink`; each once.
    pub fn literal_topics(&self, sink: usize) -> Vec<String> {
        let of_sink = self.table.targets().iter().filter(|target| target.sink == sink);
        let mut topics: Vec<_> =
            of_sink.filter_map(|target| target.topic.literal()).map(str::to_owned).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// What sink number `sink` is told of its surroundings.
    pub fn context(&self, sink: usize) -> Context {
        let SinkConfig { name, timeout, .. } = &self.sinks[sink];
        Context { name: name.clone(), timeout: *timeout, literal_topics: self.literal_topics(sink) }
    }
}

#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    pub listen: SocketAddr,
    /// Beside `/`, `/event` and `/events`; without trailing slashes.
    pub paths: Vec<String>,
    pub tokens: Vec<Secret>,
    pub users: Vec<(String, Secret)>,
    /// The largest body, in bytes; a larger one is answered 413.
    pub body_bytes_max: u64,
    /// How long a request's header, and then its body, may take.
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub connections_max: usize,
    pub tls: Option<TlsConfig>,
}

#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate that one of these authorities signed.
    pub client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub listen: SocketAddr,
    /// Bearer tokens; none: open to whoever reaches the address.
    pub tokens: Vec<Secret>,
}

#[derive(Clone, Debug)]
pub struct JournalConfig {
    pub path: PathBuf,
    pub bytes_max: u64,
    /// How long delivered events stay for replay.
    pub retention: Duration,
    pub segment_bytes: u64,
    /// The window in which a registry's second copy of an event is dropped; zero: none is.
    pub deduplicate: Duration,
    /// The most that quarantined bodies may take on disk, in bytes.
    pub quarantine_bytes_max: u64,
    /// How long a stop may take to flush the sinks.
    pub drain_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct SinkConfig {
    pub name: String,
    pub disabled: bool,
    pub options: SinkOptions,
    pub topic: Template,
    pub key: Template,
    pub format: Format,
    /// The longest that a connection, or a message in flight, may go without progress.
    pub timeout: Duration,
    pub threshold: u32,
    pub backoff: Duration,
    /// Sent with every message: Kafka, AMQP, NATS or HTTP headers.
    pub headers: Vec<(String, String)>,
    pub ignore_mediatypes: Vec<String>,
    pub ignore_actions: Vec<String>,
    /// A failing event becomes a dead letter after this; `None`: it is tried for ever.
    pub give_up_after: Option<Duration>,
    /// What is taken out of events for this sink when they are larger than `message_bytes_max`.
    pub strip: Vec<Strip>,
    /// Larger messages (body, in bytes) become dead letters without being sent.
    pub message_bytes_max: Option<u64>,
    pub backlog_max: Option<BacklogMax>,
    pub dead_letters: DeadLetterConfig,
}

/// How an event looks on the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The event's own JSON, byte for byte.
    #[default]
    Event,
    /// `{"events":[…]}` around it, as a registry sends it: relays can be chained.
    Envelope,
    /// CloudEvents 1.0, attributes in the broker's headers, the event as the data.
    Cloudevents,
    /// CloudEvents 1.0 as one JSON document with the event under `data`.
    #[serde(rename = "cloudevents-structured")]
    CloudeventsStructured,
}

impl Format {
    /// The word used in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Envelope => "envelope",
            Self::Cloudevents => "cloudevents",
            Self::CloudeventsStructured => "cloudevents-structured",
        }
    }
}

/// A part of an event that can be taken out to make it fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Strip {
    /// `target.references`: most of a large event.
    #[serde(rename = "references")]
    References,
    /// `actor.user`: GitLab's, which can be a token.
    #[serde(rename = "actor.user")]
    ActorUser,
}

/// How far behind a sink may fall before its oldest events are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogMax {
    Bytes(u64),
    Age(Duration),
}

#[derive(Clone, Debug)]
pub struct DeadLetterConfig {
    /// The most that this sink's dead letters may take on disk, in bytes. Full, the sink stops
    /// rather than lose one.
    pub bytes_max: u64,
    /// Another sink, by index, that gets each dead letter too.
    pub also_to: Option<usize>,
}
