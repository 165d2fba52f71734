//! Files of lines, each a JSON value, appended and replaced durably.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Writes at `at`, over what a failed write may have left there.
pub fn append(path: &Path, at: u64, lines: &[u8], is_new: bool) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(lines, at)?;
    file.set_len(at + lines.len() as u64)?;
    file.sync_data()?;
    if is_new { path.parent().map_or(Ok(()), sync_folder) } else { Ok(()) }
}

/// Puts `lines` in the place of what the file holds: a crash leaves the one or the other.
pub fn replace(path: &Path, lines: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = File::create(&draft)?;
    file.write_all(lines)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes the file.
pub fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Shows each whole line in the first `bytes` to `visit`, until it answers `false`; that is the
/// answer then. A file that is gone has none.
pub fn read(path: &Path, bytes: u64, visit: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut lines = BufReader::new(file.take(bytes));
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line)?;
        // One that is only half there is being written, in a file that was replaced meanwhile.
        let Some(whole) = line.strip_suffix(b"\n") else { return Ok(true) };
        if !visit(whole) {
            return Ok(false);
        }
    }
}

/// Cuts what stands behind the last line's end; answers the file's size then.
pub fn cut_torn(path: &Path) -> io::Result<u64> {
    let bytes = std::fs::read(path)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end as u64 + 1);
    if whole < bytes.len() as u64 {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole)?;
        file.sync_data()?;
    }
    Ok(whole)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
