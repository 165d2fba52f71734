//! The shapes of an envelope's events. A registry writes all events by one template: what stands between
//! the values (keys, punctuation, indentation) is the same in many. So once an event has been read in
//! full, a next one that has its shape needs only comparing: what lies between with what lay there, and
//! each value with what a value of its kind may be. That takes a third of the time.
//!
//! It is as strict as reading in full. A string may stand where a string stood if it has no escapes,
//! and a number where a number stood if it is a plain one; everything else must be the same, byte for
//! byte. So the event is JSON, as that one was, and its fields stand where they stood there.

use super::{FIELDS, Span};

/// So many are tried for an event.
const SHAPES_MAX: usize = 8;

/// Digits of a number that counts as plain.
const DIGITS_MAX: usize = 15;

/// The shapes that were met so far, as they stand in the envelope.
#[derive(Default)]
pub struct Shapes<'t>(Vec<Shape<'t>>);

struct Shape<'t> {
    values: Vec<Value<'t>>,
    /// What stands behind the last value.
    end: &'t [u8],
}

/// A value that may be another in each event.
struct Value<'t> {
    /// What stands between the one before and this.
    before: &'t [u8],
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// What stands between quotes, with the field that it is the text of, if any.
    Text(Option<usize>),
    Digits,
}

impl<'t> Shapes<'t> {
    /// The event that `text` begins with, if it has a known shape: its length in bytes, and its fields.
    pub fn fit(&self, text: &[u8]) -> Option<(usize, [Span; FIELDS])> {
        self.0.iter().find_map(|shape| shape.fit(text))
    }

    /// Notes the shape of an event, which is valid JSON with these fields.
    pub fn learn(&mut self, event: &'t [u8], fields: &[Span; FIELDS]) {
        if self.0.len() < SHAPES_MAX {
            self.0.extend(Shape::of(event, fields));
        }
    }
}

impl<'t> Shape<'t> {
    /// `None` when a string has escapes.
    fn of(event: &'t [u8], fields: &[Span; FIELDS]) -> Option<Self> {
        let mut values = Vec::new();
        // Behind the last value that may be another, and where we are.
        let (mut behind, mut at) = (0, 0);
        while let Some(byte) = event.get(at) {
            let (start, end, what) = match byte {
                b'"' => {
                    let start = at + 1;
                    let end = start + text_len(&event[start..])?;
                    at = end + 1;
                    // An empty one says of no field where it would stand.
                    let varies = end > start && !is_key(&event[at..]);
                    (start, end, varies.then(|| What::Text(field_at(start, fields))))
                }
                b'-' | b'0'..=b'9' => {
                    let start = at;
                    at += number_len(&event[at..]);
                    let is_plain = digits(&event[start..]) == Some(at - start);
                    (start, at, is_plain.then_some(What::Digits))
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            if let Some(what) = what {
                values.push(Value { before: &event[behind..start], what });
                behind = end;
            }
        }
        Some(Self { values, end: &event[behind..] })
    }

    fn fit(&self, text: &[u8]) -> Option<(usize, [Span; FIELDS])> {
        let mut fields = [Span::default(); FIELDS];
        let mut rest = text;
        for value in &self.values {
            rest = rest.strip_prefix(value.before)?;
            let len = match value.what {
                What::Digits => digits(rest)?,
                What::Text(field) => {
                    let len = text_len(rest)?;
                    if let Some(span) = field.and_then(|field| fields.get_mut(field)).filter(|_| len > 0) {
                        *span = Span::in_raw(text.len() - rest.len(), len);
                    }
                    len
                }
            };
            rest = &rest[len..];
        }
        rest = rest.strip_prefix(self.end)?;
        Some((text.len() - rest.len(), fields))
    }
}

/// Whether what is followed by this is a key.
fn is_key(behind: &[u8]) -> bool {
    behind.trim_ascii_start().first() == Some(&b':')
}

fn field_at(start: usize, fields: &[Span; FIELDS]) -> Option<usize> {
    fields.iter().position(|span| *span == Span::in_raw(start, span.len()) && span.len() > 0)
}

/// How long a string is up to its closing quote; `None` when it has escapes, or bytes that none may have.
///
/// Looks at eight bytes at a time: a byte of `block - n` has its highest bit set where the one of `block`
/// was below `n`, in the first such place at least, since only that may borrow from those behind it.
fn text_len(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let below = |block: u64, n: u8| block.wrapping_sub(ONES * u64::from(n)) & !block & HIGH;
    let is = |block: u64, byte: u8| below(block ^ (ONES * u64::from(byte)), 1);
    let mut at = 0;
    while let Some(block) = text[at..].first_chunk() {
        let block = u64::from_le_bytes(*block);
        let special = is(block, b'"') | is(block, b'\\') | below(block, b' ');
        if special != 0 {
            at += special.trailing_zeros() as usize / 8;
            return (text[at] == b'"').then_some(at);
        }
        at += 8;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    at += text[at..].iter().position(is_special)?;
    (text[at] == b'"').then_some(at)
}

/// How long the plain number is that `text` begins with: digits alone, and no more than any reader takes.
fn digits(text: &[u8]) -> Option<usize> {
    let len = text.iter().take(DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    ((1..=DIGITS_MAX).contains(&len) && (len == 1 || text[0] != b'0')).then_some(len)
}

/// How long any number is.
fn number_len(text: &[u8]) -> usize {
    let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    text.iter().take_while(is_part).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_at_their_quote() {
        for len in 0..40 {
            for behind in ["", "\"", "\\\"", "\n\n\n\n\n\n\n\n\n\n"] {
                let text =
                    format!("{}\"{behind}", "é~ \u{7f}x".repeat(9).chars().take(len).collect::<String>());
                assert_eq!(text_len(text.as_bytes()), Some(text.find('"').expect("a quote")), "{text}");
                for wrong in ["\\", "\n", "\0", "\u{1f}"] {
                    let text = text.replacen('"', &format!("{wrong}\""), 1);
                    assert_eq!(text_len(text.as_bytes()), None, "{text}");
                }
            }
        }
        assert_eq!(text_len(b"no end, however long it is"), None);
    }

    #[test]
    fn plain_numbers() {
        let cases = [("0,", Some(1)), ("12}", Some(2)), ("123456789012345", Some(15)), ("1.5", Some(1))];
        let none = ["", "-1", "01", "a", "1234567890123456"].map(|text| (text, None));
        for (text, len) in cases.into_iter().chain(none) {
            assert_eq!(digits(text.as_bytes()), len, "{text}");
        }
    }

    #[test]
    fn only_values_may_differ() {
        let learned = br#"{"id":"a1","size":12,"ratio":1.5,"tag":"","ok":true,"target":{"tag":"v"}}"#;
        let fields = crate::event::Event::parse(learned.to_vec().into()).expect("an event").fields;
        let mut shapes = Shapes::default();
        shapes.learn(learned, &fields);
        let change = |from: &str, to: &str| {
            let text = std::str::from_utf8(learned).expect("text").replacen(from, to, 1);
            shapes.fit(format!("{text}, behind").as_bytes()).map(|(len, _)| len == text.len())
        };
        for (from, to) in [("a1", ""), ("a1", "\u{e9}t\u{e9}"), ("12", "0"), ("\"v\"", "\"latest\"")] {
            assert_eq!(change(from, to), Some(true), "{to}");
        }
        for (from, to) in [
            ("a1", "a\\u0031"),
            ("\"a1\"", "null"),
            ("12", "1e2"),
            ("12", "012"),
            ("1.5", "1.6"),
            ("\"\"", "\"t\""),
            ("true", "false"),
            ("size", "Size"),
            (",", " ,"),
        ] {
            assert_eq!(change(from, to), None, "{to}");
        }
    }
}
