//! What serde finds wrong, in this relay's words.

use std::fmt;

use serde::de::{Expected, Unexpected};

use super::problem::{KeyPath, Place, Step};
use super::tree::Node;
use crate::route::nearest;

/// One mistake that serde found.
#[derive(Debug)]
pub struct Mistake {
    wrong: Wrong,
    pub place: Option<Place>,
    /// From the inside out.
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Wrong {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
    /// Anything else, as a sentence.
    Value(String),
}

impl Mistake {
    fn new(wrong: Wrong) -> Self {
        Self { wrong, place: None, steps: Vec::new() }
    }

    pub fn under(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// At `node`, unless something within it is already named.
    pub fn at(mut self, node: &Node) -> Self {
        if self.place.is_none() {
            self.place = Some(node.place);
            if let (Wrong::Value(text), Some(written), Some(value)) =
                (&mut self.wrong, &node.written, node.text())
            {
                hide(text, value, written);
            }
        }
        self
    }

    pub fn path(&self) -> KeyPath {
        KeyPath(self.steps.iter().rev().cloned().collect())
    }

    /// Whether this is only so because something was skipped before: a key's value, or a key that
    /// was misspelt.
    pub fn follows_from_another(&self, node: Option<&Node>) -> bool {
        match (&self.wrong, node) {
            (_, Some(node)) if node.stand_in => true,
            (Wrong::MissingKey(missing), Some(node)) => node
                .entries()
                .iter()
                .any(|entry| entry.value.skipped && nearest(&entry.key, std::iter::once(*missing)).is_some()),
            _ => false,
        }
    }

    pub fn missing_key(&self) -> Option<&'static str> {
        match self.wrong {
            Wrong::MissingKey(key) => Some(key),
            _ => None,
        }
    }

    pub fn text(&self, path: &KeyPath) -> String {
        match &self.wrong {
            Wrong::UnknownKey { key, known } => unknown_key(key, known, path),
            Wrong::MissingKey(key) => format!("`{key}` is missing"),
            Wrong::Value(text) => text.clone(),
        }
    }
}

/// Takes a value that was filled in out of a text about it.
fn hide(text: &mut String, value: &str, written: &str) {
    if value.is_empty() || !text.contains(value) {
        return;
    }
    *text = text.replace(&format!("`{value}`"), &format!("`{written}`"));
    if text.replace(written, "").contains(value) {
        *text = format!("the value of `{written}` does not fit here");
    }
}

/// Keys of a sink that are easily put into its broker's block.
const SINK_KEYS: [&str; 8] =
    ["topic", "key", "format", "threshold", "backoff", "ignore", "give_up_after", "backlog_max"];

fn unknown_key(key: &str, known: &[&str], path: &KeyPath) -> String {
    if path.0.len() == 4 && path.0[0] == Step::Key("sinks".into()) && SINK_KEYS.contains(&key) {
        return format!("unknown key here; `{key}` is the sink's own: move it one level out");
    }
    match nearest(key, known.iter().copied()) {
        Some(nearest) => format!("unknown key; did you mean `{nearest}`?"),
        None if known.is_empty() => "unknown key; there are none here".to_owned(),
        None => format!("unknown key; there are {}", known.join(", ")),
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&self.path()))
    }
}

impl std::error::Error for Mistake {}

impl serde::de::Error for Mistake {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(Wrong::Value(text.to_string()))
    }

    /// Never with the value itself: it may be a secret.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found_word = match found {
            Unexpected::Bool(_) => "true or false",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a map",
            _ => "a text",
        };
        let expected = match expected.to_string() {
            text if matches!(found, Unexpected::Float(_)) && number(&text) != text => {
                return Self::invalid_value(found, expected);
            }
            text if text == "a sequence" => "a list, like `[…]`".to_owned(),
            text if text.starts_with("struct ") || text == "a map" => "a map of keys".to_owned(),
            text if text == "a string" || text == "string" => "a text".to_owned(),
            text if text == "a boolean" => "true or false".to_owned(),
            text => text,
        };
        Self::custom(format_args!("expected {expected}, found {found_word}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {}", number(&expected.to_string())))
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        match nearest(found, known.iter().copied()) {
            Some(nearest) => Self::custom(format_args!("unknown value `{found}`; did you mean `{nearest}`?")),
            None => Self::custom(format_args!("unknown value `{found}`; there are {}", known.join(", "))),
        }
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Wrong::UnknownKey { key: key.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Wrong::MissingKey(key))
    }
}

/// What serde calls `u16` is said so that it helps.
pub fn number(expected: &str) -> String {
    let range = match expected {
        "u8" => (0, u64::from(u8::MAX)),
        "u16" => (0, u64::from(u16::MAX)),
        "u32" => (0, u64::from(u32::MAX)),
        "u64" | "usize" => (0, u64::MAX),
        other => return other.to_owned(),
    };
    format!("a whole number from {} to {}", range.0, range.1)
}
