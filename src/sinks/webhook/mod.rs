//! Webhooks: a registry's endpoint, so that whatever listens to a registry can listen to the relay.
//!
//! Messages wait in a queue ([`queue`]), from which lanes take them. Each lane is a task with a
//! connection of its own ([`lane`], [`connection`]), which makes its requests one after the other; what
//! an answer means stands in [`answer`] and in `docs/failures/webhook.md`.

mod answer;
mod connection;
mod lane;
mod queue;
mod sink;
mod target;
mod tls;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use url::Url;

use super::{Context, Naming, Options, Sink};
use crate::config::Format;

const BATCH_MAX: usize = 1000;
const CONCURRENCY_MAX: usize = 256;

/// Options of the webhook sink.
///
/// Each request is a `POST`, and its body by default what a registry sends: an envelope with the
/// registry's media type. The sink's `headers` are sent with it, and `Relay-Id` with the event's id.
/// No redirect is followed. It speaks HTTP/1.1 on as many kept connections as `concurrency` says.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookOptions {
    /// `http://…` or `https://…`; a user and a password in it are sent as basic authentication.
    pub url: Endpoint,
    /// The most events in one envelope. A registry sends one.
    #[serde(default = "one")]
    pub batch: usize,
    /// How many requests are on their way at once. With 1, as a registry has it, everything arrives
    /// in order; with more, the events of each key do.
    #[serde(default = "one")]
    pub concurrency: usize,
    /// Statuses that say that an event will never be taken: it becomes a dead letter. 413 always
    /// does; any other failure is tried again for ever, as by a registry.
    #[serde(default)]
    pub reject: Vec<u16>,
    /// TLS beyond the system's authorities.
    pub tls: Option<WebhookTls>,
}

/// TLS to the endpoint.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookTls {
    /// A PEM file of the authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's certificate.
    pub cert: Option<PathBuf>,
    /// A PEM file with the client's key.
    pub key: Option<PathBuf>,
}

fn one() -> usize {
    1
}

impl Options for WebhookOptions {
    fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut add = |key: &str, text: String| found.push((key.to_owned(), text));
        if self.url.parsed().is_none() {
            // The text itself may hold a password or a token.
            add("url", "not an address like https://host/path".to_owned());
        }
        if !(1..=BATCH_MAX).contains(&self.batch) {
            add("batch", format!("must be from 1 to {BATCH_MAX}"));
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            add("concurrency", format!("must be from 1 to {CONCURRENCY_MAX}"));
        }
        if self.reject.iter().any(|status| !(400..600).contains(status)) {
            add("reject", "statuses are from 400 to 599".to_owned());
        }
        if self.tls.as_ref().is_some_and(|tls| tls.cert.is_some() != tls.key.is_some()) {
            add("tls.cert", "cert and key go together".to_owned());
        }
        found
    }

    fn default_format(&self) -> Format {
        Format::Envelope
    }

    fn naming(&self) -> Naming {
        Naming::Plain
    }

    fn target(&self) -> String {
        self.url.to_string()
    }

    fn build(&self, context: Context) -> Box<dyn Sink> {
        Box::new(sink::WebhookSink::new(self.clone(), context))
    }
}

/// An endpoint's address. Shown without what may be a secret: credentials, query and fragment.
#[derive(Clone)]
pub struct Endpoint(String);

impl Endpoint {
    fn parsed(&self) -> Option<Url> {
        let url: Url = self.0.parse().ok()?;
        (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(url) = self.parsed() else { return f.write_str("(not an address)") };
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self)
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "uri"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(yaml: &str) -> WebhookOptions {
        serde_yaml::from_str(yaml).expect(yaml)
    }

    #[test]
    fn finds_what_types_cannot() {
        for (yaml, keys) in [
            ("{url: 'http://a/b'}", &[][..]),
            ("{url: 'https://u:p@a:1/b?c', batch: 10, concurrency: 4, reject: [400, 422]}", &[]),
            ("{url: a/b}", &["url"]),
            ("{url: 'ftp://a/b'}", &["url"]),
            ("{url: 'http://a', batch: 0}", &["batch"]),
            ("{url: 'http://a', concurrency: 257}", &["concurrency"]),
            ("{url: 'http://a', reject: [302]}", &["reject"]),
            ("{url: 'http://a', tls: {key: k}}", &["tls.cert"]),
        ] {
            let problems = options(yaml).problems();
            let found: Vec<_> = problems.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(found, keys, "{yaml}");
        }
    }

    #[test]
    fn shows_no_secret() {
        let options = options("{url: 'https://user:hunter2@a:8443/b?token=hunter2#hunter2'}");
        assert_eq!(options.target(), "https://a:8443/b");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
