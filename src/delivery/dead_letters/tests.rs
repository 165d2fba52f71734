use super::*;

fn letter(offset: Offset, code: &str, bytes: usize) -> DeadLetter {
    DeadLetter {
        id: 0,
        offset,
        code: code.into(),
        reason: "said \"no\"\n".into(),
        attempts: 1,
        first: 1,
        last: 2,
        arrived: 0,
        topic: "registry.push".into(),
        key: "team/app".into(),
        event_id: "e".into(),
        action: "push".into(),
        repository: "team/app".into(),
        event: format!("{{\n  \"pad\": \"{}\"}}", "x".repeat(bytes)),
    }
}

fn open(folder: &Path) -> DeadLetters {
    DeadLetters::open(folder, 1 << 30).expect("open")
}

fn keep(letters: &DeadLetters, kept: DeadLetter) {
    letters.keep(&mut vec![kept]).expect("keep");
}

fn after(letters: &DeadLetters, after: u64) -> Vec<DeadLetter> {
    let mut found = Vec::new();
    let mut note = |letter| {
        found.push(letter);
        true
    };
    letters.visit(after, &mut note).expect("visit");
    found
}

fn ids(letters: &[DeadLetter]) -> Vec<u64> {
    letters.iter().map(|letter| letter.id).collect()
}

#[test]
fn keep_list_and_remove_across_files_and_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let letters = open(folder.path());
    for offset in 1..=30 {
        keep(&letters, letter(offset, "odd", 100_000));
    }
    let found = after(&letters, 0);
    assert_eq!(ids(&found), (1..=30).collect::<Vec<_>>());
    assert_eq!(found[4].event, letter(5, "", 100_000).event);
    assert!(std::fs::read_dir(folder.path()).expect("dir").count() > 2);
    assert_eq!(ids(&after(&letters, 17)), (18..=30).collect::<Vec<_>>());
    assert_eq!(letters.get(18).expect("get").map(|letter| letter.offset), Some(18));
    let even: Vec<u64> = (0..=40).filter(|id| id % 2 == 0).collect();
    assert_eq!(letters.remove(&even).expect("remove"), 15);
    assert_eq!(letters.get(18).expect("get"), None);

    let letters = open(folder.path());
    assert_eq!((letters.count(), after(&letters, 0).len()), (15, 15));
    let all: Vec<u64> = (1..=30).collect();
    assert_eq!(letters.remove(&all).expect("remove"), 15);
    assert_eq!(std::fs::read_dir(folder.path()).expect("dir").count(), 1);
}

#[test]
fn an_id_is_never_given_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let letters = open(folder.path());
    for offset in 1..=3 {
        keep(&letters, letter(offset, "a", 10));
    }
    letters.remove(&[1, 2, 3]).expect("remove");
    let letters = open(folder.path());
    assert_eq!((letters.count(), letters.next_id()), (0, 4));
    keep(&letters, letter(4, "a", 10));
    assert_eq!(ids(&after(&open(folder.path()), 0)), [4]);
}

#[test]
fn a_letter_that_died_again_takes_its_old_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let letters = open(folder.path());
    for offset in 1..=3 {
        keep(&letters, letter(offset, "too_large", 10));
    }
    let again = DeadLetter { id: 2, first: 50, last: 60, attempts: 4, ..letter(2, "unroutable", 10) };
    let unknown = DeadLetter { id: 99, ..letter(9, "unroutable", 10) };
    letters.keep(&mut vec![again, letter(5, "new", 10), unknown]).expect("keep");

    let found = after(&open(folder.path()), 0);
    assert_eq!(ids(&found), [1, 2, 3, 4, 5]);
    let second = &found[1];
    assert_eq!((second.code.as_str(), second.attempts), ("unroutable", 5));
    assert_eq!((second.first, second.last), (1, 60));
    assert_eq!(found[3].code, "new");
    assert_eq!(found[4].offset, 9, "kept, though the letter it was is gone");
    assert_eq!(letters.count(), 5);
}

#[test]
fn full_takes_none_but_lets_old_ones_die_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let letters = DeadLetters::open(folder.path(), 1000).expect("open");
    keep(&letters, letter(1, "a", 500));
    let full = letters.keep(&mut vec![letter(2, "a", 10), letter(3, "a", 1000)]);
    assert!(matches!(full, Err(DeadLetterError::Full { .. })));
    assert_eq!(letters.count(), 1);
    keep(&letters, DeadLetter { id: 1, ..letter(1, "longer than before", 500) });
    assert_eq!(letters.count(), 1);
}

#[test]
fn a_torn_line_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let letters = open(folder.path());
    keep(&letters, letter(1, "a", 10));
    let path = letters.path(1);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.extend_from_slice(b"{\"id\":2,\"off");
    std::fs::write(&path, bytes).expect("write");
    let letters = open(folder.path());
    keep(&letters, letter(2, "b", 10));
    assert_eq!(after(&letters, 0).iter().map(|letter| letter.offset).collect::<Vec<_>>(), [1, 2]);
}
