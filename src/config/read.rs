//! From the tree to the typed shape, by serde, with every mistake at its place.
//!
//! serde stops at the first mistake. Here the value that is wrong is then marked as skipped, as if
//! it had not been written, or an empty text is put where a key is missing, and the whole is read
//! again, until it can be read; so that all mistakes are reported at once.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

use super::mistake::{Mistake, number};
use super::problem::{KeyPath, Report, Step};
use super::tree::{Entry, Node, Value};

/// The most mistakes that are searched for: each costs a reading.
const MISTAKES_MAX: usize = 100;

/// Reads a `T` from `root`, reporting and skipping what is wrong. `None` when so much is wrong that
/// nothing is left.
pub fn read<T: DeserializeOwned>(root: &mut Node, report: &mut Report) -> Option<T> {
    for _ in 0..MISTAKES_MAX {
        let mistake = match T::deserialize(Reader { node: root }) {
            Ok(shape) => return Some(shape),
            Err(mistake) => mistake,
        };
        let path = mistake.path();
        let follows = mistake.follows_from_another(root.at(&path));
        if !follows {
            let place = mistake.place.unwrap_or_else(|| root.place_of(&path));
            report.error(Some(place), path.clone(), mistake.text(&path));
        }
        let node = root.at_mut(&path.0)?;
        match mistake.missing_key() {
            Some(key) if node.get(key).is_none() => node.stand_in_for(key),
            _ if path.0.is_empty() => return None,
            _ => node.skipped = true,
        }
    }
    report.error(None, KeyPath::default(), "too many mistakes to list them all");
    None
}

/// A node as serde's source.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
}

impl Reader<'_> {
    fn invalid(self, expected: &dyn Expected) -> Mistake {
        let found = match &self.node.value {
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
            Value::Scalar { .. } if self.node.is_null() => Unexpected::Unit,
            Value::Scalar { .. } => match self.resolve() {
                Resolved::Bool(value) => Unexpected::Bool(value),
                Resolved::Number => Unexpected::Unsigned(0),
                Resolved::Text => Unexpected::Str(""),
            },
        };
        <Mistake as serde::de::Error>::invalid_type(found, expected).at(self.node)
    }

    /// What a scalar is by YAML 1.2's core schema.
    fn resolve(&self) -> Resolved {
        match &self.node.value {
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" | "True" | "TRUE" => Resolved::Bool(true),
                "false" | "False" | "FALSE" => Resolved::Bool(false),
                text if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
                    && text.parse::<f64>().is_ok() =>
                {
                    Resolved::Number
                }
                _ => Resolved::Text,
            },
            _ => Resolved::Text,
        }
    }

    fn visit_map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), current: None }),
            // `stdout:` with nothing after it is written for `stdout: {}`.
            _ if self.node.is_null() => visitor.visit_map(Entries { rest: [].iter(), current: None }),
            _ => return Err(self.invalid(&visitor)),
        }
        .map_err(|mistake| mistake.at(self.node))
    }

    fn visit_seq<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items { rest: items.iter().enumerate() }),
            _ if self.node.is_null() => visitor.visit_seq(Items { rest: [].iter().enumerate() }),
            _ => return Err(self.invalid(&visitor)),
        }
        .map_err(|mistake| mistake.at(self.node))
    }

    fn visit_text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.node.text() {
            // A text is taken as it is written: `tags: [1.10]` means 1.10, not 1.1.
            Some(text) if !self.node.is_null() => {
                visitor.visit_str(text).map_err(|mistake: Mistake| mistake.at(self.node))
            }
            Some(_) => Err(self.invalid(&visitor)),
            // Of a visitor that takes lists or maps too; any other says what it expected.
            None => self.deserialize_any(visitor),
        }
    }

    fn visit_number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let Resolved::Number = self.resolve() else { return Err(self.invalid(&Numeric(&visitor))) };
        let text = self.node.text().unwrap_or_default();
        let visited = if let Ok(number) = text.parse::<u64>() {
            visitor.visit_u64(number)
        } else if let Ok(number) = text.parse::<i64>() {
            visitor.visit_i64(number)
        } else {
            visitor.visit_f64(text.parse().unwrap_or(f64::NAN))
        };
        visited.map_err(|mistake: Mistake| mistake.at(self.node))
    }
}

enum Resolved {
    Bool(bool),
    Number,
    Text,
}

/// What a visitor of numbers expects, in words.
struct Numeric<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> Expected for Numeric<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Name<'a, V>(&'a V);
        impl<'de, V: Visitor<'de>> fmt::Display for Name<'_, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.expecting(f)
            }
        }
        f.write_str(&number(&Name(self.0).to_string()))
    }
}

macro_rules! forward {
    ($($method:ident)* => $to:ident) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
            self.$to(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Mistake;

    forward! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 => visit_number
    }
    forward! {
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_identifier => visit_text
    }
    forward! { deserialize_map => visit_map }
    forward! { deserialize_seq => visit_seq }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::List(_) => self.visit_seq(visitor),
            Value::Map(_) => self.visit_map(visitor),
            Value::Scalar { .. } if self.node.is_null() => {
                visitor.visit_unit().map_err(|mistake: Mistake| mistake.at(self.node))
            }
            Value::Scalar { .. } => match self.resolve() {
                Resolved::Bool(value) => {
                    visitor.visit_bool(value).map_err(|mistake: Mistake| mistake.at(self.node))
                }
                Resolved::Number => self.visit_number(visitor),
                Resolved::Text => self.visit_text(visitor),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.resolve() {
            Resolved::Bool(value) => visitor.visit_bool(value),
            _ => Err(self.invalid(&visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.node.is_null() { visitor.visit_unit() } else { Err(self.invalid(&visitor)) }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.visit_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.visit_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.visit_map(visitor)
    }

    /// Enums are words here; choices with keys of their own are optional blocks instead, so that a
    /// mistake in one is reported at its own place.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.node.is_null() => {
                let word: StrDeserializer<'_, Mistake> = text.as_str().into_deserializer();
                visitor.visit_enum(word).map_err(|mistake| mistake.at(self.node))
            }
            _ => Err(self.invalid(&format!("one of {}", variants.join(", ")).as_str())),
        }
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Mistake;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let Some(entry) = self.rest.by_ref().find(|entry| !entry.value.skipped) else { return Ok(None) };
        self.current = Some(entry);
        let key: StrDeserializer<'_, Mistake> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mut mistake| {
            mistake.place = Some(entry.place);
            mistake.under(Step::Key(entry.key.clone()))
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mistake> {
        let Some(entry) = self.current.take() else {
            return Err(serde::de::Error::custom("a value without its key"));
        };
        seed.deserialize(Reader { node: &entry.value })
            .map_err(|mistake| mistake.at(&entry.value).under(Step::Key(entry.key.clone())))
    }
}

struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Mistake;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let Some((index, node)) = self.rest.by_ref().find(|(_, node)| !node.skipped) else {
            return Ok(None);
        };
        seed.deserialize(Reader { node })
            .map(Some)
            .map_err(|mistake| mistake.at(node).under(Step::Index(index)))
    }
}
