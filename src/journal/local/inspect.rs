//! Looking into a journal's folder without a relay: read-only, and exact about what is damaged.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::cursors;
use super::disk::SegmentFile;
use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::recovery::list_segments;
use super::scan::{ReadAt, Scan, Step};
use crate::event::{CodecError, Event};
use crate::journal::{Micros, Offset, Stored};

const WINDOW_BYTES: usize = 1 << 20;

/// A stretch of a segment that holds no valid record though it should.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Bytes of the file.
    pub bytes: Range<u64>,
    /// The offsets that are gone; empty when the next record that is good is the one that was due.
    pub lost: Range<Offset>,
}

/// What a segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SegmentReport {
    pub path: PathBuf,
    pub base: Offset,
    pub bytes: u64,
    /// Whether its header is as it was written. Records can be read without it.
    pub header: bool,
    pub created: Option<Micros>,
    pub records: u64,
    /// The first and the last valid record.
    pub first: Option<Offset>,
    pub last: Option<Offset>,
    pub oldest: Option<Micros>,
    pub newest: Option<Micros>,
    pub damage: Vec<Damage>,
    /// Records whose checksum is right and whose event cannot be decoded: of a later version.
    pub undecodable: u64,
    /// Where a record was begun that is not whole: the tail of a crash, of which nothing was
    /// acknowledged. Only in the last segment.
    pub torn_at: Option<u64>,
}

impl SegmentReport {
    /// Whether anything that was acknowledged may be missing.
    pub fn is_damaged(&self) -> bool {
        !self.header || !self.damage.is_empty() || self.undecodable > 0
    }
}

/// Reads all segments of `folder`, the oldest first, and shows each event to `visit`.
///
/// # Errors
/// The disk's.
pub fn walk(
    folder: &Path,
    visit: &mut dyn FnMut(Stored) -> io::Result<()>,
) -> io::Result<Vec<SegmentReport>> {
    let segments = list_segments(folder)?;
    let mut reports = Vec::new();
    for (index, (base, path)) in segments.iter().enumerate() {
        let limit = segments.get(index + 1).map(|(next, _)| *next);
        let file = SegmentFile::open_read_only(path)?;
        let mut report = walk_segment(&file, file.size()?, *base, limit, visit)?;
        report.path.clone_from(path);
        reports.push(report);
    }
    Ok(reports)
}

/// [`walk`] through one segment's bytes, as if it were the last of its journal. For fuzzing.
///
/// # Errors
/// What `visit` says.
pub fn walk_bytes(
    bytes: &Bytes,
    base: Offset,
    visit: &mut dyn FnMut(Stored) -> io::Result<()>,
) -> io::Result<SegmentReport> {
    walk_segment(bytes, bytes.len() as u64, base, None, visit)
}

/// `limit`: the next segment's first offset, if there is one.
fn walk_segment<F: ReadAt>(
    file: &F,
    bytes: u64,
    base: Offset,
    limit: Option<Offset>,
    visit: &mut dyn FnMut(Stored) -> io::Result<()>,
) -> io::Result<SegmentReport> {
    let header = SegmentHeader::decode(&file.read_at(0, SEGMENT_HEADER_BYTES as usize)?);
    let mut report = SegmentReport {
        base,
        bytes,
        header: header.is_some_and(|header| header.base == base),
        created: header.map(|header| header.created),
        ..SegmentReport::default()
    };
    let mut scan =
        Scan::new(file, SEGMENT_HEADER_BYTES, bytes, base, limit.unwrap_or(Offset::MAX), WINDOW_BYTES);
    loop {
        match scan.step()? {
            Step::Record(record) => {
                report.records += 1;
                report.first.get_or_insert(record.offset);
                report.last = Some(record.offset);
                report.oldest.get_or_insert(record.arrived);
                report.newest = report.newest.max(Some(record.arrived));
                match Event::decode(record.payload) {
                    Ok(event) => visit(Stored { offset: record.offset, arrived: record.arrived, event })?,
                    Err(CodecError::Version(_) | CodecError::Malformed) => report.undecodable += 1,
                }
            }
            Step::Damage { bytes, lost } => report.damage.push(Damage { bytes, lost }),
            Step::End { at, torn } => {
                if let Some(limit) = limit.filter(|limit| scan.expected() < *limit) {
                    report.damage.push(Damage { bytes: at..bytes, lost: scan.expected()..limit });
                } else {
                    report.torn_at = torn.then_some(at);
                }
                return Ok(report);
            }
        }
    }
}

/// The cursors as they stand on disk, by sink; empty when there are none that can be read.
///
/// # Errors
/// The disk's.
pub fn cursors(folder: &Path) -> io::Result<Vec<(String, Offset)>> {
    let mut newest = None;
    for name in cursors::FILES {
        let bytes = match std::fs::read(folder.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        newest = newest.max(cursors::decode(&bytes));
    }
    Ok(newest.map(|(_, cursors)| cursors.into_iter().collect()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::format::encode_record;
    use super::*;

    fn segment(records: Range<Offset>) -> Vec<u8> {
        let mut bytes = SegmentHeader { base: 1, created: 5, identity: [0; 16] }.encode();
        for offset in records {
            let event = Event::parse(format!(r#"{{"id":"{offset}"}}"#).into()).expect("an event");
            encode_record(&mut bytes, offset, 100 + offset as Micros, |out| event.encode(out));
        }
        bytes
    }

    fn report(bytes: Vec<u8>) -> (SegmentReport, Vec<String>) {
        let mut ids = Vec::new();
        let mut note = |stored: Stored| {
            ids.push(stored.event.id().to_owned());
            Ok(())
        };
        (walk_bytes(&bytes.into(), 1, &mut note).expect("no disk to fail"), ids)
    }

    #[test]
    fn says_what_is_good_and_what_is_not() {
        let whole = segment(1..6);
        let record = (whole.len() - 4096) / 5;
        let (good, ids) = report(whole.clone());
        assert!(!good.is_damaged() && good.torn_at.is_none());
        assert_eq!((good.records, good.first, good.last, ids.len()), (5, Some(1), Some(5), 5));
        assert_eq!((good.oldest, good.newest, good.created), (Some(101), Some(105), Some(5)));

        let mut damaged = whole.clone();
        damaged[4096 + record + 60] ^= 4;
        let (damaged, ids) = report(damaged);
        let bytes = (4096 + record) as u64..(4096 + 2 * record) as u64;
        assert_eq!(damaged.damage, [Damage { bytes, lost: 2..3 }]);
        assert_eq!(ids, ["1", "3", "4", "5"]);

        let mut between = whole.clone();
        between.splice(4096 + record..4096 + record, [0xff; 64]);
        let (between, ids) = report(between);
        assert_eq!((between.damage[0].lost.clone(), ids.len()), (2..2, 5));

        let last = (4096 + 4 * record) as u64;
        let (torn, _) = report(whole[..whole.len() - 20].to_vec());
        assert_eq!((torn.torn_at, torn.last, torn.is_damaged()), (Some(last), Some(4), false));

        let mut torn = whole;
        let end = torn.len();
        torn[end - 40..].fill(0);
        let (torn, _) = report(torn);
        assert_eq!(torn.torn_at, Some(last));
    }
}
