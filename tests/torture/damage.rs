//! Damages an acknowledged record of a journal whose relay is down, and checks that the relay's own tool
//! finds just that.

use std::{io, os::unix::fs::FileExt, path::Path, process::Command};

use relay::journal::{Offset, local::inspect};
use serde_json::Value;

use crate::{
    event::{Name, Random, Recipe},
    support::given,
};

/// The newest records are left alone: damage at the very end cannot be told from a torn write.
const SPARED: usize = 20;
/// Among so many before those one is chosen.
const CHOICE: usize = 300;

/// Flips a bit of some record; tells whose it was, and its offset. `None`: there are too few.
pub fn flip(folder: &Path, recipe: &Recipe, random: &mut Random) -> io::Result<Option<(Name, Offset)>> {
    let mut records = Vec::new();
    inspect::walk(folder, &mut |stored| {
        records.push((stored.offset, stored.event.id().to_owned()));
        Ok(())
    })?;
    records.truncate(records.len().saturating_sub(SPARED));
    let choice = records.len().min(CHOICE);
    if choice == 0 {
        return Ok(None);
    }
    let (offset, id) = &records[records.len() - 1 - random.between(0, choice as u64) as usize];
    let Some(name) = recipe.name(id) else { return Ok(None) };
    let needle = format!("\"id\": \"{id}\"");
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Spares may hold old records.
        let is_segment = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.ends_with(".seg") && !name.starts_with("spare-"));
        if !is_segment {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let Some(at) = memory_find(&bytes, needle.as_bytes()) else { continue };
        let file = std::fs::File::options().write(true).open(&path)?;
        file.write_all_at(&[bytes[at] ^ 1], at as u64)?;
        return Ok(Some((name, *offset)));
    }
    Ok(None)
}

fn memory_find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// Every offset that `relay journal verify` calls lost.
pub fn verified_lost(folder: &Path) -> io::Result<Vec<Offset>> {
    let built = || env!("CARGO_BIN_EXE_relay").to_owned();
    let mut command = Command::new(given("RELAY_TEST_RELAY").unwrap_or_else(built));
    let output = command.args(["journal", "verify", "--json", "--path"]).arg(folder).output()?;
    let reports: Value = serde_json::from_slice(&output.stdout).map_err(io::Error::from)?;
    let mut lost = Vec::new();
    for damage in
        reports.as_array().into_iter().flatten().flat_map(|report| report["damage"].as_array()).flatten()
    {
        let (start, end) = (damage["lost"]["start"].as_u64(), damage["lost"]["end"].as_u64());
        lost.extend(start.unwrap_or(0)..end.unwrap_or(0));
    }
    Ok(lost)
}
