//! Sinks: where events go. One file each, one contract for all.
//!
//! A sink makes one attempt and says how far it got. When to try again, when to rest, what becomes
//! a dead letter and what is a duplicate is the worker's ([`crate::delivery`]), the same for every
//! sink. Adding one takes a file here, a variant of [`SinkOptions`], a cargo feature, a run of the
//! contract suite in `tests/` and an example.

pub mod file;
pub mod format;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
pub mod stdout;
#[cfg(feature = "webhook")]
pub mod webhook;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::config::Format;
use crate::event::Event;
use crate::journal::{Micros, Offset};

/// One event on its way to one destination of one sink.
#[derive(Clone, Debug)]
pub struct Message {
    pub offset: Offset,
    /// When the receiver took the event.
    pub arrived: Micros,
    /// The event's own id; of an event without one, an id made of the journal's and the offset.
    /// The same at each attempt. Goes into the Kafka header `id`, AMQP `message_id`, the HTTP
    /// header `Relay-Id`.
    pub id: String,
    /// Like `id`, but distinct for each destination that one event has at this sink: what a broker
    /// may drop duplicates by (`Nats-Msg-Id`). Equal to `id` for the first destination.
    pub dedup_id: String,
    /// Topic, subject or routing key; already fit for the sink's broker ([`Naming`]).
    pub topic: String,
    /// What keeps a repository's events together and in order; the repository by default.
    pub key: String,
    /// The sink's configured headers, then those of the format, each name once.
    pub headers: Vec<(Cow<'static, str>, String)>,
    pub content_type: &'static str,
    /// Format, then strip, applied: what is to be sent.
    pub body: Bytes,
    pub event: Event,
}

/// What became of the messages in flight.
#[derive(Debug, Default)]
pub struct Settled {
    /// How many of the oldest messages in flight are done with: confirmed, or among `rejected`.
    pub count: usize,
    /// Those among them that the destination will never take, by their place in the run (0 is the
    /// oldest in flight), in order.
    pub rejected: Vec<(usize, Rejection)>,
}

/// A message that will not be taken however often it is sent: it becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A short word for metrics and filters: `too_large`, `unroutable`, `no_such_topic`,
    /// `not_authorised`, …; each sink's table in `docs/failures/` has them all.
    pub code: &'static str,
    /// What the broker said.
    pub text: String,
}

/// Why an attempt failed as a whole. None of it is the event's fault: the worker keeps all that is
/// not settled, counts one failure, and tries again as its breaker allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// What happened and at which address; never a secret, never a body.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The connection is gone or never was: connect again, send again all that is not settled.
    Disconnected,
    /// The destination takes nothing now; the connection is good. Send again what is not settled,
    /// no earlier than after `retry_after` when the destination named a time.
    Busy { retry_after: Option<Duration> },
    /// The destination refuses us: wrong credentials, no such stream, a misconfiguration. Tried
    /// again like any failure, since it is mended over there; said more loudly.
    Refused,
}

impl Fault {
    pub fn disconnected(text: impl fmt::Display) -> Self {
        Self { kind: FaultKind::Disconnected, text: text.to_string() }
    }

    pub fn busy(text: impl fmt::Display) -> Self {
        Self { kind: FaultKind::Busy { retry_after: None }, text: text.to_string() }
    }

    pub fn refused(text: impl fmt::Display) -> Self {
        Self { kind: FaultKind::Refused, text: text.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A destination. Messages go in by [`Sink::send`], in order; [`Sink::settle`] says, in the same
/// order, which of them are done. Between the two any number is in flight, up to
/// [`Sink::window`]; so a broker's confirmations are never waited for batch by batch.
///
/// The calls come from one task, one at a time. After a [`Fault`] from any of them the sink must
/// have forgotten everything in flight: the worker calls [`Sink::connect`] (after
/// `Disconnected` and `Refused`) or goes on at once (after `Busy`), and sends all of it again. Two things are the
/// worker's, not the sink's: the time limit on each call, and the order "connect before send".
#[async_trait]
pub trait Sink: Send {
    /// Makes a connection good enough to publish, dropping an old one. Also declares or checks
    /// topics, exchanges and streams if configured to.
    async fn connect(&mut self) -> Result<(), Fault>;

    /// Takes `batch` and starts publishing it. May wait for the socket or the client's buffer, not
    /// for confirmations. Never called with more than [`Sink::window`] messages in flight in all.
    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault>;

    /// Waits until at least the oldest message in flight is settled, then tells of all that are, up
    /// to the first that is not. Called only while something is in flight. Cancel safe: when the
    /// future is dropped, nothing that was not returned is lost.
    async fn settle(&mut self) -> Result<Settled, Fault>;

    /// Gives the connection up, politely where that is quick.
    async fn close(&mut self);

    /// How many messages may be in flight.
    fn window(&self) -> usize;
}

/// Which characters a destination's names may hold; what else an event brings is replaced by `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `[a-zA-Z0-9._-]`, 249 at most (Kafka's `Topic.java`).
    Kafka,
    /// An AMQP short string: 255 bytes at most; words are separated by `.`, and `*`, `#`, white
    /// space and control characters are replaced.
    Amqp,
    /// A NATS subject: tokens separated by `.`; `*`, `>`, white space and control characters are
    /// replaced, empty tokens filled with `_`.
    Nats,
    /// A relative file path: no empty, `.` or `..` parts, no control characters.
    Path,
    /// No limits but control characters: webhooks, stdout, the built-in stream.
    Plain,
}

/// What a sink's options tell and make; each sink's options type implements it.
pub trait Options: fmt::Debug + Send + Sync {
    /// Mistakes that types cannot express, each with the key it is about (relative to the sink's
    /// block, like `tls.ca`) and a sentence that says what to do. Empty: all is well.
    fn problems(&self) -> Vec<(String, String)>;

    /// The topic's default template.
    fn default_topic(&self) -> &'static str {
        "registry.{action}"
    }

    /// The format where the sink's entry names none.
    fn default_format(&self) -> Format {
        Format::Event
    }

    fn naming(&self) -> Naming;

    /// Where it goes, for tables and logs: addresses without credentials.
    fn target(&self) -> String;

    /// The sink itself, not yet connected.
    fn build(&self, context: Context) -> Box<dyn Sink>;
}

/// What a sink is told of its surroundings.
#[derive(Clone, Debug)]
pub struct Context {
    pub name: String,
    /// The worker's limit on a message in flight; clients with limits of their own use this one.
    pub timeout: Duration,
    /// The topics and such that the routing table can send to this sink, as far as they hold no
    /// placeholder; what `create` options declare in advance.
    pub literal_topics: Vec<String>,
}

macro_rules! sinks {
    ($($(#[$meta:meta])* $variant:ident($options:ty) $key:literal;)*) => {
        /// The options of one sink: exactly one block of a sink's entry in the configuration.
        #[derive(Clone, Debug)]
        pub enum SinkOptions {
            $($(#[$meta])* $variant($options),)*
            /// The built-in stream: served by the admin listener straight from the journal, so it
            /// has neither a worker nor a cursor.
            Stream,
        }

        impl SinkOptions {
            /// The block's key in the configuration: `kafka`, `file`, ….
            pub fn key(&self) -> &'static str {
                match self {
                    $($(#[$meta])* Self::$variant(_) => $key,)*
                    Self::Stream => "stream",
                }
            }

            /// The options behind their common interface; `None` for the stream.
            pub fn options(&self) -> Option<&dyn Options> {
                match self {
                    $($(#[$meta])* Self::$variant(options) => Some(options),)*
                    Self::Stream => None,
                }
            }

            pub fn naming(&self) -> Naming {
                self.options().map_or(Naming::Plain, Options::naming)
            }
        }
    };
}

sinks! {
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaOptions) "kafka";
    #[cfg(feature = "rabbitmq")]
    RabbitMq(rabbitmq::RabbitMqOptions) "rabbitmq";
    #[cfg(feature = "nats")]
    Nats(nats::NatsOptions) "nats";
    #[cfg(feature = "webhook")]
    Webhook(webhook::WebhookOptions) "webhook";
    File(file::FileOptions) "file";
    Stdout(stdout::StdoutOptions) "stdout";
}
