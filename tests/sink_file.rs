//! The file sink against real file systems, a full one among them: the contract, rotation, and each row
//! of `docs/failures/file.md`.

mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use relay::sinks::{Context, FaultKind, Options, Sink, file::FileOptions};
use support::{
    Folder,
    contract::{self, BOUND, Destination, Driver, End, Received, Variant, message, messages},
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
        a_full_disk_is_busy_and_tears_no_line(&*shared.get().await).await;
    });
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

/// A file system of its own, small enough to fill.
struct Disk {
    folder: Folder,
}

const DISK_BYTES: u64 = 16 << 20;

impl Disk {
    async fn mount() -> Self {
        let folder = Folder::new("disk");
        as_root(&["mount", "-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"], folder.path());
        Self { folder }
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.ballast()).expect("the ballast");
        let block = [0u8; 4096];
        while file.write_all(&block).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        as_root(&["umount", "-l"], self.folder.path());
    }
}

/// Runs a command on a folder as root, which mounting takes.
fn as_root(command: &[&str], folder: &Path) {
    let is_root = rustix::process::geteuid().is_root();
    let mut words = if is_root { vec![] } else { vec!["sudo", "-n"] };
    words.extend(command);
    let status = Command::new(words[0]).args(&words[1..]).arg(folder).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{words:?}: a full disk cannot be tried without a mount"
    );
}

impl Destination for Disk {
    async fn topic(&self) -> String {
        unique("push") + ".jsonl"
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        match variant {
            Variant::Missing => sink(Path::new("/dev/null/folder"), ""),
            _ => sink(&self.out(), ""),
        }
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let path = self.out().join(topic);
        let what = format!("{count} lines in {topic}");
        let lines = eventually(&what, bound, async || Some(lines(&path)).filter(|l| l.len() >= count)).await;
        lines.iter().map(|line| self.received(topic, line)).collect()
    }

    /// A disk does not go away; it fills up.
    async fn stop(&self) {
        self.fill();
    }

    async fn kill(&self) {
        self.fill();
    }

    async fn start_again(&self) {
        fs::remove_file(self.ballast()).expect("the ballast");
    }

    fn freeze(&self) {
        unreachable!("a disk is not frozen in these tests");
    }

    fn thaw(&self) {
        unreachable!("a disk is not frozen in these tests");
    }

    fn too_large_bytes(&self) -> usize {
        unreachable!("no line is too large for a file");
    }

    fn load(&self) -> usize {
        10_000
    }
}

impl Disk {
    /// A line has no white space and no headers: both are put back, since the contract compares.
    fn received(&self, topic: &str, line: &str) -> Received {
        let id = id(line);
        let index: usize = id.rsplit_once('#').expect("an id of ours").1.parse().expect("a number");
        let sent = message(topic, index);
        let compact = relay::event::compact(&sent.body);
        let body = if compact == line.as_bytes() { sent.body.to_vec() } else { line.as_bytes().to_vec() };
        let headers = sent.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        Received { topic: topic.to_owned(), key: None, id, headers, body }
    }
}

async fn a_full_disk_is_busy_and_tears_no_line(disk: &Disk) {
    let topic = disk.topic().await;
    let path = disk.out().join(&topic);
    let sent = messages(&topic, disk.load());
    let mut driver = Driver::new(disk.sink(&topic, Variant::Good), sent.clone());
    driver.step().await.expect("room enough");
    disk.fill();
    let fault = loop {
        if let Err(fault) = driver.step().await {
            break fault;
        }
    };
    assert!(matches!(fault.kind, FaultKind::Busy { .. }), "{fault:?}");
    assert!(fault.text.contains("No space left"), "{fault}");
    // What was confirmed is there, and no half of a line behind it.
    let confirmed: Vec<_> = driver.outcome.settled.iter().map(|message| message.id.clone()).collect();
    assert_eq!(ids(&path)[..confirmed.len()], confirmed);
    driver.faulted(fault).await;
    disk.start_again().await;
    // Without a new connect: `Busy` says that the connection is good.
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty());
    driver.sink.close().await;
}

async fn rejects_a_path_that_cannot_be() {
    let folder = Folder::new("paths");
    fs::write(folder.join("team"), "{}\n").expect("a file where a folder would have to be");
    fs::create_dir(folder.join("lib")).expect("a folder where a file would have to be");
    for bad in [format!("{}.jsonl", "x".repeat(300)), "team/app.jsonl".to_owned(), "lib".to_owned()] {
        let topic = unique("push");
        let mut all = messages(&topic, 30);
        all[10].topic.clone_from(&bad);
        let mut driver = Driver::new(sink(folder.path(), ""), all);
        driver.finish().await;
        assert_eq!(driver.outcome.faults, []);
        let rejected: Vec<_> = driver.outcome.rejected.iter().map(|(m, why)| (m.offset, why.code)).collect();
        assert_eq!(rejected, [(11, "bad_path")], "{bad}");
        assert_eq!(ids(&folder.join(&topic)).len(), 29);
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
