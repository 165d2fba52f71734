//! The configuration's YAML, as it is written. What its comments say is the reference page
//! (`docs/configuration.md`) and the editor's help (`docs/relay.schema.json`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::units::{Address, Secret, Size, Time};
use super::{BacklogMax, Format, Strip};
use crate::route::Conditions;
use crate::sinks::file::FileOptions;
#[cfg(feature = "kafka")]
use crate::sinks::kafka::KafkaOptions;
#[cfg(feature = "nats")]
use crate::sinks::nats::NatsOptions;
#[cfg(feature = "rabbitmq")]
use crate::sinks::rabbitmq::RabbitMqOptions;
use crate::sinks::stdout::StdoutOptions;
#[cfg(feature = "webhook")]
use crate::sinks::webhook::WebhookOptions;

#[cfg(not(feature = "kafka"))]
type KafkaOptions = NotBuilt;
#[cfg(not(feature = "nats"))]
type NatsOptions = NotBuilt;
#[cfg(not(feature = "rabbitmq"))]
type RabbitMqOptions = NotBuilt;
#[cfg(not(feature = "webhook"))]
type WebhookOptions = NotBuilt;

/// The configuration of a relay: `relay.yml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// Where registries send their notifications to.
    pub receiver: Receiver,
    /// Where people and monitoring look: page, status, metrics, dead letters and the stream.
    pub admin: Admin,
    /// Where events are kept until every sink has them, and for replay.
    pub journal: Journal,
    /// Where request bodies are kept that could not be read as events.
    pub quarantine: Quarantine,
    /// The window in which a registry's second copy of an event (same `source.instanceID` and
    /// `id`) is dropped; `0s` keeps every copy.
    pub deduplicate: Time,
    /// Where events go.
    pub sinks: Vec<Sink>,
    /// Which events go to which sinks. Without routes every event goes to every sink.
    pub routes: Vec<Route>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            receiver: Receiver::default(),
            admin: Admin::default(),
            journal: Journal::default(),
            quarantine: Quarantine::default(),
            deduplicate: Time::from_secs(600),
            sinks: Vec::new(),
            routes: Vec::new(),
        }
    }
}

/// Where registries send their notifications to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Receiver {
    /// Address and port to listen on. `:8080` is port 8080 of every IPv4 address.
    pub listen: Address,
    /// Further paths to take notifications on, beside `/`, `/event` and `/events`; each with and
    /// without a slash at its end.
    pub paths: Vec<String>,
    /// Bearer tokens that are accepted. With neither tokens nor users, everybody is.
    pub tokens: Vec<Secret>,
    /// Names and passwords that are accepted as basic auth.
    pub users: BTreeMap<String, Secret>,
    /// The largest body that is taken; a larger one is answered 413, and a registry tries it again
    /// for ever. A registry's largest event is about 4.3 MB.
    pub body_max: Size,
    /// How long a request's head may take to arrive.
    pub header_timeout: Time,
    /// How long a request's body may take to arrive.
    pub body_timeout: Time,
    /// How many connections may be open at once. More wait in the system's queue.
    pub connections_max: usize,
    /// Serves HTTPS instead of HTTP.
    pub tls: Option<Tls>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            listen: Address(([0, 0, 0, 0], 8080).into()),
            paths: Vec::new(),
            tokens: Vec::new(),
            users: BTreeMap::new(),
            body_max: Size::mib(16),
            header_timeout: Time::from_secs(10),
            body_timeout: Time::from_secs(30),
            connections_max: 1024,
            tls: None,
        }
    }
}

/// The receiver's certificate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// File of the certificate and those above it, in PEM.
    pub cert: PathBuf,
    /// File of its private key, in PEM.
    pub key: PathBuf,
    /// File of the authorities, in PEM, one of which must have signed a client's certificate.
    /// A registry has none to show; a proxy before it may.
    pub client_ca: Option<PathBuf>,
}

/// Where people and monitoring look.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port to listen on. Whoever reaches it can read every event, so it is local
    /// unless you say otherwise.
    pub listen: Address,
    /// Bearer tokens that are accepted. With none, everybody is who reaches the address.
    pub tokens: Vec<Secret>,
    /// `true`: there is no admin listener, and so no stream.
    pub disabled: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Address(([127, 0, 0, 1], 8081).into()), tokens: Vec::new(), disabled: false }
    }
}

/// Where events are kept until every sink has them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Folder of the journal; made where it is missing. One relay at a time can use it.
    pub path: PathBuf,
    /// The most it may take on disk. When undelivered events fill it, the receiver answers 503 and
    /// the registries keep what follows.
    pub max_size: Size,
    /// How long delivered events stay for replay.
    pub retention: Time,
    /// Size of one of its files.
    pub segment_size: Size,
    /// How long a stop may take to deliver what is in flight. The rest is delivered after the next
    /// start.
    pub drain_timeout: Time,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            path: "./relay-data".into(),
            max_size: Size::gib(10),
            retention: Time::from_secs(24 * 3600),
            segment_size: Size::mib(64),
            drain_timeout: Time::from_secs(20),
        }
    }
}

/// Where request bodies are kept that could not be read as events.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quarantine {
    /// The most that they may take on disk.
    pub max_size: Size,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { max_size: Size::gib(1) }
    }
}

/// One place that events go to. Exactly one of `kafka`, `rabbitmq`, `nats`, `webhook`, `file`,
/// `stdout` and `stream` says which kind it is. The other keys that a registry's
/// `notifications.endpoints` has mean what they mean there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["kafka"]},
    {"required": ["rabbitmq"]},
    {"required": ["nats"]},
    {"required": ["webhook"]},
    {"required": ["file"]},
    {"required": ["stdout"]},
    {"required": ["stream"]},
    {"required": ["url"]},
]))]
pub struct Sink {
    /// Its name in routes, logs, metrics and commands, and of its cursor: a sink with a new name
    /// begins anew. Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Publishes to Apache Kafka, or what speaks its protocol.
    #[serde(default, deserialize_with = "block")]
    pub kafka: Option<KafkaOptions>,
    /// Publishes to RabbitMQ by AMQP 0-9-1, with publisher confirms.
    #[serde(default, deserialize_with = "block")]
    pub rabbitmq: Option<RabbitMqOptions>,
    /// Publishes to NATS, to JetStream or core.
    #[serde(default, deserialize_with = "block")]
    pub nats: Option<NatsOptions>,
    /// Posts to a URL as a registry does.
    #[serde(default, deserialize_with = "block")]
    pub webhook: Option<WebhookOptions>,
    /// Appends to files, one event a line.
    #[serde(default, deserialize_with = "block")]
    pub file: Option<FileOptions>,
    /// Prints to standard output, one event a line.
    #[serde(default, deserialize_with = "block")]
    pub stdout: Option<StdoutOptions>,
    /// Serves events to whoever subscribes at the admin listener's `/stream`: `stream: {}`.
    #[serde(default, deserialize_with = "block")]
    pub stream: Option<StreamOptions>,
    /// Short for `webhook: { url: … }`, as a registry's endpoint has it.
    pub url: Option<String>,
    /// Template of the topic (Kafka), routing key (RabbitMQ), subject (NATS), path in the folder
    /// (file) or name of the event (elsewhere). For a broker it begins with a fixed text, so that no
    /// event can choose a topic freely. The default is `registry.{action}`, and
    /// `registry.{action}.jsonl` for a file.
    pub topic: Option<String>,
    /// Template of what keeps events together and in order, such as a Kafka record's key.
    #[serde(default = "repository")]
    pub key: String,
    /// How an event looks on the way out: `event` as its own JSON, byte for byte; `envelope` as a
    /// registry sends it; `cloudevents` with the attributes in headers; `cloudevents-structured`
    /// as one JSON document. The default is `event`, and `envelope` for a webhook.
    pub format: Option<Format>,
    /// How long a connection, or a message in flight, may go without progress before it counts as
    /// a failure.
    #[serde(default = "five_seconds")]
    pub timeout: Time,
    /// How many failures in a row make the sink rest for `backoff` before each further try.
    #[serde(default = "ten")]
    pub threshold: u32,
    /// How long it rests.
    #[serde(default = "one_second")]
    pub backoff: Time,
    /// Sent with every message. A value is a text or a list of texts.
    #[serde(default)]
    pub headers: Headers,
    /// Events that this sink does not take, whatever the routes say.
    #[serde(default)]
    pub ignore: Ignore,
    /// The older name of `ignore.mediatypes`; both count.
    #[serde(default)]
    pub ignoredmediatypes: Vec<String>,
    /// `true`: gets nothing and keeps nothing waiting.
    #[serde(default)]
    pub disabled: bool,
    /// How long a failing event is tried before it becomes a dead letter. Without it, for ever.
    pub give_up_after: Option<Time>,
    /// What is taken out of an event that is larger than `message_max`: `references`, `actor.user`.
    #[serde(default)]
    pub strip: Vec<Strip>,
    /// The largest message that is sent; a larger one becomes a dead letter. Without it the
    /// destination decides.
    pub message_max: Option<Size>,
    /// How far this sink may fall behind, as a size (`2GiB`) or an age (`24h`), before its oldest
    /// events are given up, counted and logged. Without it nothing is given up, and a sink that is
    /// down for too long fills the journal for all.
    pub backlog_max: Option<BacklogMax>,
    /// Events that the destination will not take, kept to be looked at and sent again.
    #[serde(default)]
    pub dead_letters: DeadLetters,
}

fn repository() -> String {
    "{repository}".to_owned()
}

fn five_seconds() -> Time {
    Time::from_secs(5)
}

fn one_second() -> Time {
    Time::from_secs(1)
}

/// The registry's own default (distribution's `notifications/endpoint.go`).
fn ten() -> u32 {
    10
}

/// A sink's block. `stdout:` alone is there, unlike an `Option`'s null.
fn block<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Options of the built-in stream: there are none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {}

/// The options of a sink that this relay was built without; whatever they are.
#[cfg(not(all(feature = "kafka", feature = "rabbitmq", feature = "nats", feature = "webhook")))]
#[derive(Debug, JsonSchema)]
pub struct NotBuilt {}

#[cfg(not(all(feature = "kafka", feature = "rabbitmq", feature = "nats", feature = "webhook")))]
impl<'de> Deserialize<'de> for NotBuilt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from).map(|_| Self {})
    }
}

/// Events that a sink does not take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ignore {
    /// Media types, each as it is: `application/octet-stream` keeps blobs away.
    pub mediatypes: Vec<String>,
    /// Actions, each as it is: `pull`.
    pub actions: Vec<String>,
}

/// What is kept of events that a destination will not take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetters {
    /// The most that they may take on disk. Full, the sink stops rather than lose one.
    pub max_size: Size,
    /// Name of another sink that gets each dead letter too.
    pub also_to: Option<String>,
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self { max_size: Size::gib(1), also_to: None }
    }
}

/// Which events go to which sinks. Every route that matches applies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name in `relay check` and `relay route`; `route-1` and so on by default.
    pub name: Option<String>,
    /// What an event must be. Without it, every event.
    #[serde(default, rename = "match")]
    pub conditions: Conditions,
    /// `true`: takes the events that no other route matches; stands instead of `match`.
    #[serde(default)]
    pub otherwise: bool,
    /// The sinks, each by its name or as `{ sink, topic, key }`.
    pub to: Vec<To>,
}

/// One destination of a route.
#[derive(Debug)]
pub struct To {
    pub sink: String,
    pub topic: Option<String>,
    pub key: Option<String>,
}

/// A sink with a topic or key that only this route uses.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ToMap {
    /// Name of the sink.
    sink: String,
    /// Template of the topic instead of the sink's.
    topic: Option<String>,
    /// Template of the key instead of the sink's.
    key: Option<String>,
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = To;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sink's name or `{ sink: …, topic: … }`")
            }
            fn visit_str<E>(self, sink: &str) -> Result<To, E> {
                Ok(To { sink: sink.to_owned(), topic: None, key: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<To, A::Error> {
                let ToMap { sink, topic, key } = ToMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(To { sink, topic, key })
            }
        }
        from.deserialize_str(Either)
    }
}

impl JsonSchema for To {
    fn schema_name() -> Cow<'static, str> {
        "To".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A sink's name, or a sink with a topic or key that only this route uses.",
            "anyOf": [{"type": "string"}, generator.subschema_for::<ToMap>()],
        })
    }
}

/// Headers as a registry's endpoint has them: each a text or a list of texts. In the file's order.
#[derive(Default)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    /// Without the values, which can be tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers, each a text or a list of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, Texts(values))) = map.next_entry::<String, Texts>()? {
                    pairs.extend(values.into_iter().map(|value| (name.clone(), value)));
                }
                Ok(Headers(pairs))
            }
        }
        from.deserialize_map(Pairs)
    }
}

impl JsonSchema for Headers {
    fn schema_name() -> Cow<'static, str> {
        "Headers".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": {"type": ["string", "array"], "items": {"type": "string"}},
        })
    }
}

/// One text or several. A number is the text that it is written as.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        from.deserialize_str(OneOrMany)
    }
}
