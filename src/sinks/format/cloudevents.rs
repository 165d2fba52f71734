//! CloudEvents 1.0: a registry's event as attributes and data.
//!
//! | attribute | from |
//! |---|---|
//! | `id` | the message's id |
//! | `source` | `//` and `source.addr`; without one, `urn:relay:` and the journal's identity |
//! | `type` | `io.github.distribution.` and the action |
//! | `subject` | `repository:tag`, else `repository@digest`, else `repository` |
//! | `time` | the event's timestamp; without one that is RFC 3339, when the receiver took it |
//! | `datacontenttype` | `application/json`; in binary mode it is the message's content type |

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;

use crate::event::Event;
use crate::journal::{Micros, Stored};
use crate::sinks::Naming;

/// The structured mode's media type (CloudEvents JSON format, 3).
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
const TYPE_PREFIX: &str = "io.github.distribution.";

/// How a protocol's binding of CloudEvents names and writes attributes in the binary mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// `ce_id`, UTF-8 (Kafka binding, 3.2.4).
    Kafka,
    /// `cloudEvents:id` among the application properties, UTF-8 (AMQP binding, 3.1.3).
    Amqp,
    /// `ce-id`, percent-encoded (HTTP binding, 3.1.3; the NATS binding follows it).
    Http,
}

impl Binding {
    pub fn of(naming: Naming) -> Self {
        match naming {
            Naming::Kafka => Self::Kafka,
            Naming::Amqp => Self::Amqp,
            Naming::Nats | Naming::Path | Naming::Plain => Self::Http,
        }
    }

    /// The headers' names, in the order of [`Attributes::values`].
    fn names(self) -> [&'static str; 6] {
        match self {
            Self::Kafka => ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject"],
            Self::Amqp => [
                "cloudEvents:specversion",
                "cloudEvents:id",
                "cloudEvents:source",
                "cloudEvents:type",
                "cloudEvents:time",
                "cloudEvents:subject",
            ],
            Self::Http => ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time", "ce-subject"],
        }
    }
}

/// The attributes of one event.
pub struct Attributes<'a> {
    id: &'a str,
    source: String,
    kind: String,
    time: Cow<'a, str>,
    /// `None` for an event without a repository.
    subject: Option<String>,
}

impl<'a> Attributes<'a> {
    pub fn of(stored: &'a Stored, id: &'a str, journal_identity: &str) -> Self {
        let event = &stored.event;
        Self {
            id,
            source: source(event.source(), journal_identity),
            kind: match event.action() {
                "" => format!("{TYPE_PREFIX}event"),
                action => format!("{TYPE_PREFIX}{action}"),
            },
            time: time(event.timestamp(), stored.arrived),
            subject: subject(event),
        }
    }

    /// In the order of [`Binding::names`].
    fn values(self) -> [Option<Cow<'a, str>>; 6] {
        [
            Some("1.0".into()),
            Some(self.id.into()),
            Some(self.source.into()),
            Some(self.kind.into()),
            Some(self.time),
            self.subject.map(Cow::Owned),
        ]
    }

    /// The binary mode. A header that the user configured under the same name stays.
    pub fn into_headers(self, binding: Binding, headers: &mut Vec<(Cow<'static, str>, String)>) {
        let configured = headers.len();
        for (name, value) in binding.names().into_iter().zip(self.values()) {
            let Some(value) = value else { continue };
            if headers[..configured].iter().any(|(taken, _)| taken.eq_ignore_ascii_case(name)) {
                continue;
            }
            let value = if binding == Binding::Http { percent_encoded(&value).into() } else { value.into() };
            headers.push((Cow::Borrowed(name), value));
        }
    }

    /// The structured mode: one JSON document, with `data` as it is.
    pub fn into_document(self, data: &Bytes) -> Bytes {
        let mut out = String::with_capacity(320 + data.len());
        let names = ["specversion", "id", "source", "type", "time", "subject"];
        for (name, value) in names.into_iter().zip(self.values()) {
            let Some(value) = value else { continue };
            out.push(if out.is_empty() { '{' } else { ',' });
            // A `Value`'s display is JSON; writing to a `String` does not fail.
            let _ = write!(out, "\"{name}\":{}", serde_json::Value::from(value.as_ref()));
        }
        out.push_str(",\"datacontenttype\":\"application/json\",\"data\":");
        let mut out = out.into_bytes();
        out.extend_from_slice(data);
        out.push(b'}');
        out.into()
    }
}

/// A URI reference that names the registry; never empty (CloudEvents 1.0, `source`).
fn source(addr: &str, journal_identity: &str) -> String {
    if addr.is_empty() {
        return format!("urn:relay:{journal_identity}");
    }
    let mut out = String::with_capacity(2 + addr.len());
    out.push_str("//");
    encode(addr, &mut out, |byte| byte.is_ascii_alphanumeric() || b"-._~:[]@!$&'()*+,;=".contains(&byte));
    out
}

fn subject(event: &Event) -> Option<String> {
    match (event.repository(), event.tag(), event.digest()) {
        ("", _, _) => None,
        (repository, "", "") => Some(repository.to_owned()),
        (repository, "", digest) => Some(format!("{repository}@{digest}")),
        (repository, tag, _) => Some(format!("{repository}:{tag}")),
    }
}

fn time(timestamp: &str, arrived: Micros) -> Cow<'_, str> {
    if timestamp.parse::<jiff::Timestamp>().is_ok() {
        return timestamp.into();
    }
    jiff::Timestamp::from_microsecond(arrived).unwrap_or_default().to_string().into()
}

/// A text as it may stand in a header of HTTP or NATS: whatever is not visible ASCII, and `"` and
/// `%`, percent-encoded (CloudEvents' HTTP binding, 3.1.3.2).
pub fn percent_encoded(text: &str) -> Cow<'_, str> {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'%';
    if text.bytes().all(fits) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    encode(text, &mut out, fits);
    out.into()
}

fn encode(text: &str, out: &mut String, fits: impl Fn(u8) -> bool) {
    for byte in text.bytes() {
        if fits(byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}
