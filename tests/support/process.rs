//! Child processes that end with their guard, free ports, and waiting for a condition with a bound.

use std::{
    collections::HashSet,
    fs,
    future::Future,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long to wait between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);
/// How many bytes of a log's end go into a panic.
const TAIL_BYTES: usize = 6_000;

/// A child in a process group of its own, with its output in a log file. Dropping it kills the group,
/// so that what a wrapper script started goes as well.
pub struct Proc {
    name: String,
    child: Child,
    log: PathBuf,
    pid_file: Option<PathBuf>,
    status: Option<ExitStatus>,
}

impl Proc {
    /// Starts `command`; its standard output and error are appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{name}: cannot start {:?}: {e} (is scripts/setup.sh done?)", command.get_program())
            });
        let pid_file = record(child.id());
        Self { name: name.to_owned(), child, log: log.to_owned(), pid_file, status: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The status it ended with, or `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for a child");
            if self.status.is_some() {
                self.forget();
            }
        }
        self.status
    }

    /// SIGKILL to the whole group, and the leader reaped: on return it is gone.
    pub fn kill_9(&mut self) {
        if self.exited().is_some() {
            return;
        }
        let _ = kill_process_group(self.raw_pid(), Signal::KILL);
        self.status = Some(self.child.wait().expect("wait for a killed child"));
        self.forget();
    }

    /// SIGTERM to the process itself, then up to `bound` for it to end. Panics if it does not.
    pub async fn terminate(&mut self, bound: Duration) -> ExitStatus {
        if self.exited().is_none() {
            self.signal(Signal::TERM);
        }
        self.wait(bound).await
    }

    /// Waits up to `bound` for it to end by itself. Panics, after killing it, if it does not.
    pub async fn wait(&mut self, bound: Duration) -> ExitStatus {
        let end = Instant::now() + bound;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            if Instant::now() >= end {
                let tail = self.tail();
                self.kill_9();
                panic!("{} did not end within {bound:?}; end of its log:\n{tail}", self.name);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGSTOP to the whole group: connections stay open and nothing answers.
    pub fn freeze(&mut self) {
        kill_process_group(self.raw_pid(), Signal::STOP).expect("freeze");
    }

    /// SIGCONT to the whole group.
    pub fn thaw(&mut self) {
        kill_process_group(self.raw_pid(), Signal::CONT).expect("thaw");
    }

    /// Any signal, to the process itself.
    pub fn signal(&mut self, signal: Signal) {
        kill_process(self.raw_pid(), signal).unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    /// Polls until `probe` gives a value; panics with the end of the log after `bound`, or at once when
    /// the process has ended.
    pub async fn ready<T, F, R>(&mut self, what: &str, bound: Duration, mut probe: F) -> T
    where
        F: FnMut() -> R,
        R: Future<Output = Option<T>>,
    {
        let end = Instant::now() + bound;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if let Ok(Some(value)) = tokio::time::timeout(left, probe()).await {
                return value;
            }
            let ended = self.exited();
            if ended.is_some() || Instant::now() >= end {
                let state = ended.map_or(format!("not within {bound:?}"), |s| format!("it ended: {s}"));
                panic!("{}: {what}: {state}; end of its log:\n{}", self.name, self.tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it has written.
    pub fn tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn forget(&mut self) {
        if let Some(file) = self.pid_file.take() {
            let _ = fs::remove_file(file);
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Leaves the pid where `scripts/with-cleanup.sh` finds it, should this test binary be killed. The start
/// time beside it keeps a recycled pid from being taken for ours.
fn record(pid: u32) -> Option<PathBuf> {
    let folder = super::given("RELAY_TEST_PIDS")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold spaces; the start time is field 22, and what
    // follows the parenthesis begins at field 3.
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?;
    let file = Path::new(&folder).join(pid.to_string());
    fs::write(&file, started).ok()?;
    Some(file)
}

/// Polls until `probe` gives a value; panics with `what` after `bound`.
pub async fn eventually<T, F, R>(what: &str, bound: Duration, mut probe: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let end = Instant::now() + bound;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if let Ok(Some(value)) = tokio::time::timeout(left, probe()).await {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {bound:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Whether something accepts connections there.
pub async fn accepts(address: &str) -> Option<()> {
    tokio::net::TcpStream::connect(address).await.ok().map(drop)
}

/// `N` ports on 127.0.0.1 that are free now and are given to nobody else in this process.
///
/// They come from below the range that the kernel takes for outgoing connections (which begins at
/// 32768): a broker that is started again on its own port must not find a client's socket there, as it
/// could with a port that `bind(0)` had picked.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 17_000;
    let mut guard = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let given = guard.get_or_insert_default();
    // Where the search begins differs from process to process, so that two of them rarely meet.
    let mut next = std::process::id().wrapping_mul(7_919) % COUNT + given.len() as u32;
    let mut tries = 0;
    [(); N].map(|()| {
        loop {
            assert!(tries < 2 * COUNT, "no free port");
            tries += 1;
            let port = (FIRST + next % COUNT) as u16;
            next += 1;
            if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                given.insert(port);
                return port;
            }
        }
    })
}

/// Runs a command to its end; panics with its output if it fails or takes longer than `bound`.
pub async fn run(what: &str, mut command: Command, bound: Duration) -> String {
    let folder = super::Folder::new("run");
    let log = folder.join("log");
    command.env("LC_ALL", "C.UTF-8");
    let mut child = Proc::spawn(what, command, &log);
    let status = child.wait(bound).await;
    let output = child.log();
    assert!(status.success(), "{what}: {status}\n{output}");
    output
}

/// A server's process behind a shared reference: tests that share a broker stop and freeze it too.
pub struct Slot {
    name: &'static str,
    proc: Mutex<Option<Proc>>,
}

impl Slot {
    /// A server that was there before this run: empty, and every method panics and says so.
    pub fn given(name: &'static str) -> Self {
        Self { name, proc: Mutex::new(None) }
    }

    pub fn new(name: &'static str, proc: Proc) -> Self {
        Self { name, proc: Mutex::new(Some(proc)) }
    }

    /// Takes the place of what was there.
    pub fn put(&self, proc: Proc) {
        *self.lock() = Some(proc);
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut Proc) -> T) -> T {
        let mut guard = self.lock();
        let Some(proc) = guard.as_mut() else {
            drop(guard);
            panic!(
                "{0}: this one was given by RELAY_TEST_{1} and is not ours to stop, freeze or start: \
                    a test that needs to must start one with `own: true`",
                self.name,
                self.name.to_uppercase()
            );
        };
        work(proc)
    }

    pub fn kill(&self) {
        self.with(Proc::kill_9);
    }

    pub fn freeze(&self) {
        self.with(Proc::freeze);
    }

    pub fn thaw(&self) {
        self.with(Proc::thaw);
    }

    /// SIGTERM, then up to `bound` for it to end.
    pub async fn stop(&self, bound: Duration) {
        self.with(|proc| {
            if proc.exited().is_none() {
                // A frozen process would only get the signal once it is thawed.
                proc.thaw();
                proc.signal(Signal::TERM);
            }
        });
        eventually(&format!("{} to stop", self.name), bound, async || self.with(Proc::exited)).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Proc>> {
        self.proc.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
