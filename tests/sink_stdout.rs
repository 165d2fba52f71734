//! Standard output through a real pipe: the relay's own binary writes, the test reads, goes, and comes
//! back. The rows on standard output of `docs/failures/file.md`.

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use support::{
    Folder,
    contract::{BOUND, message},
    process::{eventually, free_ports},
};

/// A relay whose standard output is a pipe, with a second sink beside it. Killed when dropped.
struct Piped {
    child: Child,
    receiver: String,
    admin: String,
    http: reqwest::Client,
}

impl Piped {
    async fn start(folder: &Folder) -> Self {
        Self::start_with(folder, Stdio::piped()).await
    }

    async fn start_with(folder: &Folder, stdout: Stdio) -> Self {
        let [receiver, admin] = free_ports().map(|port| format!("127.0.0.1:{port}"));
        let config = format!(
            "receiver: {{listen: '{receiver}'}}\nadmin: {{listen: '{admin}'}}\njournal: {{path: '{}'}}\n\
             sinks:\n  - {{name: out, backoff: 100ms, stdout: {{}}}}\n  - {{name: beside, topic: all, file: {{path: '{}'}}}}\n\
             routes:\n  - {{name: all, to: [out, beside]}}\n",
            folder.join("journal").display(),
            folder.join("beside").display(),
        );
        let child = Command::new(env!("CARGO_BIN_EXE_relay"))
            .args(["serve", "-c"])
            .arg(folder.write("relay.yml", config))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(std::fs::File::create(folder.join("log")).expect("a log"))
            .spawn()
            .expect("the relay");
        let this = Self { child, receiver, admin, http: reqwest::Client::new() };
        eventually("the relay to be ready", BOUND, async || this.get("/readyz").await).await;
        this
    }

    async fn get(&self, path: &str) -> Option<String> {
        let answer = self.http.get(format!("http://{}{path}", self.admin)).send().await.ok()?;
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    }

    async fn post(&self, index: usize) {
        let body = message("out", index).body;
        let answer = self.http.post(format!("http://{}/events", self.receiver)).body(body).send().await;
        assert_eq!(answer.expect("an answer").status(), 202);
    }

    /// The sink's part of the status.
    async fn sink(&self) -> serde_json::Value {
        let status = self.get("/api/v1/status").await.expect("the status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["sinks"][0].clone()
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ids of the next lines that are events.
fn ids(out: &mut BufReader<ChildStdout>, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let mut line = String::new();
        assert!(out.read_line(&mut line).expect("a line") > 0, "the pipe ended after {found:?}");
        if let Ok(json) = serde_json::from_str::<serde_json::Value>(&line) {
            found.push(json["id"].as_str().expect("an id").to_owned());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_a_line_an_event_and_survives_its_reader() {
    let folder = Folder::new("stdout");
    let mut relay = Piped::start(&folder).await;
    let mut out = BufReader::new(relay.child.stdout.take().expect("a pipe"));
    for index in 0..20 {
        relay.post(index).await;
    }
    let expected: Vec<_> = (0..20).map(|index| format!("out#{index}")).collect();
    let found = tokio::task::spawn_blocking(move || (ids(&mut out, 20), out));
    let (found, out) = tokio::time::timeout(BOUND, found).await.expect("in time").expect("no panic");
    assert_eq!(found, expected);

    // The reader goes: what comes now is kept, and the relay says why.
    drop(out);
    relay.post(20).await;
    let sink = eventually("the broken pipe to be noticed", BOUND, async || {
        let sink = relay.sink().await;
        (sink["failures"].as_u64() > Some(0)).then_some(sink)
    })
    .await;
    assert!(sink["last_error"]["text"].as_str().is_some_and(|text| text.contains("Broken pipe")), "{sink}");
    assert_eq!(sink["lag_events"], 1, "{sink}");
    drop(relay);

    // A new reader gets it, perhaps behind copies of what the killed relay had not noted as done.
    let mut relay = Piped::start(&folder).await;
    let mut out = BufReader::new(relay.child.stdout.take().expect("a pipe"));
    let found = tokio::task::spawn_blocking(move || while ids(&mut out, 1) != ["out#20"] {});
    tokio::time::timeout(BOUND, found).await.expect("in time").expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_holds_up_no_end() {
    let folder = Folder::new("stdout-full");
    let mut relay = Piped::start(&folder).await;
    let mut out = relay.child.stdout.take().expect("a pipe");
    // More than a pipe holds (64 KiB) and nobody reads.
    for index in 0..1_000 {
        relay.post(index).await;
    }
    // It holds up this sink alone.
    eventually("the sink beside it", BOUND, async || {
        let beside = std::fs::read_to_string(folder.join("beside/all")).unwrap_or_default();
        (beside.lines().count() == 1_000).then_some(())
    })
    .await;
    let pid = rustix::process::Pid::from_child(&relay.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
    let bound = Duration::from_secs(40);
    let child = std::sync::Mutex::new(&mut relay.child);
    let ended = async || child.lock().expect("no panic").try_wait().expect("wait");
    let status = eventually("the relay to end", bound, ended).await;
    assert!(status.success(), "{status}");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("what was written");
    assert!(rest.lines().filter(|line| line.starts_with("{\"id\"")).count() < 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_stays_in_the_journal() {
    let folder = Folder::new("stdout-no-space");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a device that is full");
    let relay = Piped::start_with(&folder, full.into()).await;
    for index in 0..3 {
        relay.post(index).await;
    }
    let sink = eventually("the full disk to be noticed", BOUND, async || {
        let sink = relay.sink().await;
        (sink["failures"].as_u64() > Some(1) && sink["lag_events"] == 3).then_some(sink)
    })
    .await;
    assert!(sink["last_error"]["text"].as_str().is_some_and(|text| text.contains("No space left")), "{sink}");
    drop(relay);

    let mut relay = Piped::start(&folder).await;
    let mut out = BufReader::new(relay.child.stdout.take().expect("a pipe"));
    let found = tokio::task::spawn_blocking(move || ids(&mut out, 3));
    let found = tokio::time::timeout(BOUND, found).await.expect("in time").expect("no panic");
    assert_eq!(found, ["out#0", "out#1", "out#2"]);
}
