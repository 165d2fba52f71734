//! A registry's own `notifications`, read out of its configuration.
//!
//! The keys, and what they mean, are distribution's: `configuration/configuration.go`, the structs
//! `Notifications`, `Endpoint` and `Ignore`; the same in 2.x and 3.x.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::problem::{KeyPath, Problem, Report};
use super::read::read;
use super::shape::Headers;
use super::tree::Node;
use super::units::{Scalar, Time};

/// What a registry notifies, and how.
#[derive(Debug, Default, PartialEq)]
pub struct Notifications {
    /// `events.includereferences`: a manifest's events list the layers.
    pub include_references: bool,
    pub endpoints: Vec<Endpoint>,
}

/// One of a registry's endpoints. What is absent has the registry's default: 1 s, 10 failures, 1 s.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub name: String,
    pub disabled: bool,
    pub url: String,
    #[serde(deserialize_with = "headers")]
    pub headers: Vec<(String, String)>,
    pub timeout: Option<GoDuration>,
    pub threshold: Option<i64>,
    pub backoff: Option<GoDuration>,
    pub ignoredmediatypes: Vec<String>,
    pub ignore: Ignore,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Ignore {
    pub mediatypes: Vec<String>,
    pub actions: Vec<String>,
}

/// A duration as a registry reads it: `1s` is what it says, a bare number is nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration {
    pub duration: Duration,
    /// The number, where no unit was given.
    pub bare: Option<i64>,
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_str(Scalar("a duration like 500ms or 1s"))?;
        if let Ok(bare) = text.parse::<i64>() {
            let duration = Duration::from_nanos(u64::try_from(bare).unwrap_or_default());
            return Ok(Self { duration, bare: Some(bare) });
        }
        let time = Time::parse(&text).map_err(D::Error::custom)?;
        Ok(Self { duration: time.duration, bare: None })
    }
}

fn headers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    Headers::deserialize(from).map(|headers| headers.0)
}

/// A registry's configuration, of which only this is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Shape {
    notifications: NotificationsShape,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NotificationsShape {
    events: EventsShape,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EventsShape {
    includereferences: bool,
}

/// Reads the text of a registry's configuration; `name` is what problems call the file. A registry
/// fills in no `${…}`, so none is here.
///
/// # Errors
/// What in its `notifications` cannot be read, in the text's order.
pub fn parse(text: &str, name: &str) -> Result<Notifications, Vec<Problem>> {
    let mut report = Report::default();
    let shape = Node::parse(text, &mut report).and_then(|mut tree| {
        let shape: Option<Shape> = read(&mut tree, &mut report);
        if shape.as_ref().is_some_and(|shape| shape.notifications.endpoints.is_empty()) {
            let path = KeyPath::parse("notifications.endpoints");
            report.error(Some(tree.place_of(&path)), path, "there are no endpoints here to import");
        }
        shape
    });
    let (errors, _) = report.finish(name);
    match shape {
        Some(Shape { notifications: NotificationsShape { events, endpoints } }) if errors.is_empty() => {
            Ok(Notifications { include_references: events.includereferences, endpoints })
        }
        _ => Err(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_registry_reads() {
        let text = "version: 0.1\nstorage: {filesystem: {rootdirectory: /x}}\nnotifications:\n  events:\n    \
                    includereferences: true\n  endpoints:\n  - name: a\n    url: http://x/\n    timeout: 500\n    \
                    backoff: 1.5s\n    threshold: 5\n    headers:\n      Authorization: [Bearer x]\n      X-Y: z\n    \
                    ignoredmediatypes: [application/octet-stream]\n    ignore: {actions: [pull]}\n    future: 1\n";
        let Notifications { include_references, endpoints } = parse(text, "config.yml").expect("read");
        let endpoint = &endpoints[0];
        assert!(include_references && endpoints.len() == 1);
        assert_eq!(
            endpoint.timeout,
            Some(GoDuration { duration: Duration::from_nanos(500), bare: Some(500) })
        );
        assert_eq!(endpoint.backoff.map(|time| time.duration), Some(Duration::from_millis(1500)));
        assert_eq!(endpoint.headers.len(), 2);
        assert_eq!(endpoint.ignore.actions, ["pull"]);
    }

    #[test]
    fn says_what_it_cannot_read() {
        let cases = [
            (
                "version: 0.1",
                "config.yml:1:1: notifications.endpoints: there are no endpoints here to import",
            ),
            (
                "notifications: {endpoints: [{timeout: soon}]}",
                "config.yml:1:39: notifications.endpoints[0].timeout: `soon` is not a duration; write it like \
                 500ms, 5s, 10m or 24h",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text, "config.yml").unwrap_err()[0].to_string(), expected);
        }
    }
}
