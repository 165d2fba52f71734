//! JSON on one line, for formats whose records end at a line's end.

use bytes::{BufMut, Bytes, BytesMut};

/// Drops the white space between a JSON text's tokens. Numbers, escapes, key order and everything
/// inside strings stay as they are; the input must be JSON, which an [`Event`](super::Event)'s
/// bytes always are.
pub fn compact(json: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len());
    let (mut in_string, mut escaped, mut start) = (false, false, 0);
    for (at, &byte) in json.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else if byte == b'"' {
            in_string = true;
        } else if byte.is_ascii_whitespace() {
            out.put_slice(&json[start..at]);
            start = at + 1;
        }
    }
    out.put_slice(&json[start..]);
    out.freeze()
}
