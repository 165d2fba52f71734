//! The Kafka sink's block of the configuration, and what librdkafka is told of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::KafkaSink;
use crate::config::{Secret, Size, Time};
use crate::sinks::{Context, Naming, Options, Sink};

/// Publishes to Apache Kafka and whatever speaks its protocol: idempotent, confirmed by all
/// replicas, keyed by repository.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaOptions {
    /// Where to find the cluster: `host:port`, several separated by commas.
    pub brokers: String,
    /// Who must have a record before it counts as delivered: `all` in-sync replicas, or `1`, the
    /// leader alone (then `idempotence` must be off).
    #[serde(default)]
    #[schemars(extend("default" = "all"))]
    pub acks: Acks,
    /// Keeps the client's own retries from writing a record twice. Off, one batch at a time is under way
    /// to each broker, so that the order stands.
    #[serde(default = "yes")]
    pub idempotence: bool,
    /// How batches are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// How long to wait for more records before a batch goes out.
    #[serde(default = "default_linger")]
    pub linger: Time,
    /// The most that one batch may hold.
    #[serde(default = "default_batch_max")]
    pub batch_max: Size,
    /// The largest record. The broker has limits of its own (`message.max.bytes`, and a topic's
    /// `max.message.bytes`); what exceeds either becomes a dead letter.
    #[serde(default = "default_message_max")]
    pub message_max: Size,
    /// The most memory for records that are not yet confirmed.
    #[serde(default = "default_buffer_max")]
    pub buffer_max: Size,
    /// How many records may be unconfirmed.
    #[serde(default = "default_window")]
    pub window: usize,
    /// The name by which brokers log and limit this client.
    #[serde(default = "default_client_id")]
    pub client_id: String,
    /// Creates topics that do not exist. Without it the cluster's `auto.create.topics.enable` decides.
    #[serde(default)]
    pub create: Option<CreateTopics>,
    /// Logs in with a name and a password.
    #[serde(default)]
    pub sasl: Option<Sasl>,
    /// Speaks TLS; `{}` is enough where a public authority signed the brokers' certificates.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Any other property of librdkafka, by its own name (its `CONFIGURATION.md` lists them).
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// Who must have a record before it counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    #[default]
    All,
    Leader,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// How topics are created.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTopics {
    /// Partitions of each topic: how many consumers can share it.
    #[serde(default = "one")]
    pub partitions: u16,
    /// Replicas of each partition; unset, the cluster's `default.replication.factor`.
    #[serde(default)]
    pub replication: Option<u16>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is shown to the brokers. `PLAIN` shows it whole: only over TLS.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: Secret,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the authorities to trust; unset, the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate; needs `key`.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// PEM file of the client's key; needs `cert`.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// What `key` is encrypted with, if it is.
    #[serde(default)]
    pub key_password: Option<Secret>,
    /// Checks the brokers' certificates and that they bear the brokers' names. Off, anybody on the
    /// way can read and change everything.
    #[serde(default = "yes")]
    pub verify: bool,
}

fn yes() -> bool {
    true
}
fn one() -> u16 {
    1
}
fn default_linger() -> Time {
    Time::from_millis(5)
}
/// Below the broker's own default limit of 1,048,588 bytes (`message.max.bytes`), which is on batches.
fn default_batch_max() -> Size {
    Size(1_000_000)
}
fn default_message_max() -> Size {
    Size::mib(16)
}
fn default_buffer_max() -> Size {
    Size::mib(32)
}
fn default_window() -> usize {
    10_000
}
fn default_client_id() -> String {
    "relay".to_owned()
}

impl<'de> Deserialize<'de> for Acks {
    /// `1` is a number in YAML and text in an environment variable; both are meant.
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected `all` or 1")]
        enum Shape {
            Number(i64),
            Text(String),
        }
        match Shape::deserialize(from)? {
            Shape::Number(1) => Ok(Self::Leader),
            Shape::Number(-1) => Ok(Self::All),
            Shape::Text(text) if text == "1" => Ok(Self::Leader),
            Shape::Text(text) if text == "all" || text == "-1" => Ok(Self::All),
            _ => Err(serde::de::Error::custom(
                "expected `all` or 1: with anything less a record could be lost that counts as delivered",
            )),
        }
    }
}

impl JsonSchema for Acks {
    fn schema_name() -> Cow<'static, str> {
        "Acks".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"enum": ["all", 1]})
    }
}

/// Properties that cannot go through `properties`, each with what to do instead: they have an option
/// of their own, or would break what the relay promises.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "use `brokers`"),
    ("metadata.broker.list", "use `brokers`"),
    ("client.id", "use `client_id`"),
    ("acks", "use `acks`"),
    ("request.required.acks", "use `acks`"),
    ("enable.idempotence", "use `idempotence`"),
    ("compression.codec", "use `compression`"),
    ("compression.type", "use `compression`"),
    ("linger.ms", "use `linger`"),
    ("queue.buffering.max.ms", "use `linger`"),
    ("batch.size", "use `batch_max`"),
    ("message.max.bytes", "use `message_max`"),
    ("queue.buffering.max.kbytes", "use `buffer_max`"),
    ("queue.buffering.max.messages", "use `window`"),
    ("message.timeout.ms", "use the sink's `timeout`"),
    ("delivery.timeout.ms", "use the sink's `timeout`"),
    ("security.protocol", "it follows from `tls` and `sasl`"),
    ("sasl.mechanism", "use `sasl`"),
    ("sasl.mechanisms", "use `sasl`"),
    ("sasl.username", "use `sasl`"),
    ("sasl.password", "use `sasl`"),
    ("ssl.ca.location", "use `tls`"),
    ("ssl.certificate.location", "use `tls`"),
    ("ssl.key.location", "use `tls`"),
    ("ssl.key.password", "use `tls`"),
    ("enable.ssl.certificate.verification", "use `tls`"),
    ("delivery.report.only.error", "confirmations would never come"),
    ("max.in.flight", "the order of a repository's events depends on it"),
    ("max.in.flight.requests.per.connection", "the order of a repository's events depends on it"),
    ("transactional.id", "the relay does not write in transactions"),
    ("log.queue", "the relay sets it"),
    ("log_level", "use the relay's log level"),
];

impl KafkaOptions {
    fn problems_of_properties(&self, problems: &mut Vec<(String, String)>) {
        for (key, value) in &self.properties {
            let place = format!("properties.{key}");
            if let Some((_, instead)) = RESERVED.iter().find(|(reserved, _)| reserved == key) {
                problems.push((place, format!("`{key}` cannot be set here: {instead}")));
                continue;
            }
            let mut alone = ClientConfig::new();
            alone.set(key, value);
            // librdkafka's sentence about a value repeats it, and it may be a secret.
            match alone.create_native_config() {
                Ok(_) => {}
                Err(error) if error.to_string().contains("No such configuration property") => {
                    problems.push((place, format!("librdkafka has no property `{key}`")));
                }
                Err(_) => problems.push((place, format!("librdkafka does not take this value for `{key}`"))),
            }
        }
    }

    fn problems_of_sizes(&self, problems: &mut Vec<(String, String)>) {
        let bounds = [
            ("batch_max", self.batch_max, Size(1), Size(i32::MAX as u64)),
            ("message_max", self.message_max, Size(1000), Size(1_000_000_000)),
            ("buffer_max", self.buffer_max, Size::kib(1), Size::gib(1024)),
        ];
        for (key, size, min, max) in bounds {
            if size < min || size > max {
                problems.push((key.to_owned(), format!("must be between {min} and {max}")));
            }
        }
        if self.message_max > self.buffer_max {
            let sentence = "must not exceed `buffer_max`, or the largest record would never fit in";
            problems.push(("message_max".to_owned(), sentence.to_owned()));
        }
        if !(1..=10_000_000).contains(&self.window) {
            problems.push(("window".to_owned(), "must be between 1 and 10000000".to_owned()));
        }
        if self.linger.duration > Duration::from_secs(900) {
            problems.push(("linger".to_owned(), "must be 15m at most".to_owned()));
        }
    }

    fn problems_of_addresses(&self, problems: &mut Vec<(String, String)>) {
        let well_formed = |broker: &str| {
            let (host, port) = broker.rsplit_once(':').unwrap_or((broker, "9092"));
            !host.is_empty() && !host.contains(['/', ' ', '@']) && port.parse::<u16>().is_ok()
        };
        if let Some(odd) = self.brokers.split(',').map(str::trim).find(|broker| !well_formed(broker)) {
            let sentence = format!("`{odd}` is not an address; write host:port, several separated by commas");
            problems.push(("brokers".to_owned(), sentence));
        }
    }
}

impl Options for KafkaOptions {
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        self.problems_of_addresses(&mut problems);
        self.problems_of_sizes(&mut problems);
        self.problems_of_properties(&mut problems);
        if self.idempotence && self.acks != Acks::All {
            let sentence = "only `all` goes with idempotence; say `idempotence: false` if you mean it";
            problems.push(("acks".to_owned(), sentence.to_owned()));
        }
        if let Some(create) = &self.create {
            if create.partitions == 0 {
                problems.push(("create.partitions".to_owned(), "must be 1 or more".to_owned()));
            }
            if create.replication == Some(0) {
                problems.push(("create.replication".to_owned(), "must be 1 or more".to_owned()));
            }
        }
        if let Some(tls) = &self.tls
            && tls.cert.is_some() != tls.key.is_some()
        {
            let missing = if tls.cert.is_some() { "tls.key" } else { "tls.cert" };
            problems
                .push((missing.to_owned(), "a client certificate needs both `cert` and `key`".to_owned()));
        }
        problems
    }

    fn naming(&self) -> Naming {
        Naming::Kafka
    }

    fn target(&self) -> String {
        format!("kafka://{}", self.brokers.replace(' ', ""))
    }

    fn build(&self, context: Context) -> Box<dyn Sink> {
        Box::new(KafkaSink::new(self.clone(), context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(yaml: &str) -> KafkaOptions {
        serde_yaml::from_str(yaml).expect(yaml)
    }

    #[test]
    fn problems_name_their_key() {
        for (yaml, key) in [
            ("brokers: ''", "brokers"),
            ("brokers: 'kafka://a:9092'", "brokers"),
            ("brokers: 'a:9092,,b:9092'", "brokers"),
            ("{brokers: a, acks: 1}", "acks"),
            ("{brokers: a, buffer_max: 1MiB}", "message_max"),
            ("{brokers: a, window: 0}", "window"),
            ("{brokers: a, create: {partitions: 0}}", "create.partitions"),
            ("{brokers: a, tls: {cert: c.pem}}", "tls.key"),
            ("{brokers: a, tls: {key: k.pem}}", "tls.cert"),
            ("{brokers: a, properties: {acks: '0'}}", "properties.acks"),
            ("{brokers: a, properties: {max.in.flight: '9'}}", "properties.max.in.flight"),
            (
                "{brokers: a, properties: {delivery.report.only.error: 'true'}}",
                "properties.delivery.report.only.error",
            ),
            ("{brokers: a, properties: {no.such: '1'}}", "properties.no.such"),
            ("{brokers: a, properties: {client.rack: r, retries: many}}", "properties.retries"),
        ] {
            let problems = options(yaml).problems();
            assert!(problems.iter().any(|(found, _)| found == key), "{yaml}: {problems:?}");
        }
    }

    #[test]
    fn a_confirmation_that_confirms_nothing_is_refused() {
        let error = serde_yaml::from_str::<KafkaOptions>("{brokers: a, acks: 0}").expect_err("acks 0");
        assert!(error.to_string().contains("could be lost"), "{error}");
    }
}
