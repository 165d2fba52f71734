use super::*;

fn note(reason: &str) -> Note {
    Note { reason: reason.to_owned(), path: "/events".to_owned(), ..Note::default() }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("the folder")
        .map(|item| item.expect("an item").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn keeps_bodies_whole_across_a_reopening() {
    let dir = tempfile::tempdir().expect("a folder");
    let bodies: [&[u8]; 4] = [b"", b"\n\n{", b"\xff\xfe\0", &[b'x'; 100_000]];
    let quarantine = Quarantine::open(dir.path().join("q"), 1 << 20).expect("open");
    let mut ids = Vec::new();
    for body in bodies {
        // All at the same microsecond: ids differ all the same.
        let id = quarantine.put(Bytes::from_static(body), 1_000, note("why")).await.expect("kept");
        ids.push(id);
    }
    assert_eq!(ids, [1000, 1001, 1002, 1003].map(Id));
    let stats = quarantine.stats();
    drop(quarantine);

    let quarantine = Quarantine::open(dir.path().join("q"), 1 << 20).expect("reopen");
    assert_eq!(quarantine.stats(), stats);
    for (id, body) in ids.iter().zip(bodies) {
        let kept = quarantine.get(*id).await.expect("readable").expect("there");
        assert_eq!((&kept.body[..], kept.note), (body, note("why")));
    }
    let listed = quarantine.list(Some(ids[0]), 2).await.expect("a list");
    assert_eq!(
        listed.iter().map(|entry| (entry.id, entry.bytes)).collect::<Vec<_>>(),
        [(ids[1], 3), (ids[2], 3)]
    );
    // The clock went back: ids still rise.
    assert_eq!(quarantine.put(Bytes::new(), 5, note("late")).await, Ok(Id(1004)));
}

#[tokio::test]
async fn discards() {
    let dir = tempfile::tempdir().expect("a folder");
    let quarantine = Quarantine::open(dir.path(), 1 << 20).expect("open");
    let id = quarantine.put(Bytes::from_static(b"x"), 7, note("r")).await.expect("kept");
    assert_eq!(quarantine.discard(id).await, Ok(true));
    assert_eq!(quarantine.discard(id).await, Ok(false));
    assert_eq!(quarantine.get(id).await, Ok(None));
    assert_eq!(quarantine.stats(), QuarantineStats { bodies: 0, bytes: 0, bytes_max: 1 << 20 });
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn full_refuses_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().expect("a folder");
    let quarantine = Quarantine::open(dir.path(), 3 * BLOCK_BYTES).expect("open");
    let put = |n| quarantine.put(Bytes::from_static(b"small"), n, note("r"));
    let first = put(1).await.expect("room");
    put(2).await.expect("room");
    put(3).await.expect("room");
    let full = QuarantineError::Full { bytes: 3 * BLOCK_BYTES, bytes_max: 3 * BLOCK_BYTES };
    assert_eq!(put(4).await, Err(full));
    assert_eq!(quarantine.stats().bodies, 3);
    quarantine.discard(first).await.expect("discarded");
    put(5).await.expect("room again");
}

#[tokio::test]
async fn sets_torn_files_aside_and_leaves_strangers_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let quarantine = Quarantine::open(dir.path(), 1 << 20).expect("open");
    let whole = quarantine.put(Bytes::from_static(b"whole"), 1, note("r")).await.expect("kept");
    let torn = quarantine.put(Bytes::from_static(b"torn"), 2, note("r")).await.expect("kept");
    drop(quarantine);
    let torn_name = names(dir.path()).into_iter().find(|name| name.starts_with("2-")).expect("its file");
    std::fs::write(dir.path().join(&torn_name), "{\"ver").expect("torn");
    std::fs::write(dir.path().join("9-100.tmp"), "half").expect("left over");
    for stranger in ["README", "x-1.body", "1-x.body", "1.body", "7-7.other"] {
        std::fs::write(dir.path().join(stranger), "?").expect("a stranger");
    }

    let quarantine = Quarantine::open(dir.path(), 1 << 20).expect("reopen");
    assert_eq!(quarantine.stats().bodies, 1);
    assert!(quarantine.get(whole).await.expect("readable").is_some());
    assert_eq!(quarantine.get(torn).await, Ok(None));
    assert_eq!(names(&dir.path().join("set-aside")), [torn_name, "9-100.tmp".to_owned()]);
    assert!(dir.path().join("README").exists());
}

#[tokio::test]
async fn damage_is_told_and_never_panics() {
    let dir = tempfile::tempdir().expect("a folder");
    let quarantine = Quarantine::open(dir.path(), 1 << 20).expect("open");
    let id = quarantine.put(Bytes::from_static(b"a body"), 1, note("r")).await.expect("kept");
    let path = dir.path().join(&names(dir.path())[0]);
    let good = std::fs::read(&path).expect("the file");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).expect("damaged");
        match quarantine.get(id).await {
            Err(QuarantineError::Damaged(_)) => {}
            // A flip within the note's texts leaves a readable header.
            Ok(Some(kept)) => assert_eq!(&kept.body[..], b"a body", "flip at {at}"),
            other => panic!("flip at {at}: {other:?}"),
        }
        assert_eq!(quarantine.list(None, 10).await.expect("a list").len(), 1);
    }
}

#[tokio::test]
async fn a_failing_disk_is_told_and_nothing_counts() {
    let dir = tempfile::tempdir().expect("a folder");
    let quarantine = Quarantine::open(dir.path().join("q"), 1 << 20).expect("open");
    std::fs::remove_dir(dir.path().join("q")).expect("the folder goes away");
    let kept = quarantine.put(Bytes::from_static(b"x"), 1, note("r")).await;
    assert!(matches!(kept, Err(QuarantineError::Io(_))), "{kept:?}");
    assert_eq!(quarantine.stats().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_all_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let quarantine = Arc::new(Quarantine::open(dir.path(), 1 << 30).expect("open"));
    let puts: Vec<_> = (0..300)
        .map(|n| {
            let quarantine = Arc::clone(&quarantine);
            tokio::spawn(async move { quarantine.put(format!("body {n}").into(), 1, note("r")).await })
        })
        .collect();
    let mut ids = Vec::new();
    for (n, put) in puts.into_iter().enumerate() {
        let id = put.await.expect("no panic").expect("kept");
        let kept = quarantine.get(id).await.expect("readable").expect("there");
        assert_eq!(kept.body, format!("body {n}"));
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 300);
}
