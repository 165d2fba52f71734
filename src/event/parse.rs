//! From a request's body to events. Lenient where a registry may differ, strict where bytes count.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::shapes::Shapes;
use super::{Event, FIELDS, Field, Span};

/// Bodies above this are not indexed: spans are 31-bit. Far over any `body_max` that makes sense.
const EVENT_BYTES_MAX: usize = i32::MAX as usize;

/// A guess at an event's size, a low one.
const EVENT_BYTES_USUAL: usize = 900;

/// Why a body could not be read as an envelope. The body then goes to the quarantine, whole.
#[derive(Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// No JSON, or not UTF-8; says where.
    Json(String),
    /// JSON, but neither an envelope (`{"events": [...]}`) nor a single event (with an `action`).
    NotAnEnvelope,
    /// An entry of `events` that is not an object; says which, counted from 0.
    NotAnEvent(usize),
    /// An event too large to index.
    TooLarge,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(what) => write!(f, "not JSON: {what}"),
            Self::NotAnEnvelope => f.write_str(
                "neither an envelope ({\"events\": [...]}) nor an event (an object with \"action\")",
            ),
            Self::NotAnEvent(index) => write!(f, "events[{index}] is not an object"),
            Self::TooLarge => write!(f, "an event is larger than {EVENT_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

/// What a registry posts: one or many events.
#[derive(Debug)]
pub struct Envelope {
    pub events: Vec<Event>,
}

/// The outermost object, unread but for what tells an envelope from a single event.
#[derive(serde::Deserialize)]
struct Outer<'a> {
    #[serde(borrow, default)]
    events: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    action: Option<IgnoredAny>,
}

impl Envelope {
    /// Reads a body, whatever its `Content-Type` said.
    ///
    /// # Errors
    /// [`EnvelopeError`] when any part cannot be read: an envelope is taken whole or not at all.
    pub fn parse(body: &Bytes) -> Result<Self, EnvelopeError> {
        let text = std::str::from_utf8(body).map_err(|error| EnvelopeError::Json(error.to_string()))?;
        if body.len() <= EVENT_BYTES_MAX
            && let Some(events) = usual(body, text)
        {
            return Ok(Self { events });
        }
        Self::parse_any(body, text)
    }

    /// Reads a body that may be anything, in two passes: one finds where each event ends.
    fn parse_any(body: &Bytes, text: &str) -> Result<Self, EnvelopeError> {
        let outer: Outer<'_> = match serde_json::from_str(text) {
            Ok(outer) => outer,
            Err(error) if error.is_data() => return Err(EnvelopeError::NotAnEnvelope),
            Err(error) => return Err(EnvelopeError::Json(error.to_string())),
        };
        let Some(raws) = outer.events else {
            if outer.action.is_none() {
                return Err(EnvelopeError::NotAnEnvelope);
            }
            let event = body.slice_ref(text.trim_ascii().as_bytes());
            return Ok(Self { events: vec![Event::parse(event)?] });
        };
        let mut events = Vec::with_capacity(raws.len());
        for (index, raw) in raws.iter().enumerate() {
            let raw = raw.get().as_bytes();
            if raw.first() != Some(&b'{') {
                return Err(EnvelopeError::NotAnEvent(index));
            }
            events.push(Event::parse(body.slice_ref(raw))?);
        }
        Ok(Self { events })
    }
}

/// Reads in one pass what registries send: an object with nothing but events. `None` when it is
/// something else, or wrong somewhere.
fn usual(body: &Bytes, text: &str) -> Option<Vec<Event>> {
    let mut rest = ["{", "\"events\"", ":", "["].iter().try_fold(text, |text, token| after(text, token))?;
    let mut events = Vec::with_capacity(1 + text.len() / EVENT_BYTES_USUAL);
    let mut shapes = Shapes::default();
    loop {
        rest = trim(rest);
        let behind = match shapes.fit(rest.as_bytes()) {
            Some((len, fields)) => {
                let (event, behind) = rest.split_at(len);
                events.push(Event { raw: body.slice_ref(event.as_bytes()), extra: Bytes::new(), fields });
                behind
            }
            None => {
                let (event, behind) = first_event(body, rest)?;
                shapes.learn(&rest.as_bytes()[..event.raw.len()], &event.fields);
                events.push(event);
                behind
            }
        };
        match after(behind, ",") {
            Some(next) => rest = next,
            None => return trim(after(after(behind, "]")?, "}")?).is_empty().then_some(events),
        }
    }
}

/// The event that `text` begins with, a part of `body`, and what stands behind it.
fn first_event<'t>(body: &Bytes, text: &'t str) -> Option<(Event, &'t str)> {
    if !text.starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Found<'_>>();
    let found = values.next()?.ok()?;
    let (event, behind) = text.split_at(values.byte_offset());
    Some((Event::of(body.slice_ref(event.as_bytes()), found), behind))
}

/// What follows a token of JSON that comes next.
fn after<'t>(text: &'t str, token: &str) -> Option<&'t str> {
    trim(text).strip_prefix(token)
}

/// Without the white space that JSON allows before a token.
fn trim(text: &str) -> &str {
    text.trim_start_matches([' ', '\n', '\r', '\t'])
}

/// The texts of an event's fields, in the order of [`Field`].
struct Found<'t>([Cow<'t, str>; FIELDS]);

impl<'de> serde::Deserialize<'de> for Found<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let mut found: [Cow<'de, str>; FIELDS] = Default::default();
        Object { level: Level::Event, found: &mut found }.deserialize(json)?;
        Ok(Self(found))
    }
}

impl Event {
    /// Indexes one event's JSON object. Fields of an unexpected type count as absent; the bytes
    /// are kept as they are.
    ///
    /// # Errors
    /// [`EnvelopeError::Json`] when the bytes are not one JSON object in UTF-8.
    pub fn parse(raw: Bytes) -> Result<Self, EnvelopeError> {
        if raw.len() > EVENT_BYTES_MAX {
            return Err(EnvelopeError::TooLarge);
        }
        let text = std::str::from_utf8(&raw).map_err(|error| EnvelopeError::Json(error.to_string()))?;
        let found = serde_json::from_str(text).map_err(|error| EnvelopeError::Json(error.to_string()))?;
        Ok(Self::of(raw.clone(), found))
    }

    /// `found`: texts that stand in `raw`, or own what they hold.
    fn of(raw: Bytes, Found(found): Found<'_>) -> Self {
        let mut extra = Vec::new();
        let fields = found.map(|text| match text {
            text if text.is_empty() => Span::default(),
            Cow::Borrowed(text) => Span::in_raw(text.as_ptr() as usize - raw.as_ptr() as usize, text.len()),
            Cow::Owned(text) => {
                extra.extend_from_slice(text.as_bytes());
                Span::in_extra(extra.len() - text.len(), text.len())
            }
        });
        Self { raw, extra: extra.into(), fields }
    }
}

/// Which object of an event is being read.
#[derive(Clone, Copy)]
enum Level {
    Event,
    Target,
    Request,
    Actor,
    Source,
}

/// What to do with the value of a key.
enum Slot {
    Text(Field),
    Inner(Level),
    Skip,
}

impl Level {
    /// The shape of distribution's `notifications/event.go`.
    fn slot(self, key: &str) -> Slot {
        match (self, key) {
            (Level::Event, "id") => Slot::Text(Field::Id),
            (Level::Event, "timestamp") => Slot::Text(Field::Timestamp),
            (Level::Event, "action") => Slot::Text(Field::Action),
            (Level::Event, "target") => Slot::Inner(Level::Target),
            (Level::Event, "request") => Slot::Inner(Level::Request),
            (Level::Event, "actor") => Slot::Inner(Level::Actor),
            (Level::Event, "source") => Slot::Inner(Level::Source),
            (Level::Target, "mediaType") => Slot::Text(Field::MediaType),
            (Level::Target, "digest") => Slot::Text(Field::Digest),
            (Level::Target, "repository") => Slot::Text(Field::Repository),
            (Level::Target, "fromRepository") => Slot::Text(Field::FromRepository),
            (Level::Target, "tag") => Slot::Text(Field::Tag),
            (Level::Target, "url") => Slot::Text(Field::Url),
            (Level::Request, "id") => Slot::Text(Field::RequestId),
            (Level::Request, "method") => Slot::Text(Field::Method),
            (Level::Actor, "name") => Slot::Text(Field::Actor),
            (Level::Source, "addr") => Slot::Text(Field::SourceAddr),
            (Level::Source, "instanceID") => Slot::Text(Field::SourceInstance),
            _ => Slot::Skip,
        }
    }
}

/// Reads an object's known keys into `found`; anything that is not an object is skipped.
struct Object<'f, 'de> {
    level: Level,
    found: &'f mut [Cow<'de, str>; FIELDS],
}

impl<'de> DeserializeSeed<'de> for Object<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            match self.level.slot(&key) {
                Slot::Text(field) => self.found[field as usize] = map.next_value_seed(Text)?,
                Slot::Inner(level) => {
                    map.next_value_seed(Object { level, found: &mut *self.found })?;
                }
                Slot::Skip => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// A string, borrowed unless it holds escapes; anything else is the empty string.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cow::Borrowed(""))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Cow::Borrowed(""))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_usual(body: &'static str) -> bool {
        usual(&Bytes::from_static(body.as_bytes()), body).is_some()
    }

    #[test]
    fn what_registries_send_takes_one_pass() {
        assert!(is_usual(r#"{"events":[{"id":"a"}]}"#));
        assert!(is_usual("\t{ \"events\" :\r\n [ {\"id\": \"a\"} ,\n{} ] }\n"));
        for other in ["{}", r#"{"events":[]}"#, r#"{"events":[{}],"more":1}"#, r#"{"events":[{},1]}"#, "[{}]"]
        {
            assert!(!is_usual(other), "{other}");
        }
    }

    fn piece() -> impl Strategy<Value = String> {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\n",
            "\u{a0}",
            "\"events\"",
            "\"id\"",
            "\"a\\u00e9\"",
            "\"é\"",
            "null",
            "1",
            "{\"events\":[",
            "]}",
            "{\"id\":\"a\",\"target\":{\"tag\":\"v\"}}",
            "{\"action\":\"push\"}",
        ];
        prop::sample::select(pieces.to_vec()).prop_map(str::to_owned)
    }

    /// An event by one of a few templates.
    fn event() -> impl Strategy<Value = String> {
        let templates = [
            "{\"id\":\"T\",\"action\":\"U\",\"target\":{\"tag\":\"T\",\"size\":V}}",
            "{\n   \"id\": V,\n   \"id\": \"U\",\n   \"actor\": {}\n}",
            "{\"source\":\"T\",\"source\":{\"addr\":\"U\",\"more\":[V,\"T\"]},\"id\":V}",
        ];
        let texts = ["a", "b", "", "é", "of sixteen bytes", "a\\u00e9", "a\\\"", "\t", "a\",\"b\":\"c"];
        let values =
            ["0", "12", "1234567890123456789", "-1", "1.5", "01", "1e9", "null", "\"s\"", "{}", "[]"];
        let one_of = |all: &[&'static str]| prop::sample::select(all.to_vec());
        (one_of(&templates), one_of(&texts), one_of(&texts), one_of(&values)).prop_map(
            |(template, text, other, value)| {
                template.replace('V', value).replace('T', text).replace('U', other)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// An event of a known shape is read as one of an unknown one is.
        #[test]
        fn comparing_is_as_good_as_reading(events in prop::collection::vec(event(), 1..12)) {
            let body = Bytes::from(format!("{{\"events\":[{}]}}", events.join(",")));
            let text = std::str::from_utf8(&body).expect("text");
            let any = Envelope::parse_any(&body, text).ok().map(|envelope| envelope.events);
            prop_assert_eq!(usual(&body, text), any);
        }

        /// One pass finds just what two do.
        #[test]
        fn one_pass_is_as_good_as_two(
            pieces in prop::collection::vec(piece(), 0..8),
            between in prop::sample::select(vec!["", ",", " ,\n"]),
            is_framed in any::<bool>(),
        ) {
            let middle = pieces.join(between);
            let text = if is_framed { format!("{{\"events\":[{middle}]}}") } else { middle };
            let body = Bytes::from(text);
            let text = std::str::from_utf8(&body).expect("text");
            let any = Envelope::parse_any(&body, text);
            if let Some(events) = usual(&body, text) {
                prop_assert_eq!(&events, &any.expect("readable").events);
            }
        }
    }
}
