//! Rendering: from a stored event and its targets at one sink to the messages that the sink sends.

mod cloudevents;
mod strip;

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use super::Message;
use crate::config::{Format, SinkConfig, Strip};
use crate::event::Event;
use crate::journal::Stored;
use crate::route::Target;

pub use cloudevents::{Binding, percent_encoded};

/// What a registry of distribution 2.x writes over its envelopes (`notifications/event.go`,
/// `EventsMediaType`); 3.x says `v2`, of the same shape, and whoever listens to both ignores it.
pub const ENVELOPE_MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v1+json";
const JSON: &str = "application/json";

const ENVELOPE_OPEN: &[u8] = b"{\"events\":[";
const ENVELOPE_CLOSE: &[u8] = b"]}";

/// Makes a sink's messages. Immutable once made: one per worker, or one shared by many.
#[derive(Clone, Debug)]
pub struct Renderer {
    format: Format,
    binding: Binding,
    headers: Vec<(Cow<'static, str>, String)>,
    /// `target.references`: for events whose body would be larger than `body_bytes_max`, or, where
    /// that is not set, for all.
    strip_references: bool,
    /// `actor.user`: for all events, since it is taken out for what it is and not for its size.
    strip_actor_user: bool,
    body_bytes_max: Option<u64>,
    journal_identity: String,
}

impl Renderer {
    /// `journal_identity` is [`crate::journal::Journal::identity`]: ids of events that have none
    /// derive from it.
    pub fn new(config: &SinkConfig, journal_identity: &str) -> Self {
        let headers = config.headers.iter().map(|(name, value)| (name.clone().into(), value.clone()));
        Self {
            format: config.format,
            binding: Binding::of(config.options.naming()),
            headers: headers.collect(),
            strip_references: config.strip.contains(&Strip::References),
            strip_actor_user: config.strip.contains(&Strip::ActorUser),
            body_bytes_max: config.message_bytes_max,
            journal_identity: journal_identity.to_owned(),
        }
    }

    /// Appends to `out` one message for each topic that `targets` name, in their order; a topic that
    /// two targets name gets the event once, with the first one's key. All `targets` are this sink's.
    pub fn render<'t>(
        &self,
        stored: &Stored,
        targets: impl IntoIterator<Item = &'t Target>,
        out: &mut Vec<Message>,
    ) {
        let first = out.len();
        for target in targets {
            let topic = target.topic.name(&stored.event, target.naming);
            let siblings = &out[first..];
            if siblings.iter().any(|sibling| sibling.topic == topic) {
                continue;
            }
            let key = target.key.text(&stored.event);
            let message = match siblings.first() {
                None => self.message(stored, topic, key),
                Some(sibling) => {
                    let dedup_id = format!("{}:{topic}", sibling.id);
                    Message { topic, key, dedup_id, ..sibling.clone() }
                }
            };
            out.push(message);
        }
    }

    fn message(&self, stored: &Stored, topic: String, key: String) -> Message {
        let event = &stored.event;
        let id = match event.id() {
            "" => format!("{}-{}", self.journal_identity, stored.offset),
            id => id.to_owned(),
        };
        let mut headers = self.headers.clone();
        let content_type = match self.format {
            Format::Event => JSON,
            Format::Envelope => ENVELOPE_MEDIA_TYPE,
            Format::Cloudevents => {
                self.attributes(stored, &id).into_headers(self.binding, &mut headers);
                JSON
            }
            Format::CloudeventsStructured => cloudevents::MEDIA_TYPE,
        };
        Message {
            offset: stored.offset,
            arrived: stored.arrived,
            dedup_id: id.clone(),
            body: self.body(stored, &id),
            id,
            topic,
            key,
            headers,
            content_type,
            event: event.clone(),
        }
    }

    /// The body, with what is to be stripped taken out. Bytes that stay are the registry's.
    fn body(&self, stored: &Stored, id: &str) -> Bytes {
        let mut raw = self.without_actor_user(&stored.event);
        let body = self.dressed(stored, id, &raw);
        let too_large = self.body_bytes_max.is_none_or(|max| body.len() as u64 > max);
        if self.strip_references && too_large && strip::remove(&mut raw, &["target", "references"]) {
            return self.dressed(stored, id, &raw);
        }
        body
    }

    fn without_actor_user(&self, event: &Event) -> Bytes {
        let mut raw = event.raw().clone();
        if self.strip_actor_user {
            strip::remove(&mut raw, &["actor", "user"]);
        }
        raw
    }

    /// `raw` in this sink's format.
    fn dressed(&self, stored: &Stored, id: &str, raw: &Bytes) -> Bytes {
        match self.format {
            Format::Event | Format::Cloudevents => raw.clone(),
            Format::Envelope => envelope(std::slice::from_ref(raw)),
            Format::CloudeventsStructured => self.attributes(stored, id).into_document(raw),
        }
    }

    fn attributes<'a>(&'a self, stored: &'a Stored, id: &'a str) -> cloudevents::Attributes<'a> {
        cloudevents::Attributes::of(stored, id, &self.journal_identity)
    }
}

/// An envelope around events' JSON, without white space of its own.
pub fn envelope(events: &[Bytes]) -> Bytes {
    let bytes = events.iter().map(|event| event.len() + 1).sum::<usize>();
    let mut out = BytesMut::with_capacity(ENVELOPE_OPEN.len() + bytes + ENVELOPE_CLOSE.len());
    out.put_slice(ENVELOPE_OPEN);
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(event);
    }
    out.put_slice(ENVELOPE_CLOSE);
    out.freeze()
}

/// What stands in an envelope that [`envelope`] made: its events, separated by commas. `None` for
/// any other body.
pub fn inside_envelope(body: &Bytes) -> Option<Bytes> {
    let inside = body.strip_prefix(ENVELOPE_OPEN)?.strip_suffix(ENVELOPE_CLOSE)?;
    Some(body.slice_ref(inside))
}

#[cfg(test)]
mod tests;
