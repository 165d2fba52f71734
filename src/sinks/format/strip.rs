//! Taking a member out of an object in a JSON text, and leaving every other byte where it was.
//!
//! Parsing and writing again would change numbers, escapes, the order of keys and white space; a
//! forwarded event is the registry's, less what was asked to be taken out.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Takes the member at `path` (keys from the outermost object inwards) out of `json`, with the comma
/// and the white space that belong to it; each of them, should a key stand there twice. Answers
/// whether there was one.
///
/// `json` must be valid JSON, which an event's bytes always are.
pub fn remove(json: &mut Bytes, path: &[&str]) -> bool {
    let mut cuts = Vec::new();
    Scan { json, at: 0 }.find(path, &mut cuts);
    if cuts.is_empty() {
        return false;
    }
    let mut rest = BytesMut::with_capacity(json.len());
    let mut from = 0;
    for cut in cuts {
        rest.extend_from_slice(&json[from..cut.start]);
        from = cut.end;
    }
    rest.extend_from_slice(&json[from..]);
    *json = rest.freeze();
    true
}

/// A place in a JSON text.
struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// Passes the value that begins here, and adds the bytes to cut for the members at `path` in it,
    /// in order and apart.
    fn find(&mut self, path: &[&str], cuts: &mut Vec<Range<usize>>) {
        self.space();
        let ([name, inner @ ..], Some(b'{')) = (path, self.peek()) else {
            return self.value();
        };
        self.at += 1;
        // Where the last member that stays ends.
        let mut kept = None;
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                self.at += 1; // the `}` of an empty object
                return;
            }
            let key = self.string();
            let here = self.is(key, name);
            self.space();
            self.at += 1; // the colon
            if here {
                self.find(inner, cuts)
            } else {
                self.value()
            }
            let end = self.at;
            self.space();
            let more = self.peek() == Some(b',');
            self.at += 1; // the comma, or the object's `}`
            if !here || !inner.is_empty() {
                kept = Some(end);
            } else if more {
                // Up to the next key, which then stands where this one stood.
                self.space();
                cuts.push(start..self.at);
            } else {
                // The last: with the comma of the last that stays, and what was cut in between.
                let start = kept.unwrap_or(start);
                cuts.truncate(cuts.partition_point(|cut| cut.start < start));
                cuts.push(start..end);
            }
            if !more {
                return;
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Passes a string, and answers where it stands, with its quotes.
    fn string(&mut self) -> Range<usize> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                break;
            }
        }
        start..self.at
    }

    /// Passes a value of any kind.
    fn value(&mut self) {
        self.space();
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string();
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ if depth == 0 && byte.is_ascii_whitespace() => return,
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Whether the string at `key` says `name`, escapes undone.
    fn is(&self, key: Range<usize>, name: &str) -> bool {
        let Some(text) = self.json.get(key) else { return false };
        if text.contains(&b'\\') {
            return serde_json::from_slice::<String>(text).is_ok_and(|text| text == name);
        }
        text.get(1..text.len().saturating_sub(1)) == Some(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(json: &str, path: &[&str]) -> String {
        let mut bytes = Bytes::from(json.to_owned());
        let found = remove(&mut bytes, path);
        assert_eq!(found, bytes.len() != json.len());
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    #[test]
    fn cuts_the_member_and_nothing_else() {
        for (json, expected) in [
            (r#"{"a": {"b": 1}}"#, r#"{"a": {}}"#),
            (r#"{"a": {"b": 1, "c": 2}}"#, r#"{"a": {"c": 2}}"#),
            (r#"{"a": {"c": 2, "b": 1 }}"#, r#"{"a": {"c": 2 }}"#),
            (r#"{"a":{"x":1,"b":[{"b":"]}"}],"c":1.50}}"#, r#"{"a":{"x":1,"c":1.50}}"#),
            (r#"{"b": 1, "a": {"x": {"b": 1}}}"#, r#"{"b": 1, "a": {"x": {"b": 1}}}"#),
            (r#"{"a": "b", "c": {"b": 1}}"#, r#"{"a": "b", "c": {"b": 1}}"#),
            (r#"{"a": [{"b": 1}]}"#, r#"{"a": [{"b": 1}]}"#),
            (r#"{"x": "\"a\": {", "a": {"\u0062": null}}"#, r#"{"x": "\"a\": {", "a": {}}"#),
            (r#"{"a": {"b": 1, "b": 2}, "a": {"c": 3, "b": 4, "b": 5}}"#, r#"{"a": {}, "a": {"c": 3}}"#),
            (r#"{"a": {"c": 3, "b": 4, "b": 5, "d": 6, "b": 7}}"#, r#"{"a": {"c": 3, "d": 6}}"#),
            (r#"{"a": {"c": {"b": 0}, "b": {"b": 4} , "b": 5 }}"#, r#"{"a": {"c": {"b": 0} }}"#),
            (r#"{"a": {}, "b": 1}"#, r#"{"a": {}, "b": 1}"#),
            (
                "{\n   \"a\": {\n      \"b\": 1,\n      \"c\": 2\n   }\n}",
                "{\n   \"a\": {\n      \"c\": 2\n   }\n}",
            ),
            (
                "{\n   \"a\": {\n      \"c\": 1,\n      \"b\": 2\n   }\n}",
                "{\n   \"a\": {\n      \"c\": 1\n   }\n}",
            ),
            ("{}", "{}"),
            ("[]", "[]"),
        ] {
            assert_eq!(without(json, &["a", "b"]), expected, "{json}");
        }
    }

    fn json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i32>().prop_map(serde_json::Value::from),
            "[ab\"\\\\{}\\[\\],: ]{0,6}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::hash_map("[ab\"\\\\]{1,2}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Value>()),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn equals_removing_from_the_parsed_value(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let mut expected = value.clone();
            if let Some(outer) = expected.get_mut("a").and_then(|a| a.as_object_mut()) {
                outer.remove("b");
            }
            let left = without(&text.expect("JSON"), &["a", "b"]);
            let left: serde_json::Value = serde_json::from_str(&left).expect("still JSON");
            proptest::prop_assert_eq!(left, expected);
        }
    }
}
