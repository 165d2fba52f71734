//! The relay's own binary as a child process.

use std::{path::PathBuf, process::Command, sync::Mutex, time::Duration};

use serde_json::Value;

use super::{
    Folder, given,
    process::{Proc, Slot, eventually, free_ports},
};

const START_BOUND: Duration = Duration::from_secs(20);
const STOP_BOUND: Duration = Duration::from_secs(40);
const EVENTS: &str = "application/vnd.docker.distribution.events.v1+json";

/// What the receiver answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

pub struct Relay {
    slot: Slot,
    receiver: String,
    admin: String,
    environment: Mutex<Vec<(String, String)>>,
    http: reqwest::Client,
    folder: Folder,
}

impl Relay {
    /// Runs `relay serve -c FILE` and waits until `/readyz` answers 200.
    ///
    /// In `config`, `@RECEIVER@` and `@ADMIN@` become `127.0.0.1:PORT`, and `@DIR@` a folder of this
    /// relay's own. A block `receiver`, `admin` or `journal` that it lacks is put before it, so that a test
    /// need only say its sinks and routes.
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    /// With environment variables, as for `${NAME}` in the configuration.
    pub async fn start_with(config: &str, environment: &[(&str, &str)]) -> Self {
        let this = Self::prepare(config, environment);
        this.wait_ready().await;
        this
    }

    /// Starts it without waiting: for one that is to fail, or that is not ready for a while.
    pub fn prepare(config: &str, environment: &[(&str, &str)]) -> Self {
        let folder = Folder::new("relay");
        let [receiver, admin] = free_ports().map(|port| format!("127.0.0.1:{port}"));
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .expect("an HTTP client");
        let environment: Vec<_> = environment.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        folder.write("relay.yml", complete(config, &receiver, &admin, &folder));
        let slot = Slot::new("relay", spawn(&folder, &environment));
        Self { slot, receiver, admin, environment: Mutex::new(environment), http, folder }
    }

    /// Where a registry posts to.
    pub fn events_url(&self) -> String {
        format!("http://{}/events", self.receiver)
    }

    /// `127.0.0.1:PORT` of the receiver.
    pub fn receiver(&self) -> &str {
        &self.receiver
    }

    /// `127.0.0.1:PORT` of the admin listener.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// What `@DIR@` stands for, or a file below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A client for whatever the methods below do not cover.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Posts an envelope as a registry does. Panics if there is no answer.
    pub async fn post(&self, body: impl Into<Vec<u8>>) -> Answer {
        self.try_post(body)
            .await
            .unwrap_or_else(|e| panic!("no answer: {e}; end of the log:\n{}", self.log_tail()))
    }

    /// The same for a relay that may be dying: an error where there is no whole answer.
    pub async fn try_post(&self, body: impl Into<Vec<u8>>) -> Result<Answer, reqwest::Error> {
        let request = self.http.post(self.events_url()).header("content-type", EVENTS).body(body.into());
        let response = request.send().await?;
        Ok(Answer { status: response.status().as_u16(), body: response.text().await? })
    }

    /// `GET` of a path on the admin listener.
    pub async fn get(&self, path: &str) -> Answer {
        let response = self.http.get(format!("http://{}{path}", self.admin)).send().await;
        let response =
            response.unwrap_or_else(|e| panic!("GET {path}: {e}; end of the log:\n{}", self.log_tail()));
        Answer { status: response.status().as_u16(), body: response.text().await.expect("a body") }
    }

    /// `GET /api/v1/status`.
    pub async fn status(&self) -> Value {
        let answer = self.get("/api/v1/status").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// Waits until the status satisfies `good`; panics with the last one after `bound`.
    pub async fn status_when(&self, what: &str, bound: Duration, good: impl Fn(&Value) -> bool) -> Value {
        let last = Mutex::new(Value::Null);
        let wait = eventually(what, bound, async || {
            let status = self.status().await;
            let found = good(&status).then(|| status.clone());
            *last.lock().expect("no panic") = status;
            found
        });
        let shown = ShowOnPanic { last: &last, relay: self };
        let found = wait.await;
        std::mem::forget(shown);
        found
    }

    /// SIGKILL, and reaped: on return it is gone.
    pub fn kill_9(&self) {
        self.slot.kill();
    }

    pub fn freeze(&self) {
        self.slot.freeze();
    }

    pub fn thaw(&self) {
        self.slot.thaw();
    }

    /// SIGTERM; gives the exit code (`None`: a signal ended it). Panics if it takes longer than 40 s.
    pub async fn terminate(&self) -> Option<i32> {
        self.slot.stop(STOP_BOUND).await;
        self.slot.with(Proc::exited).expect("it has ended").code()
    }

    /// Waits for it to end by itself; gives the exit code.
    pub async fn wait(&self, bound: Duration) -> Option<i32> {
        eventually("the relay to end", bound, async || self.slot.with(Proc::exited)).await.code()
    }

    /// Sends a signal, such as SIGHUP.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.slot.with(|proc| proc.signal(signal));
    }

    pub fn pid(&self) -> u32 {
        self.slot.with(|proc| proc.pid())
    }

    /// Kills what still runs, starts it on the same ports and folder, and waits until it is ready.
    pub async fn restart(&self) {
        self.slot.kill();
        let environment = self.environment.lock().expect("no panic").clone();
        self.slot.put(spawn(&self.folder, &environment));
        self.wait_ready().await;
    }

    /// Replaces the configuration file; takes effect at the next `restart`.
    pub fn configure(&self, config: &str) {
        self.folder.write("relay.yml", complete(config, &self.receiver, &self.admin, &self.folder));
    }

    /// All it has logged, over every restart.
    pub fn log(&self) -> String {
        self.slot.with(|proc| proc.log())
    }

    fn log_tail(&self) -> String {
        self.slot.with(|proc| proc.tail())
    }

    pub async fn wait_ready(&self) {
        let url = format!("http://{}/readyz", self.admin);
        eventually("the relay is ready", START_BOUND, async || {
            self.slot.with(|proc| {
                let ended = proc.exited();
                assert!(
                    ended.is_none(),
                    "the relay ended ({}); its log:\n{}",
                    ended.expect("just seen"),
                    proc.tail()
                );
            });
            let response = self.http.get(&url).timeout(Duration::from_secs(2)).send().await.ok()?;
            response.status().is_success().then_some(())
        })
        .await;
    }
}

/// Prints what the relay last said of itself when a wait for something else gives up.
struct ShowOnPanic<'a> {
    last: &'a Mutex<Value>,
    relay: &'a Relay,
}

impl Drop for ShowOnPanic<'_> {
    fn drop(&mut self) {
        if let Ok(last) = self.last.lock() {
            eprintln!("the last status: {:#}\nend of the relay's log:\n{}", *last, self.relay.log_tail());
        }
    }
}

fn complete(config: &str, receiver: &str, admin: &str, folder: &Folder) -> String {
    let has = |block: &str| config.lines().any(|line| line.starts_with(&format!("{block}:")));
    let mut text = String::new();
    for (block, content) in [
        ("receiver", "{ listen: \"@RECEIVER@\" }"),
        ("admin", "{ listen: \"@ADMIN@\" }"),
        ("journal", "{ path: \"@DIR@/journal\", max_size: 256MiB }"),
    ] {
        if !has(block) {
            text += &format!("{block}: {content}\n");
        }
    }
    text += config;
    let folder = folder.path().to_str().expect("a UTF-8 path");
    text.replace("@RECEIVER@", receiver).replace("@ADMIN@", admin).replace("@DIR@", folder)
}

fn spawn(folder: &Folder, environment: &[(String, String)]) -> Proc {
    let built = || env!("CARGO_BIN_EXE_relay").to_owned();
    let mut command = Command::new(given("RELAY_TEST_RELAY").unwrap_or_else(built));
    command.args(["serve", "-c"]).arg(folder.join("relay.yml")).current_dir(folder.path());
    command.envs(environment.iter().map(|(name, value)| (name, value))).env("RUST_BACKTRACE", "1");
    Proc::spawn("relay", command, &folder.join("log"))
}
