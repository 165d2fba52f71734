//! The journal as its callers see it, and against a model under damage.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::journal::Stored;

/// Small enough that a few events fill a segment.
const SEGMENT_BYTES: u64 = 4096 + 2048;

fn options(folder: &Path) -> Options {
    Options {
        folder: folder.to_owned(),
        bytes_max: 1 << 20,
        segment_bytes: SEGMENT_BYTES,
        retention: Micros::MAX,
        deduplicate: 60_000_000,
    }
}

fn open(options: &Options) -> LocalJournal {
    LocalJournal::open(options.clone(), Arc::default()).expect("the journal opens")
}

fn event(id: &str, padding: usize) -> Event {
    let json = format!(r#"{{"id":"{id}","action":"push","pad":"{}"}}"#, "x".repeat(padding));
    Event::parse(json.into()).expect("an event")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Everything from `from` to the head, and how much was lost.
async fn drain(journal: &LocalJournal, mut from: Offset) -> (Vec<Stored>, u64) {
    let (mut all, mut lost) = (Vec::new(), 0);
    while from < journal.head() {
        let chunk = journal.read(from, 1000).await.expect("a chunk");
        assert!(chunk.next > from, "a read always gets on");
        all.extend_from_slice(&chunk.events);
        lost += chunk.lost;
        from = chunk.next;
    }
    (all, lost)
}

fn ids(events: &[Stored]) -> Vec<&str> {
    events.iter().map(|stored| stored.event.id()).collect()
}

#[test]
fn keeps_order_across_segments_and_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(folder.path());
    let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    block_on(async {
        let journal = open(&options);
        for (n, name) in names.iter().enumerate() {
            let appended = journal.append(vec![event(name, n * 7 % 300)], n as Micros).await;
            assert_eq!(appended, Ok(Appended { accepted: 1, duplicates: 0 }));
        }
        assert!(journal.stats().segments > 5);
        drop(journal);
        let journal = open(&options);
        let (events, lost) = drain(&journal, 1).await;
        assert_eq!((ids(&events), lost), (names.iter().map(String::as_str).collect(), 0));
        assert_eq!(
            events.iter().map(|stored| stored.offset).collect::<Vec<_>>(),
            (1..=100).collect::<Vec<_>>()
        );
        assert_eq!(events[41].arrived, 41);
    });
}

#[test]
fn an_envelope_larger_than_a_segment_stays_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(folder.path());
    block_on(async {
        let journal = open(&options);
        journal.append(vec![event("first", 10)], 0).await.expect("append");
        let large: Vec<_> = (0..10).map(|n| event(&format!("large-{n}"), 1000)).collect();
        journal.append(large, 0).await.expect("append");
        journal.append(vec![event("last", 10)], 0).await.expect("append");
        drop(journal);
        let (events, lost) = drain(&open(&options), 1).await;
        assert_eq!((events.len(), lost, events[11].event.id()), (12, 0, "last"));
    });
}

#[test]
fn drops_second_copies_also_across_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(folder.path());
    block_on(async {
        let journal = open(&options);
        let at = now();
        let both = journal.append(vec![event("a", 0), event("a", 0)], at).await;
        assert_eq!(both, Ok(Appended { accepted: 1, duplicates: 1 }));
        for n in 0..20 {
            journal.append(vec![event(&n.to_string(), 300)], at).await.expect("append");
        }
        drop(journal);
        let journal = open(&options);
        assert!(journal.stats().segments > 2, "the first copy is some segments back");
        let again = journal.append(vec![event("a", 0), event("b", 0), event("", 0), event("", 0)], at).await;
        assert_eq!(again, Ok(Appended { accepted: 3, duplicates: 1 }));
        let later = at + 2 * options.deduplicate;
        let again = journal.append(vec![event("a", 0)], later).await;
        assert_eq!(again, Ok(Appended { accepted: 1, duplicates: 0 }));
    });
}

#[test]
fn full_names_who_holds_the_space_and_goes_on_once_it_is_free() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { bytes_max: 3 * SEGMENT_BYTES, ..options(folder.path()) };
    block_on(async {
        let journal = open(&options);
        journal.save_cursor("slow", 1);
        journal.save_cursor("quick", 1);
        journal.flush().await;
        let mut taken = 0;
        let error = loop {
            match journal.append(vec![event(&taken.to_string(), 500)], 0).await {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
            journal.save_cursor("quick", journal.head());
            journal.flush().await;
            assert!(taken < 100, "the limit holds");
        };
        assert_eq!(error, AppendError::Full { held_by: Some("slow".into()) });
        assert_eq!(journal.stats().held_by.as_deref(), Some("slow"));
        assert_eq!(journal.stats().refused, Some(error.to_string()));
        let (events, lost) = drain(&journal, 1).await;
        assert_eq!((events.len(), lost), (taken, 0), "all that was acknowledged is there");

        journal.save_cursor("slow", journal.head());
        journal.flush().await;
        let noticed = async {
            while journal.stats().refused.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), noticed).await.expect("ready again by itself");
        journal.append(vec![event("more", 500)], 0).await.expect("there is room again");
        drop(journal); // and with it the tail in memory
        let journal = open(&options);
        let (events, lost) = drain(&journal, 1).await;
        assert!(lost > 0 && events.last().is_some_and(|last| last.event.id() == "more"));
    });
}

#[test]
fn a_second_relay_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(folder.path());
    let first = open(&options);
    let second = LocalJournal::open(options.clone(), Arc::default());
    assert!(matches!(second, Err(OpenError::Locked(_))));
    drop(first);
    open(&options);
}

#[test]
fn retention_gives_segments_back_and_uses_them_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { retention: 1000, ..options(folder.path()) };
    block_on(async {
        let journal = open(&options);
        for n in 0..60 {
            journal.append(vec![event(&n.to_string(), 400)], n).await.expect("append");
            journal.save_cursor("bus", journal.head());
            if n % 10 == 9 {
                // The saver's thread trims by the real clock, at which all of these are old.
                journal.flush().await;
                let command = Command::Trim { now: now() };
                journal.commands.as_ref().expect("open").send(command).await.expect("the writer runs");
            }
        }
        drop(journal); // and with it the tail in memory
        let journal = open(&options);
        assert!(journal.stats().segments < 10);
        let (events, lost) = drain(&journal, 1).await;
        assert!(lost > 30 && lost + events.len() as u64 == 60, "{lost} {}", events.len());
    });
}

#[test]
fn seeks_by_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(folder.path());
    block_on(async {
        let journal = open(&options);
        let start = now();
        for n in 0..50 {
            journal.append(vec![event(&n.to_string(), 200)], start + n * 1000).await.expect("append");
        }
        assert_eq!(journal.seek(start + 20_000).await, 21);
        assert_eq!(journal.seek(0).await, 1);
        assert_eq!(journal.seek(start + 1_000_000_000).await, journal.head());
    });
}

/// A disk whose syncs fail once it is told to.
struct FailingDisk(Arc<AtomicBool>);

impl Disk for FailingDisk {
    fn write(&self, file: &SegmentFile, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        file.write(at, bytes)
    }

    fn sync(&self, file: &SegmentFile) -> std::io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(std::io::Error::other("injected")) } else { file.sync() }
    }
}

#[test]
fn after_an_fsync_error_nothing_more_is_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let fails = Arc::new(AtomicBool::new(false));
    block_on(async {
        let disk = Box::new(FailingDisk(fails.clone()));
        let journal = LocalJournal::open_on(options(folder.path()), Arc::default(), disk).expect("open");
        journal.append(vec![event("good", 0)], 0).await.expect("append");
        fails.store(true, Ordering::Relaxed);
        let failed = journal.append(vec![event("bad", 0)], 0).await;
        assert!(matches!(failed, Err(AppendError::Failed(_))));
        fails.store(false, Ordering::Relaxed);
        let still = journal.append(vec![event("later", 0)], 0).await;
        assert!(matches!(still, Err(AppendError::Failed(_))), "a sync that works again proves nothing");
        let (events, _) = drain(&journal, 1).await;
        assert_eq!(ids(&events), ["good"], "what was not acknowledged is not delivered either");
        assert!(journal.stats().failed.is_some());
    });
}

/// What is done to a journal in the property test.
#[derive(Clone, Debug)]
enum Step {
    /// Events with payloads of these sizes, in one request.
    Append(Vec<usize>),
    /// Close and open.
    Reopen,
    /// Close, cut the last segment's bytes from a place within what was written last on (a crash in
    /// mid-write: zeros from there), open.
    Tear(prop::sample::Index),
    /// Close, flip a bit anywhere in a segment's records, open.
    Flip(prop::sample::Index, prop::sample::Index, u8),
    /// The cursor moves to the head and old segments go.
    Advance,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(0..700_usize, 1..6).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        1 => any::<prop::sample::Index>().prop_map(Step::Tear),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u8)
            .prop_map(|(file, byte, bit)| Step::Flip(file, byte, bit)),
        1 => Just(Step::Advance),
    ]
}

/// Where a record stands: its offset, its first byte, and the byte behind it.
type Place = (Offset, u64, u64);

/// Where the records of each segment stand.
fn records(folder: &Path) -> Vec<(std::path::PathBuf, Vec<Place>)> {
    let segments = recovery::list_segments(folder).expect("segments");
    let mut found = Vec::new();
    for (index, (base, path)) in segments.iter().enumerate() {
        let file = SegmentFile::open_read_only(path).expect("open");
        let limit = segments.get(index + 1).map_or(Offset::MAX, |(next, _)| *next);
        let end = file.size().expect("len");
        let mut scan = scan::Scan::new(&file, format::SEGMENT_HEADER_BYTES, end, *base, limit, 1 << 16);
        let mut here = Vec::new();
        loop {
            match scan.step().expect("scan") {
                scan::Step::Record(record) => here.push((record.offset, record.at, record.next_at)),
                scan::Step::Damage { .. } => {}
                scan::Step::End { .. } => break,
            }
        }
        found.push((path.clone(), here));
    }
    found
}

/// The model: every event that should still be readable, by offset.
type Model = std::collections::BTreeMap<Offset, String>;

/// Tears the last record at some byte; takes it out of the model.
fn tear(folder: &Path, model: &mut Model, place: &prop::sample::Index) {
    let (path, records) = records(folder).pop().expect("a segment");
    if let Some((offset, from, to)) = records.last() {
        let keep = place.index((to - from) as usize) as u64;
        let file = SegmentFile::open(&path).expect("open");
        let before = file.read(*from, (to - from) as usize).expect("read");
        file.zero(from + keep, *to).expect("zero");
        // Cutting only padding or zeros that were there anyway damages nothing.
        if file.read(*from, (to - from) as usize).expect("read") != before {
            model.remove(offset);
        }
    }
}

fn flip(folder: &Path, model: &mut Model, file: &prop::sample::Index, byte: &prop::sample::Index, bit: u8) {
    let all = records(folder);
    let (path, records) = &all[file.index(all.len())];
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
    let at = first.1 + byte.index((last.2 - first.1) as usize) as u64;
    let file = SegmentFile::open(path).expect("open");
    let old = file.read(at, 1).expect("read")[0];
    file.write(at, &[old ^ (1 << bit)]).expect("write");
    if let Some((offset, from, _)) = records.iter().find(|(_, from, to)| (*from..*to).contains(&at)) {
        let header = file.read(*from, format::RECORD_HEADER_BYTES).expect("read");
        let whole = format::RecordHeader::decode(&header).is_some_and(|header| {
            let bytes = file.read(*from, format::RECORD_HEADER_BYTES + header.len).expect("read");
            header.offset == *offset && header.fits(&bytes)
        });
        if !whole {
            model.remove(offset); // a bit of the padding damages nothing
        }
    }
}

async fn apply(
    step: &Step,
    options: &Options,
    journal: &mut Option<LocalJournal>,
    model: &mut Model,
    made: &mut u64,
) {
    match step {
        Step::Append(sizes) => {
            let journal = journal.as_ref().expect("open");
            let first = journal.head();
            let events: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(n, size)| event(&format!("{}", *made + n as u64), *size))
                .collect();
            journal.append(events, now()).await.expect("append");
            for n in 0..sizes.len() as u64 {
                model.insert(first + n, format!("{}", *made + n));
            }
            *made += sizes.len() as u64;
        }
        Step::Reopen => {}
        Step::Advance => {
            let open = journal.as_ref().expect("open");
            open.save_cursor("sink", open.head());
            open.flush().await;
            let commands = open.commands.as_ref().expect("open");
            commands.send(Command::Trim { now: Micros::MAX }).await.expect("the writer runs");
        }
        Step::Tear(_) | Step::Flip(..) => {}
    }
    if !matches!(step, Step::Append(_)) {
        *journal = None;
        match step {
            Step::Tear(place) => tear(&options.folder, model, place),
            Step::Flip(file, byte, bit) => flip(&options.folder, model, file, byte, *bit),
            _ => {}
        }
        let opened = open(options);
        model.retain(|offset, _| *offset >= opened.stats().first);
        *journal = Some(opened);
    }
}

fn cases() -> u32 {
    std::env::var("RELAY_JOURNAL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Whatever happens, every event that is whole on disk is read, in order, and nothing else.
    #[test]
    fn behaves_like_its_model(steps in proptest::collection::vec(step(), 1..25)) {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { retention: 0, ..options(folder.path()) };
        block_on(async {
            let mut model = Model::new();
            let mut made = 0;
            let mut journal = Some(open(&options));
            for step in &steps {
                apply(step, &options, &mut journal, &mut model, &mut made).await;
                let open = journal.as_ref().expect("open");
                let (events, _) = drain(open, 1).await;
                let found: Model = events.iter().map(|s| (s.offset, s.event.id().to_owned())).collect();
                prop_assert_eq!(&found, &model, "after {:?} of {:?}", step, steps);
                prop_assert!(events.windows(2).all(|two| two[0].offset < two[1].offset));
            }
            Ok(())
        })?;
    }

    /// Any bytes at all in a segment: opened and read without a panic.
    #[test]
    fn any_bytes_open(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options(folder.path());
        drop(open(&options));
        let path = spares::segment_path(folder.path(), 1);
        std::fs::write(&path, bytes).expect("write");
        block_on(async {
            let journal = open(&options);
            journal.append(vec![event("new", 0)], now()).await.expect("append");
            let (events, _) = drain(&journal, 1).await;
            assert_eq!(events.last().expect("one").event.id(), "new");
        });
    }
}

#[test]
fn knows_about_how_much_stands_behind_an_offset() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(folder.path());
    block_on(async {
        let journal = open(&options);
        assert_eq!(journal.offset_behind(u64::MAX), 1);
        for number in 0..100 {
            journal.append(vec![event(&number.to_string(), 200)], number).await.expect("append");
        }
        let record = format::record_bytes(event("00", 200).encoded_len()) as u64;
        for records in [0, 1, 5, 20, 50] {
            let found = journal.offset_behind(records * record);
            // What is left unused at the end of each segment counts too; of the last record only that it begins.
            let exact = 101 - records;
            assert!(
                (exact.saturating_sub(2)..=exact + 8).contains(&found),
                "{records}: {found}, not {exact}"
            );
        }
        assert_eq!(journal.offset_behind(1 << 30), 1);
    });
}
