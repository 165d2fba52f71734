//! One file per body: `<id>-<length of the file>.body`.
//!
//! ```text
//! {"version":1,"bytes":42,"crc32c":1234,"reason":"…","path":"/events",…}\n
//! <the body, untouched>
//! ```
//! The first line is JSON and says how long the body is, its CRC-32C, and what is known of it
//! ([`Note`]); `tail -n +2` gives the body back. A file is written as `<id>-<length>.tmp`, synced,
//! renamed, and the folder synced before it is acknowledged: a name that ends in `.body` stands for
//! a whole file. The length in the name lets a start find a torn one without reading it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Entry, Id, Kept, Note, QuarantineError};

const VERSION: u8 = 1;

/// Where a start puts what is not whole.
const SET_ASIDE: &str = "set-aside";

/// The first line of a file.
#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    version: u8,
    bytes: u64,
    crc32c: u32,
    #[serde(flatten)]
    note: Note,
}

/// The first line of the file of `body`.
pub fn header(body: &[u8], note: Note) -> Vec<u8> {
    let header = Header { version: VERSION, bytes: body.len() as u64, crc32c: crc32c::crc32c(body), note };
    let mut line = serde_json::to_vec(&header).expect("strings and numbers serialise");
    line.push(b'\n');
    line
}

fn path(dir: &Path, id: Id, len: u64, suffix: &str) -> PathBuf {
    dir.join(format!("{id}-{len}.{suffix}"))
}

/// Writes and syncs a file under its final name; durable once the folder is synced too.
pub fn write(dir: &Path, id: Id, header: &[u8], body: &[u8]) -> io::Result<()> {
    let len = (header.len() + body.len()) as u64;
    let tmp = path(dir, id, len, "tmp");
    let written = File::create_new(&tmp).and_then(|mut file| {
        file.write_all(header)?;
        file.write_all(body)?;
        file.sync_data()?;
        fs::rename(&tmp, path(dir, id, len, "body"))
    });
    if written.is_err() {
        // Nothing was acknowledged; if it cannot be removed, the next start sets it aside.
        let _ = fs::remove_file(&tmp);
    }
    written
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub fn remove(dir: &Path, id: Id, len: u64) -> io::Result<()> {
    match fs::remove_file(path(dir, id, len, "body")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sync_dir(dir)
}

/// The header's line of a file; `None` when it has been discarded meanwhile.
pub fn entry(dir: &Path, id: Id, len: u64) -> io::Result<Option<Entry>> {
    let file = match File::open(path(dir, id, len, "body")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut line = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut line)?;
    Ok(Some(match serde_json::from_slice::<Header>(&line) {
        Ok(header) => Entry { id, bytes: header.bytes, note: Some(header.note) },
        Err(_) => Entry { id, bytes: len, note: None },
    }))
}

/// A whole file, checked; `None` when it has been discarded meanwhile.
pub fn read(dir: &Path, id: Id, len: u64) -> Result<Option<Kept>, QuarantineError> {
    let content = match fs::read(path(dir, id, len, "body")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        content => Bytes::from(content?),
    };
    let damaged = |what: &str| QuarantineError::Damaged(what.to_owned());
    let end = content.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it has no header"))?;
    let header: Header =
        serde_json::from_slice(&content[..end]).map_err(|error| damaged(&format!("its header: {error}")))?;
    if header.version != VERSION {
        return Err(damaged("its format is newer than this relay"));
    }
    let body = content.slice(end + 1..);
    if body.len() as u64 != header.bytes {
        return Err(damaged("its length is not what its header says"));
    }
    if crc32c::crc32c(&body) != header.crc32c {
        return Err(damaged("its checksum is not what its header says"));
    }
    Ok(Some(Kept { id, note: header.note, body }))
}

/// What is in the folder: lengths of files, by id. Makes the folder if it is not there.
pub fn scan(dir: &Path) -> io::Result<BTreeMap<Id, u64>> {
    fs::create_dir_all(dir)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_dir(parent)?;
    }
    let mut found = BTreeMap::new();
    for item in fs::read_dir(dir)? {
        let item = item?;
        let metadata = item.metadata()?;
        if !metadata.is_file() {
            continue;
        }
        match item.file_name().to_str().and_then(parse_name) {
            Some((id, len, "body")) if len == metadata.len() => {
                found.insert(id, len);
            }
            Some(_) => set_aside(dir, &item.path())?,
            None => tracing::warn!(path = %item.path().display(), "not a file of the quarantine; left alone"),
        }
    }
    Ok(found)
}

fn parse_name(name: &str) -> Option<(Id, u64, &str)> {
    let (stem, suffix) = name.split_once('.')?;
    let (id, len) = stem.split_once('-')?;
    let suffix = Some(suffix).filter(|suffix| matches!(*suffix, "body" | "tmp"))?;
    Some((id.parse().ok()?, len.parse().ok()?, suffix))
}

fn set_aside(dir: &Path, torn: &Path) -> io::Result<()> {
    let Some(name) = torn.file_name() else { return Ok(()) };
    let aside = dir.join(SET_ASIDE);
    fs::create_dir_all(&aside)?;
    fs::rename(torn, aside.join(name))?;
    tracing::warn!(path = %aside.join(name).display(), "set a half-written body aside; it was never acknowledged");
    Ok(())
}
