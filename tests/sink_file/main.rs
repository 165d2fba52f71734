//! The file sink against real file systems, a full one among them: the contract, rotation, and each row
//! of `docs/failures/file.md`.

mod broken;
mod disk;
#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use disk::Disk;

use relay::sinks::{Context, FaultKind, Options, Sink, file::FileOptions};
use support::{
    Folder,
    contract::{self, BOUND, Driver, End, messages},
    process::eventually,
    suite::{Shared, Suite},
    unique,
};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let shared = Shared::new(Disk::mount);
    macro_rules! scenarios {
        ($($scenario:ident),*) => {$(
            let disk = shared.clone();
            suite.test(concat!("contract::", stringify!($scenario)), async move || {
                contract::$scenario(&*disk.get().await).await;
            });
        )*};
    }
    scenarios!(
        keeps_order,
        confirms_what_is_there,
        closes_in_mid_batch,
        settle_is_cancel_safe,
        refuses_missing
    );
    let disk = shared.clone();
    suite.test("contract::survives_a_full_disk", async move || {
        contract::survives_restart(&*disk.get().await, End::Stopped).await;
    });
    suite.test("a_full_disk_is_busy_and_tears_no_line", async move || {
        disk::a_full_disk_is_busy_and_tears_no_line(&*shared.get().await).await;
    });
    suite.test("a_disk_that_becomes_read_only_is_refused", disk::a_disk_that_becomes_read_only_is_refused);
    suite.test("a_folder_that_nobody_may_write_to_is_refused", a_folder_that_nobody_may_write_to_is_refused);
    broken::register(&mut suite);
    suite.test("rejects_a_path_that_cannot_be", rejects_a_path_that_cannot_be);
    suite.test("refuses_a_path_outside", refuses_a_path_outside);
    suite.test("refuses_a_file_that_another_sink_has", refuses_a_file_that_another_sink_has);
    suite.test("rotates_by_size_and_loses_nothing", rotates_by_size_and_loses_nothing);
    suite.test("rotates_by_age", rotates_by_age);
    suite.test("follows_a_file_that_was_moved", follows_a_file_that_was_moved);
    suite.test("opens_so_many_files_at_once", opens_so_many_files_at_once);
    suite.test("mends_a_torn_line_and_sends_it_again", mends_a_torn_line_and_sends_it_again);
    suite.test("a_line_is_the_event_without_white_space", a_line_is_the_event_without_white_space);
    suite.run()
}

fn sink(folder: &Path, more: &str) -> Box<dyn Sink> {
    named("archive", folder, more)
}

fn named(name: &str, folder: &Path, more: &str) -> Box<dyn Sink> {
    let yaml = format!("{{path: '{}'{more}}}", folder.display());
    let options: FileOptions = serde_yaml::from_str(&yaml).expect(&yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    let timeout = Duration::from_secs(5);
    options.build(Context { name: name.to_owned(), timeout, literal_topics: Vec::new() })
}

/// The lines of a file; none when it is not there.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line in {}", path.display());
    text.lines().map(str::to_owned).collect()
}

fn ids(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| id(line)).collect()
}

fn id(line: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    json["id"].as_str().expect("an id").to_owned()
}

async fn rejects_a_path_that_cannot_be() {
    let folder = Folder::new("paths");
    fs::write(folder.join("team"), "{}\n").expect("a file where a folder would have to be");
    fs::create_dir(folder.join("lib")).expect("a folder where a file would have to be");
    symlink("nowhere", folder.join("gone")).expect("a link that leads nowhere");
    let too_long = format!("{}.jsonl", "x".repeat(300));
    for bad in [too_long.as_str(), "a\0b", "team/app.jsonl", "gone/app.jsonl", "lib"] {
        let topic = unique("push");
        let mut all = messages(&topic, 30);
        all[10].topic = bad.to_owned();
        let mut driver = Driver::new(sink(folder.path(), ""), all);
        driver.finish().await;
        assert_eq!(driver.outcome.faults, []);
        let rejected: Vec<_> = driver.outcome.rejected.iter().map(|(m, why)| (m.offset, why.code)).collect();
        assert_eq!(rejected, [(11, "bad_path")], "{bad}");
        assert_eq!(ids(&folder.join(&topic)).len(), 29);
    }
}

/// Root may write nearly anywhere; not there.
async fn a_folder_that_nobody_may_write_to_is_refused() {
    let mut sink = sink(Path::new("/sys/kernel/relay-test"), "");
    let fault = sink.connect().await.expect_err("no permission");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    // A file where a folder is to be, or above it.
    let folder = Folder::new("no-folder");
    let file = folder.write("file", "");
    for path in [file.join("below"), file] {
        let fault = crate::sink(&path, "").connect().await.expect_err("no folder");
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    }
}

async fn refuses_a_path_outside() {
    let folder = Folder::new("outside");
    for outside in ["../outside.jsonl", "/tmp/outside.jsonl", "a/../../b.jsonl", ""] {
        let mut driver = Driver::new(sink(folder.path(), ""), messages(outside, 1));
        let fault = driver.step().await.expect_err(outside);
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        driver.sink.close().await;
    }
}

async fn refuses_a_file_that_another_sink_has() {
    let folder = Folder::new("shared");
    let topic = "push.jsonl";
    let mut first = Driver::new(sink(folder.path(), ""), messages(topic, 10));
    first.finish().await;
    let mut second = Driver::new(named("another", folder.path(), ""), messages(topic, 10));
    let fault = second.step().await.expect_err("in use");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    second.faulted(fault).await;
    assert_eq!(lines(&folder.join(topic)).len(), 10);
    first.sink.close().await;
    second.finish().await;
    assert_eq!(lines(&folder.join(topic)).len(), 20);
}

/// Every file of `topic`: those set aside, oldest first, then the one in use.
fn all_files(folder: &Path, topic: &str) -> Vec<PathBuf> {
    let mut aside: Vec<_> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{topic}.")))
        })
        .collect();
    aside.sort();
    aside.push(folder.join(topic));
    aside
}

async fn rotates_by_size_and_loses_nothing() {
    let folder = Folder::new("rotate");
    let topic = "push.jsonl";
    let sent = messages(topic, 2_000);
    let mut driver = Driver::new(sink(folder.path(), ", rotate: {size: 20KiB}"), sent.clone());
    driver.finish().await;
    let files = all_files(folder.path(), topic);
    assert!(files.len() > 5, "{files:?}");
    for file in &files {
        let bytes = fs::metadata(file).expect("a file").len();
        assert!((1..=20 * 1024).contains(&bytes), "{bytes} bytes in {}", file.display());
    }
    let found: Vec<_> = files.iter().flat_map(|file| ids(file)).collect();
    let expected: Vec<_> = sent.iter().map(|message| message.id.clone()).collect();
    assert_eq!(found, expected);
    driver.sink.close().await;

    let mut driver = Driver::new(sink(folder.path(), ", rotate: {size: 20KiB, keep: 2}"), sent);
    driver.finish().await;
    assert_eq!(all_files(folder.path(), topic).len(), 3);
}

async fn rotates_by_age() {
    let folder = Folder::new("age");
    let topic = "push.jsonl";
    let mut driver = Driver::new(sink(folder.path(), ""), messages(topic, 5));
    driver.finish().await;
    driver.sink.close().await;
    let age = || fs::metadata(folder.join(topic)).expect("the file").created().expect("when").elapsed();
    let old = Duration::from_millis(50);
    eventually("the file to be old", BOUND, async || age().ok().filter(|age| *age >= old)).await;
    let mut driver = Driver::new(sink(folder.path(), ", rotate: {age: 50ms}"), messages(topic, 1));
    driver.finish().await;
    let files = all_files(folder.path(), topic);
    let counts: Vec<_> = files.iter().map(|file| lines(file).len()).collect();
    assert_eq!(counts, [5, 1]);
}

async fn follows_a_file_that_was_moved() {
    let folder = Folder::new("moved");
    let topic = "push.jsonl";
    let mut sink = sink(folder.path(), "");
    sink.connect().await.expect("connect");
    let all = messages(topic, 30);
    for (round, batch) in all.chunks(10).enumerate() {
        sink.send(batch).await.expect("send");
        let mut settled = 0;
        while settled < batch.len() {
            settled += sink.settle().await.expect("settle").count;
        }
        match round {
            0 => fs::rename(folder.join(topic), folder.join("moved")).expect("move"),
            1 => fs::remove_file(folder.join(topic)).expect("remove"),
            _ => {}
        }
    }
    assert_eq!(lines(&folder.join("moved")).len(), 10);
    assert_eq!(ids(&folder.join(topic)), all[20..].iter().map(|m| m.id.clone()).collect::<Vec<_>>());
}

async fn opens_so_many_files_at_once() {
    let folder = Folder::new("many");
    let mut all = messages("x", 1_000);
    for (index, message) in all.iter_mut().enumerate() {
        message.topic = format!("deep/{}/push.jsonl", index % 20);
    }
    let mut driver = Driver::new(sink(folder.path(), ", open_max: 3"), all.clone());
    driver.connect().await.expect("connect");
    driver.fill().await.expect("send");
    driver.settle().await.expect("settle");
    let open = fs::read_dir("/proc/self/fd").expect("our files").filter_map(|entry| entry.ok());
    let open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let open = open.filter(|path| path.starts_with(folder.path())).count();
    assert!((1..=3).contains(&open), "{open} files open");
    driver.finish().await;
    for index in 0..20 {
        let expected: Vec<_> = all.iter().skip(index).step_by(20).map(|message| message.id.clone()).collect();
        assert_eq!(ids(&folder.join(&format!("deep/{index}/push.jsonl"))), expected);
    }
}

async fn mends_a_torn_line_and_sends_it_again() {
    let folder = Folder::new("torn");
    let topic = "push.jsonl";
    fs::write(folder.join(topic), "{\"id\":\"before\"}\n{\"id\":\"half").expect("a torn line");
    let mut driver = Driver::new(sink(folder.path(), ""), messages(topic, 2));
    driver.finish().await;
    let expected = ["before", "push.jsonl#0", "push.jsonl#1"];
    assert_eq!(ids(&folder.join(topic)), expected);
}

async fn a_line_is_the_event_without_white_space() {
    let folder = Folder::new("line");
    // A name that leads elsewhere is followed, as everywhere.
    fs::create_dir(folder.join("real")).expect("a folder");
    symlink(folder.join("real"), folder.join("out")).expect("a link");
    let mut driver = Driver::new(sink(&folder.join("out"), ""), messages("push.jsonl", 1));
    driver.finish().await;
    assert_eq!(
        fs::read_to_string(folder.join("real/push.jsonl")).expect("the file"),
        "{\"id\":\"push.jsonl#0\",\"action\":\"push\",\"target\":{\"repository\":\"team/app-0\"},\
         \"future\":{\"index\":0,\"float\":1.50}}\n"
    );
}
