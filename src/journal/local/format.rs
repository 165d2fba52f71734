//! The bytes on disk. Documented first, read and written below.
//!
//! A journal is a folder:
//!
//! ```text
//! journal.json                    the journal's identity and the version of this format
//! lock                            held while a relay runs on the folder
//! 00000000000000000001.seg        segments, named by the offset of their first record
//! 00000000000000065973.seg
//! spare-7.seg                     a segment made in advance, or recycled; holds nothing of worth
//! cursors.a, cursors.b            where each sink stands (`cursors.rs`)
//! ```
//!
//! A segment has its full size from the start (zeroed in advance, or recycled), so that appending
//! changes no metadata and one `fdatasync` writes data blocks only. All numbers are little-endian.
//!
//! ```text
//! segment header, 4096 bytes
//!    0   8  magic `RELAYLOG`
//!    8   4  version, 1
//!   12   4  CRC32C of bytes 16..48
//!   16   8  offset of the first record
//!   24   8  time of creation, µs since 1970
//!   32  16  identity of the journal
//!   48      zeros
//!
//! record, at each multiple of 8 from 4096 on
//!    0   4  CRC32C of all that follows, to the payload's end
//!    4   4  length of the payload in bytes, 1 at least
//!    8   8  offset: the record's sequence number, one more than the record before it
//!   16   8  time of arrival, µs since 1970
//!   24      payload: an event's stored form (`event/codec.rs`)
//!           zeros up to a multiple of 8
//! ```
//!
//! **Where a segment ends.** A record is valid when its checksum fits and its offset is the expected
//! one. Zeros have no valid checksum, and what a recycled segment still holds of its former life has
//! offsets below the segment's first: neither can be taken for a record. A sealed segment ends
//! where the next one begins; the last one ends after its last valid record.
//!
//! **Crash rules.** The writer writes a batch and calls `fdatasync` before anything in it is
//! acknowledged, and starts no other batch before that returned. So after a crash only the last
//! batch can be torn, and nothing in it was acknowledged. On start the tail is cut after the last
//! valid record.
//!
//! **Damage.** Where a record is invalid but a valid one with a later offset follows, the disk has
//! lost something that was durable. The reader says which offsets are gone and goes on with what is
//! good: no damage takes a whole record with it, before or behind.

use bytes::{Buf, BufMut, Bytes};

use crate::journal::{Micros, Offset};

pub const MAGIC: &[u8; 8] = b"RELAYLOG";
pub const VERSION: u32 = 1;
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
pub const RECORD_HEADER_BYTES: usize = 24;
/// Records stand at multiples of this.
pub const ALIGN: usize = 8;
/// No payload is larger, in bytes: what a damaged length may claim is bounded.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub base: Offset,
    pub created: Micros,
    pub identity: [u8; 16],
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(0);
        out.put_u64_le(self.base);
        out.put_i64_le(self.created);
        out.put_slice(&self.identity);
        let crc = crc32c::crc32c(&out[16..48]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out.resize(SEGMENT_HEADER_BYTES as usize, 0);
        out
    }

    /// `None` when the bytes are no header of this version, or damaged.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 48 || &bytes[..8] != MAGIC {
            return None;
        }
        let crc = crc32c::crc32c(&bytes[16..48]);
        bytes.advance(8);
        if bytes.get_u32_le() != VERSION || bytes.get_u32_le() != crc {
            return None;
        }
        let (base, created) = (bytes.get_u64_le(), bytes.get_i64_le());
        let mut identity = [0; 16];
        bytes.copy_to_slice(&mut identity);
        Some(Self { base, created, identity })
    }
}

/// How many bytes a record takes, with its padding.
pub fn record_bytes(payload_len: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_len).next_multiple_of(ALIGN)
}

/// Appends a record whose payload `fill` writes; answers where in `out` the payload stands.
pub fn encode_record(
    out: &mut Vec<u8>,
    offset: Offset,
    arrived: Micros,
    fill: impl FnOnce(&mut Vec<u8>),
) -> std::ops::Range<usize> {
    let start = out.len();
    out.put_u64_le(0);
    out.put_u64_le(offset);
    out.put_i64_le(arrived);
    let payload = out.len();
    fill(out);
    let end = out.len();
    let len = (end - payload) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 4..end]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + record_bytes(end - payload), 0);
    payload..end
}

/// What a record's first bytes claim.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    pub crc: u32,
    pub len: usize,
    pub offset: Offset,
    pub arrived: Micros,
}

impl RecordHeader {
    /// `None` when the claim cannot be true: no payload, or one that is too large.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_HEADER_BYTES {
            return None;
        }
        let (crc, len) = (bytes.get_u32_le(), bytes.get_u32_le() as usize);
        let (offset, arrived) = (bytes.get_u64_le(), bytes.get_i64_le());
        (1..=PAYLOAD_BYTES_MAX).contains(&len).then_some(Self { crc, len, offset, arrived })
    }

    /// Whether `record`, from its first byte to its payload's last, is what was written.
    pub fn fits(&self, record: &[u8]) -> bool {
        record.len() == RECORD_HEADER_BYTES + self.len && crc32c::crc32c(&record[4..]) == self.crc
    }
}

/// A valid record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    pub arrived: Micros,
    pub payload: Bytes,
    /// Where it stands in its file, and where the next one would.
    pub at: u64,
    pub next_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_tell_damage() {
        let header = SegmentHeader { base: 42, created: 7, identity: [9; 16] };
        let mut bytes = header.encode();
        assert_eq!(bytes.len() as u64, SEGMENT_HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        bytes[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), None);
    }

    #[test]
    fn records_are_aligned_and_checked() {
        let mut out = Vec::new();
        let payload = encode_record(&mut out, 5, 6, |out| out.extend_from_slice(b"abc"));
        assert_eq!((payload.clone(), out.len()), (24..27, 32));
        let header = RecordHeader::decode(&out).expect("a header");
        assert_eq!((header.len, header.offset, header.arrived), (3, 5, 6));
        assert!(header.fits(&out[..27]));
        out[25] ^= 1;
        assert!(!header.fits(&out[..27]));
        assert!(RecordHeader::decode(&[0; 24]).is_none(), "zeros are no record");
    }
}
