//! An event as the journal stores it: the table of its fields, then its bytes.
//!
//! ```text
//! u8   version (1)
//! u8   number of fields, n        fields above what this version knows are skipped
//! u16  1: places are narrow; 0: they are wide
//! u32  length of `extra`
//! n ×  start | length             u16 each when narrow, else u32; start's highest bit: in `extra`,
//!                                 not in the event's bytes
//!      extra                      texts whose JSON escapes were undone
//!      raw                        the event's own bytes, up to the record's end
//! ```
//! All numbers are little-endian.

use bytes::{Buf, BufMut, Bytes};

use super::{Event, FIELDS, Span};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8;
const NARROW: u16 = 1;
const NARROW_IN_EXTRA: u16 = 1 << 15;

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
        self.extra_at() + self.extra.len() + self.raw.len()
    }

    /// Whether all places fit 15 bits, as nearly always: the table is a good part of a record.
    fn is_narrow(&self) -> bool {
        self.raw.len().max(self.extra.len()) < usize::from(NARROW_IN_EXTRA)
    }

    /// Where `extra` stands in the stored form.
    fn extra_at(&self) -> usize {
        HEAD_BYTES + FIELDS * place_bytes(self.is_narrow())
    }

    /// Appends the stored form to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(VERSION);
        out.put_u8(FIELDS as u8);
        let is_narrow = self.is_narrow();
        out.put_u16_le(if is_narrow { NARROW } else { 0 });
        out.put_u32_le(self.extra.len() as u32);
        for span in &self.fields {
            if is_narrow {
                let place = if span.is_in_extra() { NARROW_IN_EXTRA } else { 0 };
                out.put_u16_le(span.start as u16 | place);
                out.put_u16_le(span.len as u16);
            } else {
                out.put_u32_le(span.start);
                out.put_u32_le(span.len);
            }
        }
        out.put_slice(&self.extra);
        out.put_slice(&self.raw);
    }

    /// The same event in the memory of its stored form: what it was parsed from can go.
    pub(crate) fn moved_to(self, stored: Bytes) -> Self {
        let extra = self.extra_at();
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
        let is_narrow = match stored.get_u16_le() {
            0 => false,
            NARROW => true,
            _ => return Err(CodecError::Malformed),
        };
        let extra_len = stored.get_u32_le() as usize;
        let table_len = count * place_bytes(is_narrow);
        if stored.len() < table_len || stored.len() - table_len < extra_len {
            return Err(CodecError::Malformed);
        }
        let mut fields = [Span::default(); FIELDS];
        for index in 0..count {
            let found = if is_narrow {
                let (start, len) = (stored.get_u16_le(), stored.get_u16_le());
                let span = if start & NARROW_IN_EXTRA == 0 { Span::in_raw } else { Span::in_extra };
                span(usize::from(start & !NARROW_IN_EXTRA), usize::from(len))
            } else {
                Span { start: stored.get_u32_le(), len: stored.get_u32_le() }
            };
            if let Some(span) = fields.get_mut(index) {
                *span = found;
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

/// How many bytes of the table a field takes.
fn place_bytes(is_narrow: bool) -> usize {
    if is_narrow { 4 } else { 8 }
}
