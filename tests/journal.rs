//! `relay journal verify | dump | stat` on a journal's folder, with no relay beside it: what is whole, what
//! is damaged and what is still good; and that looking changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use relay::event::Event;
use relay::journal::Journal as _;
use relay::journal::local::{LocalJournal, Options, now};
use relay::telemetry::Metrics;
use serde_json::Value;

/// Of the three events, by offset - 1; spread over lines, as a registry writes them.
const EVENTS: [&str; 3] = [
    "{\n  \"id\": \"first\",\n  \"action\": \"push\"\n}",
    "{\n  \"id\": \"second\",\n  \"action\": \"pull\"\n}",
    "{\n  \"id\": \"third\",\n  \"action\": \"delete\"\n}",
];

/// A folder with the three events, of which the sink `bus` has had the first.
async fn journal() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        folder: folder.path().to_owned(),
        // No room for a second segment: none is made in advance while a test looks.
        bytes_max: 1 << 20,
        segment_bytes: 1 << 20,
        retention: i64::MAX,
        deduplicate: 0,
    };
    let journal = LocalJournal::open(options, Arc::new(Metrics::new())).expect("a journal");
    for json in EVENTS {
        journal.append(vec![Event::parse(json.into()).expect("an event")], now()).await.expect("appended");
    }
    journal.save_cursor("bus", 2);
    journal.flush().await;
    folder
}

/// What a command says, and its exit code.
fn relay_journal(arguments: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("relay"));
    let output = command.arg("journal").args(arguments).arg("--path").arg(folder).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The events that a dump shows, by offset.
fn dumped(out: &str) -> BTreeMap<u64, Value> {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["arrived"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
        (line["offset"].as_u64().expect("an offset"), line["event"].clone())
    };
    out.lines().map(line).collect()
}

fn expected(offsets: &[usize]) -> BTreeMap<u64, Value> {
    let event = |&offset: &usize| (offset as u64, serde_json::from_str(EVENTS[offset - 1]).expect("JSON"));
    offsets.iter().map(event).collect()
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    paths.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
}

fn segment(folder: &Path) -> PathBuf {
    folder.join("00000000000000000001.seg")
}

/// Flips a bit of the byte where `text` stands in the segment; answers which byte that is.
fn damage(folder: &Path, text: &str) -> u64 {
    let mut bytes = std::fs::read(segment(folder)).expect("the segment");
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect(text);
    bytes[at] ^= 1;
    std::fs::write(segment(folder), bytes).expect("written");
    at as u64
}

#[tokio::test]
async fn a_whole_journal_is_shown_and_not_changed() {
    let folder = journal().await;
    let before = contents(folder.path());
    let (code, out, _) = relay_journal(&["verify"], folder.path());
    assert!(code == Some(0) && out.contains("3 records, offsets 1 to 3"), "{out}");
    assert!(out.ends_with("whole: 3 records in 1 segments\n"), "{out}");

    let (_, out, _) = relay_journal(&["stat"], folder.path());
    let words = |start: &str| {
        let line = out.lines().find(|line| line.trim_start().starts_with(start)).expect(start);
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words("00000000000000000001.seg")[1..5], ["1048576", "3", "1", "3"], "{out}");
    assert_eq!(words("bus"), ["bus", "2", "2"], "{out}");
    let (_, out, _) = relay_journal(&["stat", "--json"], folder.path());
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&json["cursors"]["bus"], &json["segments"][0]["records"]), (&2.into(), &3.into()));

    for (arguments, offsets) in [
        (&["dump"][..], &[1, 2, 3][..]),
        (&["dump", "--from", "2", "--limit", "1"], &[2]),
        (&["dump", "--to", "3"], &[1, 2]),
        (&["dump", "--from", "4"], &[]),
    ] {
        let (code, out, error) = relay_journal(arguments, folder.path());
        assert_eq!((code, dumped(&out)), (Some(0), expected(offsets)), "{arguments:?}: {error}");
    }
    assert_eq!(contents(folder.path()), before, "looking changes nothing");
}

#[tokio::test]
async fn damage_is_named_and_what_is_good_is_shown() {
    let folder = journal().await;
    let at = damage(folder.path(), "second");
    let before = contents(folder.path());
    let (code, out, error) = relay_journal(&["verify"], folder.path());
    assert_eq!(code, Some(1), "{out}{error}");
    assert!(out.contains("2 records, offsets 1 to 3") && out.contains("offsets 2 to 2 are lost"), "{out}");
    assert!(error.contains("1 of 1 segments are damaged: 2 records are good, 1 are lost"), "{error}");
    let (_, json, _) = relay_journal(&["verify", "--json"], folder.path());
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let bytes = &json[0]["damage"][0]["bytes"];
    let end = |name: &str| bytes[name].as_u64().expect("a place");
    assert!((end("start")..end("end")).contains(&at), "byte {at} is among {bytes}");

    let (code, out, error) = relay_journal(&["dump"], folder.path());
    assert_eq!((code, dumped(&out)), (Some(1), expected(&[1, 3])));
    assert!(error.contains("`relay journal verify` says where"), "{error}");
    assert_eq!(contents(folder.path()), before, "looking mends nothing either");
}

/// The last record, half written when the relay was killed, was not acknowledged: that is no damage.
#[tokio::test]
async fn a_torn_tail_is_told_from_damage() {
    let folder = journal().await;
    damage(folder.path(), "third");
    let (code, out, _) = relay_journal(&["verify"], folder.path());
    assert!(code == Some(0) && out.contains("2 records, offsets 1 to 2"), "{out}");
    assert!(out.contains("torn tail at byte") && !out.contains("lost"), "{out}");
}

#[test]
fn a_folder_without_a_journal_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    for command in ["verify", "stat", "dump"] {
        let (code, out, error) = relay_journal(&[command], folder.path());
        assert_eq!((code, out.as_str()), (Some(1), ""), "{command}: {error}");
        assert!(error.contains("holds no journal"), "{error}");
    }
}
