//! The RabbitMQ sink's block of the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RabbitMqSink;
use crate::config::{Secret, Time};
use crate::sinks::{Context, Naming, Options, Sink};

/// The longest name that AMQP can carry (a short string), in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Publishes to RabbitMQ: persistent, confirmed, and never to nowhere.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RabbitMqOptions {
    /// `amqp://user:password@host:5672/vhost`, or `amqps://…`. Instead of `hosts`, `username`,
    /// `password` and `vhost`.
    #[serde(default)]
    pub uri: Option<Secret>,
    /// `host` or `host:port`; several are tried in turn.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The user's name; `guest` by default, which brokers take from their own machine alone.
    #[serde(default)]
    pub username: Option<String>,
    /// The user's password; `guest` by default.
    #[serde(default)]
    pub password: Option<Secret>,
    /// The virtual host; `/` by default.
    #[serde(default)]
    pub vhost: Option<String>,
    /// Speaks TLS; `{}` is enough where a public authority signed the broker's certificate.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Where messages are published to.
    #[serde(default)]
    pub exchange: Exchange,
    /// A queue to declare and bind to the exchange, so that there is somebody to keep the events.
    #[serde(default)]
    pub queue: Option<Queue>,
    /// Has messages come back that no queue takes: they become dead letters. Off, such a message is
    /// lost and counts as delivered.
    #[serde(default = "yes")]
    pub mandatory: bool,
    /// Messages survive a restart of the broker, in a durable queue.
    #[serde(default = "yes")]
    pub persistent: bool,
    /// How many messages may be unconfirmed. More helps where the broker is far: no more than so many
    /// are published in the time of a round trip and an fsync.
    #[serde(default = "default_window")]
    pub window: usize,
    /// A connection that is silent for twice as long is dead; in whole seconds.
    #[serde(default = "default_heartbeat")]
    pub heartbeat: Time,
    /// The name by which the broker shows this connection, and each message's `app_id`.
    #[serde(default = "default_connection_name")]
    pub connection_name: String,
}

/// Where messages are published to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exchange {
    /// `""` is the default exchange, which routes to the queue that is named like the topic.
    pub name: String,
    /// `topic`, `direct`, `fanout`, `headers`, or a plugin's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Creates it. Off, it must exist.
    pub declare: bool,
    /// It survives a restart of the broker.
    pub durable: bool,
}

/// A queue to declare and bind.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// The queue's name.
    pub name: String,
    /// The kind of queue; a `quorum` queue is replicated in a cluster.
    #[serde(default, rename = "type")]
    pub kind: QueueKind,
    /// Which routing keys it gets; `#`, all of them, by default.
    #[serde(default = "all_keys")]
    pub bindings: Vec<String>,
    /// It survives a restart of the broker; quorum queues and streams always do.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Further arguments, such as `x-max-length`.
    #[serde(default)]
    pub arguments: BTreeMap<String, Argument>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    #[default]
    Classic,
    Quorum,
    Stream,
}

/// The value of a queue's argument.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Argument {
    Bool(bool),
    Number(i64),
    Text(String),
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file of the authorities to trust, and no others; unset, the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate; needs `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of the client's key; needs `cert`.
    pub key: Option<PathBuf>,
}

fn yes() -> bool {
    true
}
fn all_keys() -> Vec<String> {
    vec!["#".to_owned()]
}
fn default_window() -> usize {
    2048
}
fn default_heartbeat() -> Time {
    Time::from_secs(10)
}
fn default_connection_name() -> String {
    "relay".to_owned()
}

impl Default for Exchange {
    fn default() -> Self {
        Self { name: "registry".to_owned(), kind: "topic".to_owned(), declare: true, durable: true }
    }
}

impl Exchange {
    pub(super) fn kind(&self) -> ExchangeKind {
        match self.kind.as_str() {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "headers" => ExchangeKind::Headers,
            "topic" => ExchangeKind::Topic,
            other => ExchangeKind::Custom(other.to_owned()),
        }
    }
}

impl Queue {
    pub(super) fn arguments(&self) -> FieldTable {
        let mut table = FieldTable::default();
        let kind = match self.kind {
            QueueKind::Classic => "classic",
            QueueKind::Quorum => "quorum",
            QueueKind::Stream => "stream",
        };
        table.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        for (name, value) in &self.arguments {
            let value = match value {
                Argument::Bool(value) => AMQPValue::Boolean(*value),
                Argument::Number(value) => AMQPValue::LongLongInt(*value),
                Argument::Text(value) => AMQPValue::LongString(value.as_str().into()),
            };
            table.insert(name.as_str().into(), value);
        }
        table
    }
}

impl RabbitMqOptions {
    /// One address for each host, in the order in which they are tried.
    ///
    /// # Errors
    /// The key that is wrong, and a sentence about it that holds no password.
    pub(super) fn addresses(&self) -> Result<Vec<AMQPUri>, (&'static str, String)> {
        let mut addresses = match (&self.uri, self.hosts.as_slice()) {
            (Some(uri), []) => vec![parse_uri(uri)?],
            (Some(_), _) => return Err(("hosts", "say either `uri` or `hosts`".to_owned())),
            (None, []) => return Err(("uri", "one of `uri` and `hosts` is needed".to_owned())),
            (None, hosts) => hosts.iter().map(|host| self.address(host)).collect::<Result<Vec<_>, _>>()?,
        };
        for address in &mut addresses {
            let seconds = self.heartbeat.duration.as_secs();
            address.query.heartbeat = Some(seconds.try_into().unwrap_or(u16::MAX));
            if self.tls.is_some() {
                address.scheme = AMQPScheme::AMQPS;
            }
        }
        Ok(addresses)
    }

    fn address(&self, host: &str) -> Result<AMQPUri, (&'static str, String)> {
        let scheme = if self.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
        let (name, port) = split_host(host, scheme.default_port())
            .ok_or_else(|| ("hosts", format!("`{host}` is not an address; write host or host:port")))?;
        let userinfo = AMQPUserInfo {
            username: self.username.clone().unwrap_or_else(|| "guest".to_owned()),
            password: self.password.as_ref().map_or("guest", Secret::expose).to_owned(),
        };
        let authority = AMQPAuthority { userinfo, host: name.to_owned(), port };
        let vhost = self.vhost.clone().unwrap_or_else(|| "/".to_owned());
        Ok(AMQPUri { scheme, authority, vhost, query: Default::default() })
    }

    fn problems_of_login(&self, problems: &mut Vec<(String, String)>) {
        if self.uri.is_some() {
            for (key, set) in [
                ("username", self.username.is_some()),
                ("password", self.password.is_some()),
                ("vhost", self.vhost.is_some()),
            ] {
                if set {
                    problems.push((key.to_owned(), "belongs into `uri`, or use `hosts`".to_owned()));
                }
            }
        }
        if let Some(tls) = &self.tls
            && tls.cert.is_some() != tls.key.is_some()
        {
            let missing = if tls.cert.is_some() { "tls.key" } else { "tls.cert" };
            problems
                .push((missing.to_owned(), "a client certificate needs both `cert` and `key`".to_owned()));
        }
    }

    fn problems_of_names(&self, problems: &mut Vec<(String, String)>) {
        let names = [
            ("exchange.name", self.exchange.name.as_str()),
            ("exchange.type", self.exchange.kind.as_str()),
            ("queue.name", self.queue.as_ref().map_or("", |queue| queue.name.as_str())),
            ("vhost", self.vhost.as_deref().unwrap_or_default()),
            ("connection_name", self.connection_name.as_str()),
        ];
        let mut too_long = |key: &str, name: &str| {
            if name.len() > NAME_BYTES_MAX {
                problems.push((key.to_owned(), format!("must be {NAME_BYTES_MAX} bytes at most")));
            }
        };
        for (key, name) in names {
            too_long(key, name);
        }
        let Some(queue) = &self.queue else { return };
        for name in queue.bindings.iter().chain(queue.arguments.keys()) {
            too_long("queue", name);
        }
        if queue.name.is_empty() {
            let sentence = "must not be empty: after each reconnection it would be another queue";
            problems.push(("queue.name".to_owned(), sentence.to_owned()));
        }
        if self.exchange.name.is_empty() {
            let sentence = "the default exchange cannot be bound: each queue has its messages by its name";
            problems.push(("queue".to_owned(), sentence.to_owned()));
        }
        if queue.kind != QueueKind::Classic && !queue.durable {
            problems.push(("queue.durable".to_owned(), "only a classic queue can do without".to_owned()));
        }
    }
}

fn parse_uri(uri: &Secret) -> Result<AMQPUri, (&'static str, String)> {
    let text = uri.expose();
    let mut address: AMQPUri = text.parse().map_err(|_| {
        let sentence = "not an AMQP address; write amqp://user:password@host:5672/vhost";
        ("uri", sentence.to_owned())
    })?;
    // The parser of AMQP addresses takes `localhost` for an IPv6 address, without a word.
    if text.contains("@[") || text.contains("//[") {
        return Err(("uri", "an IPv6 address has to stand in `hosts`".to_owned()));
    }
    // `amqp://host/` names a virtual host without a name, which nobody means.
    if address.vhost.is_empty() {
        "/".clone_into(&mut address.vhost);
    }
    Ok(address)
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_host(text: &str, default_port: u16) -> Option<(&str, u16)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))?),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = if port.is_empty() { default_port } else { port.parse().ok()? };
    let odd = host.is_empty() || host.contains(['/', '@', ' ']);
    (!odd).then_some((host, port))
}

impl Options for RabbitMqOptions {
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if let Err((key, sentence)) = self.addresses() {
            problems.push((key.to_owned(), sentence));
        }
        self.problems_of_login(&mut problems);
        self.problems_of_names(&mut problems);
        if !(1..=1_000_000).contains(&self.window) {
            problems.push(("window".to_owned(), "must be between 1 and 1000000".to_owned()));
        }
        if !(1..=u64::from(u16::MAX)).contains(&self.heartbeat.duration.as_secs()) {
            let sentence = "must be between 1s and 65535s: without it a dead broker is never noticed";
            problems.push(("heartbeat".to_owned(), sentence.to_owned()));
        }
        problems
    }

    fn naming(&self) -> Naming {
        Naming::Amqp
    }

    fn target(&self) -> String {
        let addresses = self.addresses().unwrap_or_default();
        let Some(first) = addresses.first() else { return String::new() };
        let hosts: Vec<_> = addresses.iter().map(host_and_port).collect();
        let vhost = if first.vhost == "/" { "" } else { first.vhost.as_str() };
        format!("{}://{}/{vhost} exchange {:?}", first.scheme, hosts.join(","), self.exchange.name)
    }

    fn build(&self, context: Context) -> Box<dyn Sink> {
        Box::new(RabbitMqSink::new(self.clone(), context))
    }
}

pub(super) fn host_and_port(address: &AMQPUri) -> String {
    let AMQPAuthority { host, port, .. } = &address.authority;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(yaml: &str) -> RabbitMqOptions {
        serde_yaml::from_str(yaml).expect(yaml)
    }

    #[test]
    fn addresses() {
        for (yaml, expected) in [
            ("uri: 'amqp://u:p@mq:5673/team'", "amqp://u:p@mq:5673/team?heartbeat=10"),
            ("uri: 'amqp://mq/'", "amqp://guest:guest@mq:5672/%2F?heartbeat=10"),
            ("uri: 'amqps://mq'", "amqps://guest:guest@mq:5671/%2F?heartbeat=10"),
            (
                "{hosts: [a, 'b:1'], username: u, password: p@, vhost: v}",
                "amqp://u:p%40@a:5672/v?heartbeat=10",
            ),
            ("{hosts: [a], tls: {}, heartbeat: 30s}", "amqps://guest:guest@a:5671/%2F?heartbeat=30"),
        ] {
            let options = options(yaml);
            assert!(options.problems().is_empty(), "{yaml}: {:?}", options.problems());
            assert_eq!(options.addresses().expect(yaml)[0].to_string(), expected);
        }
        let hosts = options("hosts: ['[::1]:5673', 'fe80']").addresses().expect("two");
        assert_eq!(hosts.iter().map(host_and_port).collect::<Vec<_>>(), ["[::1]:5673", "fe80:5672"]);
    }

    #[test]
    fn the_target_holds_no_secret() {
        let target = options("uri: 'amqp://u:hunter2@mq/team'").target();
        assert_eq!(target, "amqp://mq:5672/team exchange \"registry\"");
    }

    #[test]
    fn problems_name_their_key() {
        let long = "x".repeat(256);
        for (yaml, key) in [
            ("{}".to_owned(), "uri"),
            ("{uri: 'http://mq'}".to_owned(), "uri"),
            ("{uri: 'amqp://[::1]/'}".to_owned(), "uri"),
            ("{uri: 'amqp://mq', hosts: [a]}".to_owned(), "hosts"),
            ("{uri: 'amqp://mq', password: p}".to_owned(), "password"),
            ("{hosts: ['a:port']}".to_owned(), "hosts"),
            ("{hosts: ['']}".to_owned(), "hosts"),
            ("{hosts: [a], tls: {cert: c.pem}}".to_owned(), "tls.key"),
            ("{hosts: [a], window: 0}".to_owned(), "window"),
            ("{hosts: [a], heartbeat: 0s}".to_owned(), "heartbeat"),
            ("{hosts: [a], queue: {name: ''}}".to_owned(), "queue.name"),
            ("{hosts: [a], exchange: {name: ''}, queue: {name: q}}".to_owned(), "queue"),
            ("{hosts: [a], queue: {name: q, type: quorum, durable: false}}".to_owned(), "queue.durable"),
            (format!("{{hosts: [a], exchange: {{name: {long}}}}}"), "exchange.name"),
        ] {
            let problems = options(&yaml).problems();
            assert!(problems.iter().any(|(found, _)| found == key), "{yaml}: {problems:?}");
        }
    }

    #[test]
    fn a_wrong_uri_is_not_repeated() {
        let problems = options("uri: 'amqp//u:hunter2@mq'").problems();
        assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    }
}
