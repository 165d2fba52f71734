//! An event as the journal stores it: the table of its fields, then its bytes.
//!
//! ```text
//! u8   version (1)
//! u8   number of fields, n        fields above what this version knows are skipped
//! u16  0
//! u32  length of `extra`
//! n ×  u32 start | u32 length     start's highest bit: in `extra`, not in the event's bytes
//!      extra                      texts whose JSON escapes were undone
//!      raw                        the event's own bytes, up to the record's end
//! ```
//! All numbers are little-endian.

use bytes::{Buf, BufMut, Bytes};

use super::{Event, FIELDS, Span};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8;

/// A stored event that cannot be read: written by a later version, or damaged in a way that the
/// record's checksum did not tell.
#[derive(Debug, PartialEq, Eq)]
pub enum CodecError {
    Version(u8),
    Malformed,
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(version) => write!(f, "event format {version} is newer than this relay"),
            Self::Malformed => f.write_str("malformed event record"),
        }
    }
}

impl std::error::Error for CodecError {}

impl Event {
    /// How many bytes [`Event::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        HEAD_BYTES + FIELDS * 8 + self.extra.len() + self.raw.len()
    }

    /// Appends the stored form to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(VERSION);
        out.put_u8(FIELDS as u8);
        out.put_u16_le(0);
        out.put_u32_le(self.extra.len() as u32);
        for span in &self.fields {
            out.put_u32_le(span.start);
            out.put_u32_le(span.len);
        }
        out.put_slice(&self.extra);
        out.put_slice(&self.raw);
    }

    /// The same event in the memory of its stored form: what it was parsed from can go.
    pub(crate) fn moved_to(self, stored: Bytes) -> Self {
        let extra = HEAD_BYTES + FIELDS * 8;
        let raw = extra + self.extra.len();
        debug_assert_eq!(stored.len(), self.encoded_len(), "the stored form of this event");
        Self { raw: stored.slice(raw..), extra: stored.slice(extra..raw), fields: self.fields }
    }

    /// Reads the stored form back; the event shares `stored`'s memory.
    ///
    /// # Errors
    /// [`CodecError`] when the form is not this version's, or a span points outside the bytes or
    /// into the middle of a character.
    pub fn decode(mut stored: Bytes) -> Result<Self, CodecError> {
        if stored.len() < HEAD_BYTES {
            return Err(CodecError::Malformed);
        }
        let version = stored.get_u8();
        if version != VERSION {
            return Err(CodecError::Version(version));
        }
        let count = stored.get_u8() as usize;
        stored.advance(2);
        let extra_len = stored.get_u32_le() as usize;
        if stored.len() < count * 8 || stored.len() - count * 8 < extra_len {
            return Err(CodecError::Malformed);
        }
        let mut fields = [Span::default(); FIELDS];
        for index in 0..count {
            let (start, len) = (stored.get_u32_le(), stored.get_u32_le());
            if let Some(span) = fields.get_mut(index) {
                *span = Span { start, len };
            }
        }
        let extra = stored.split_to(extra_len);
        let event = Self { raw: stored, extra, fields };
        for span in &event.fields {
            let text = span.of(&event.raw, &event.extra).ok_or(CodecError::Malformed)?;
            std::str::from_utf8(text).map_err(|_| CodecError::Malformed)?;
        }
        Ok(event)
    }
}
