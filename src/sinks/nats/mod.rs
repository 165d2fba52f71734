//! NATS: core, or JetStream when there is a `jetstream` block.
//!
//! Both modes publish in a window and read confirmations from one inbox ([`sink`]); a connection
//! lives once and is never repaired behind our back ([`connection`]). What each error means stands
//! in `docs/failures/nats.md`.

mod connection;
mod flight;
mod rounds;
mod sink;
mod stream;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use async_nats::ServerAddr;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use super::{Context, Naming, Options, Sink};
use crate::config::{Secret, Size, Time};

/// Confirmations wait in a channel of `async-nats` that holds 65,536; half of it leaves room for
/// those of an attempt that was given up.
const WINDOW_MAX: usize = 32_768;

/// Options of the NATS sink.
///
/// Without `jetstream`, events are published to core NATS: a message counts as confirmed once the
/// server has taken it, and who does not listen at that moment does not get it.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsOptions {
    /// `nats://host:4222`, `tls://host:4222`, or a list of a cluster's servers, of which one that
    /// answers is used.
    pub servers: Servers,
    /// Publish to JetStream, which keeps messages and confirms each.
    pub jetstream: Option<JetStreamOptions>,
    /// The most messages in flight.
    #[serde(default = "default_window")]
    pub window: usize,
    /// A token. At most one of `token`, `user`, `nkey` and `credentials`.
    pub token: Option<Secret>,
    /// A user's name, with `password`.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The seed of an NKey (`SU…`).
    pub nkey: Option<Secret>,
    /// A credentials file (`.creds`) with a user's JWT and seed; read at each connection.
    pub credentials: Option<PathBuf>,
    /// TLS; also on by `tls://` servers, and where the server asks for it.
    pub tls: Option<NatsTls>,
    /// The connection's name, as the server's monitoring shows it; `relay/` and the sink's name by
    /// default.
    pub name: Option<String>,
    /// Where confirmations come to; change it where permissions allow another prefix alone. Core
    /// NATS needs the permission to publish there, too.
    #[serde(default = "default_inbox_prefix")]
    pub inbox_prefix: String,
}

/// JetStream.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JetStreamOptions {
    /// The stream that must take the messages: it is checked at each connection, and a message that
    /// another stream would take is refused. Without it, whichever stream captures the subject.
    pub stream: Option<String>,
    /// Create the stream if there is none of that name. One that is there is left as it is.
    pub create: Option<CreateStream>,
    /// The JetStream domain, for servers behind a leaf node.
    pub domain: Option<String>,
}

/// How a stream is created.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateStream {
    /// The subjects that it captures; `*` stands for one word, `>` for the rest.
    #[serde(default = "default_subjects")]
    pub subjects: Vec<String>,
    /// How long it keeps messages; without it, for ever.
    pub max_age: Option<Time>,
    /// The most it keeps, in bytes; beyond that the oldest go. Without it, what the server has room
    /// for.
    pub max_bytes: Option<Size>,
    /// The most messages it keeps; beyond that the oldest go.
    pub max_messages: Option<u64>,
    /// Copies in a cluster: 1, 3 or 5.
    #[serde(default = "default_replicas")]
    pub replicas: u8,
    /// `file`, or `memory`, which is lost when the server restarts.
    #[serde(default)]
    pub storage: Storage,
    /// How long the server remembers a `Nats-Msg-Id` and drops a second message with it. Longer
    /// than the sink's `timeout`, or copies after a failure are stored again.
    #[serde(default = "default_duplicate_window")]
    pub duplicate_window: Time,
}

/// Where a stream is kept.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    #[default]
    File,
    /// Lost when the server restarts.
    Memory,
}

/// TLS to the servers.
#[derive(Clone, Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NatsTls {
    /// Refuse to speak without TLS.
    pub required: bool,
    /// The server speaks TLS from the first byte (`handshake_first`).
    pub first: bool,
    /// A PEM file of the authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's certificate; needs `key`.
    pub cert: Option<PathBuf>,
    /// A PEM file with its key; needs `cert`.
    pub key: Option<PathBuf>,
}

fn default_window() -> usize {
    1024
}

fn default_inbox_prefix() -> String {
    "_INBOX".to_owned()
}

/// What the default topic, `registry.{action}`, sends to.
fn default_subjects() -> Vec<String> {
    vec!["registry.>".to_owned()]
}

fn default_replicas() -> u8 {
    1
}

/// The server's own default.
fn default_duplicate_window() -> Time {
    Time::from_secs(120)
}

impl Options for NatsOptions {
    fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut add = |key: &str, text: String| found.push((key.to_owned(), text));
        if self.servers.0.is_empty() {
            add("servers", "name at least one server, like nats://localhost:4222".to_owned());
        }
        for server in &self.servers.0 {
            if server.parse::<ServerAddr>().is_err() {
                // The text itself may hold a password.
                add("servers", "not an address like nats://host:4222 or tls://host:4222".to_owned());
            }
        }
        if !(1..=WINDOW_MAX).contains(&self.window) {
            add("window", format!("must be from 1 to {WINDOW_MAX}"));
        }
        let ways =
            [self.token.is_some(), self.user.is_some(), self.nkey.is_some(), self.credentials.is_some()];
        if ways.iter().filter(|&&given| given).count() > 1 {
            add("token", "give only one of token, user, nkey and credentials".to_owned());
        }
        if self.user.is_some() != self.password.is_some() {
            add("user", "user and password go together".to_owned());
        }
        if self.inbox_prefix.is_empty() || self.inbox_prefix.contains([' ', '*', '>']) {
            add("inbox_prefix", "must be a subject without wildcards".to_owned());
        }
        if self.tls.as_ref().is_some_and(|tls| tls.cert.is_some() != tls.key.is_some()) {
            add("tls.cert", "cert and key go together".to_owned());
        }
        if let Some(jetstream) = &self.jetstream {
            jetstream.problems(&mut add);
        }
        found
    }

    fn naming(&self) -> Naming {
        Naming::Nats
    }

    fn target(&self) -> String {
        let addresses: Vec<_> = self.servers.0.iter().map(|server| address(server)).collect();
        let addresses = addresses.join(",");
        match &self.jetstream {
            None => addresses,
            Some(JetStreamOptions { stream: None, .. }) => format!("{addresses} (JetStream)"),
            Some(JetStreamOptions { stream: Some(stream), .. }) => {
                format!("{addresses} (JetStream {stream})")
            }
        }
    }

    fn build(&self, context: Context) -> Box<dyn Sink> {
        Box::new(sink::NatsSink::new(self.clone(), context))
    }
}

impl JetStreamOptions {
    fn problems(&self, add: &mut impl FnMut(&str, String)) {
        let odd = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
        let named = |name: &str| !name.is_empty() && !name.contains(odd);
        match (&self.stream, &self.create) {
            (Some(stream), _) if !named(stream) => {
                add(
                    "jetstream.stream",
                    "a stream's name has no blanks, dots, wildcards or slashes".to_owned(),
                );
            }
            (None, Some(_)) => add("jetstream.stream", "name the stream to create".to_owned()),
            _ => {}
        }
        let Some(create) = &self.create else { return };
        if create.subjects.is_empty() {
            add("jetstream.create.subjects", "name at least one subject, like registry.>".to_owned());
        }
        if ![1, 3, 5].contains(&create.replicas) {
            add("jetstream.create.replicas", "must be 1, 3 or 5".to_owned());
        }
        if create.max_age.is_some_and(|age| age.duration < create.duplicate_window.duration) {
            add("jetstream.create.duplicate_window", "must not be longer than max_age".to_owned());
        }
    }
}

/// A server's `host:port`, without the credentials that its URL may hold.
fn address(server: &str) -> String {
    match server.parse::<ServerAddr>() {
        Ok(server) => format!("{}:{}", server.host(), server.port()),
        Err(_) => "(not an address)".to_owned(),
    }
}

/// One server, or a list of them.
#[derive(Clone)]
pub struct Servers(pub Vec<String>);

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|server| address(server))).finish()
    }
}

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ServersVisitor)
    }
}

struct ServersVisitor;

impl<'de> Visitor<'de> for ServersVisitor {
    type Value = Servers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address like nats://localhost:4222, or a list of them")
    }

    fn visit_str<E>(self, text: &str) -> Result<Servers, E> {
        Ok(Servers(text.split(',').map(|server| server.trim().to_owned()).collect()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Servers, A::Error> {
        let mut servers = Vec::new();
        while let Some(server) = list.next_element()? {
            servers.push(server);
        }
        Ok(Servers(servers))
    }
}

impl JsonSchema for Servers {
    fn schema_name() -> Cow<'static, str> {
        "Servers".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "array"], "items": {"type": "string"}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(yaml: &str) -> NatsOptions {
        serde_yaml::from_str(yaml).expect(yaml)
    }

    #[test]
    fn finds_what_types_cannot() {
        for (yaml, keys) in [
            ("{servers: 'nats://a:4222, b'}", &[][..]),
            ("{servers: [nats://u:p@a, tls://b:1], user: u, password: p}", &[]),
            ("{servers: []}", &["servers"]),
            ("{servers: 'http://a'}", &["servers"]),
            ("{servers: a, window: 0}", &["window"]),
            ("{servers: a, window: 40000}", &["window"]),
            ("{servers: a, token: t, nkey: n}", &["token"]),
            ("{servers: a, user: u}", &["user"]),
            ("{servers: a, tls: {cert: c}}", &["tls.cert"]),
            ("{servers: a, jetstream: {}}", &[]),
            ("{servers: a, jetstream: {stream: a.b}}", &["jetstream.stream"]),
            ("{servers: a, jetstream: {create: {}}}", &["jetstream.stream"]),
            ("{servers: a, jetstream: {stream: S, create: {replicas: 2}}}", &["jetstream.create.replicas"]),
            (
                "{servers: a, jetstream: {stream: S, create: {max_age: 1m}}}",
                &["jetstream.create.duplicate_window"],
            ),
        ] {
            let problems = options(yaml).problems();
            let found: Vec<_> = problems.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(found, keys, "{yaml}");
        }
    }

    #[test]
    fn shows_no_secret() {
        let options =
            options("{servers: 'nats://user:hunter2@a:4222', token: hunter2, jetstream: {stream: S}}");
        assert_eq!(options.target(), "a:4222 (JetStream S)");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
