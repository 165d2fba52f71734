//! The thread that writes: takes what is queued, appends it, and makes it durable together.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::lines::OpenError;
use super::shared::{self, SharedLines, lock};
use super::{FileOptions, WINDOW};
use crate::event::compact;
use crate::sinks::{Fault, Message, Rejection, Settled};

/// One line to write: the file's path below the folder, and the JSON.
type Line = (String, Bytes);

/// The thread, as the sink sees it. It ends when this is dropped, or after a fault.
pub struct Writer {
    jobs: mpsc::Sender<Vec<Line>>,
    reports: mpsc::Receiver<Result<Settled, Fault>>,
    ready: oneshot::Receiver<()>,
    ended: oneshot::Receiver<()>,
    /// Set when nobody wants what is still queued.
    over: Arc<AtomicBool>,
}

impl Writer {
    /// `sink` is the sink's name: what its instances share files by.
    pub fn start(sink: &str, options: &FileOptions) -> Result<Self, Fault> {
        // Both hold one entry a batch at most, of the messages in flight.
        let (jobs, jobs_in) = mpsc::channel(WINDOW);
        let (reports_out, reports) = mpsc::channel(WINDOW);
        let (ready_out, ready) = oneshot::channel();
        let (ended_out, ended) = oneshot::channel();
        let over = Arc::new(AtomicBool::new(false));
        let (sink, options) = (sink.to_owned(), options.clone());
        let files = Files { sink, options, open: HashMap::new(), round: 0 };
        let is_over = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("file-sink".to_owned());
        let started = thread.spawn(move || {
            run(files, ready_out, jobs_in, &reports_out, &is_over);
            let _ = ended_out.send(());
        });
        started.map_err(|error| Fault::busy(format!("cannot start a thread: {error}")))?;
        Ok(Self { jobs, reports, ready, ended, over })
    }

    /// Waits until the folder was found to be there and writable. Called once.
    pub async fn ready(&mut self) -> Result<(), Fault> {
        match (&mut self.ready).await {
            Ok(()) => Ok(()),
            // It ended, and left the reason.
            Err(_) => self.settle().await.map(drop),
        }
    }

    pub async fn send(&self, batch: &[Message]) -> Result<(), Fault> {
        let lines = batch.iter().map(|message| (message.topic.clone(), message.body.clone())).collect();
        // A thread that ended after a fault has left that fault behind: `settle` tells it.
        let _ = self.jobs.send(lines).await;
        Ok(())
    }

    pub async fn settle(&mut self) -> Result<Settled, Fault> {
        let ended = || Err(Fault::disconnected("the writing thread has ended"));
        self.reports.recv().await.unwrap_or_else(ended)
    }

    /// Ends the thread, and waits until its files are free. What is queued is not written: it was
    /// not confirmed, so it comes again. Called again after it was dropped, it waits on.
    pub async fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes it if it waits for something to do.
        let _ = self.jobs.try_send(Vec::new());
        let _ = (&mut self.ended).await;
    }
}

/// Makes the folder, and sees whether a file can be made in it.
fn prepare(folder: &Path) -> Result<(), Fault> {
    let probe = folder.join(format!(".relay-{}", std::process::id()));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&probe, ""))
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|error| fault(folder, &error))
}

fn run(
    files: Files,
    ready: oneshot::Sender<()>,
    jobs: mpsc::Receiver<Vec<Line>>,
    reports: &mpsc::Sender<Result<Settled, Fault>>,
    over: &AtomicBool,
) {
    let prepared = prepare(&files.options.path);
    let done = prepared.and_then(|()| {
        let _ = ready.send(());
        // The files are closed within, so that whoever learns of a fault finds no lock of ours.
        files.serve(jobs, reports, over)
    });
    if let Err(fault) = done {
        let _ = reports.blocking_send(Err(fault));
    }
}

/// What a line met.
enum Trouble {
    /// The line can never be written.
    Rejected(Rejection),
    Fault(Fault),
}

/// The open files.
struct Files {
    sink: String,
    options: FileOptions,
    open: HashMap<String, OpenFile>,
    /// Counts the rounds: which file was used when.
    round: u64,
}

struct OpenFile {
    lines: SharedLines,
    /// The round that it was last used in.
    used: u64,
    /// What [`Lines::failures`] was when that round began to use it.
    failures: u64,
}

impl OpenFile {
    /// Makes durable what round `round` added.
    fn sync(&self, round: u64) -> io::Result<()> {
        let mut lines = lock(&self.lines);
        if self.used == round && lines.failures() != self.failures {
            return Err(io::Error::other(
                "what was added is gone with what another instance failed to write",
            ));
        }
        lines.sync()
    }
}

impl Files {
    /// Round after round, until nobody asks for more.
    fn serve(
        mut self,
        mut jobs: mpsc::Receiver<Vec<Line>>,
        reports: &mpsc::Sender<Result<Settled, Fault>>,
        over: &AtomicBool,
    ) -> Result<(), Fault> {
        // Asked on both sides of the wait: the job that wakes us may have gone into a round.
        while !over.load(Ordering::Relaxed)
            && let Some(job) = jobs.blocking_recv()
            && !over.load(Ordering::Relaxed)
        {
            let settled = self.round(job, &mut jobs)?;
            if reports.blocking_send(Ok(settled)).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Writes `job` and whatever else is queued, and makes it durable.
    fn round(&mut self, job: Vec<Line>, jobs: &mut mpsc::Receiver<Vec<Line>>) -> Result<Settled, Fault> {
        self.round += 1;
        let mut settled = Settled::default();
        let mut next = Some(job);
        while let Some(job) = next {
            for (topic, json) in job {
                match self.append(&topic, &compact(&json)) {
                    Ok(()) => {}
                    Err(Trouble::Rejected(rejection)) => settled.rejected.push((settled.count, rejection)),
                    Err(Trouble::Fault(fault)) => return Err(fault),
                }
                settled.count += 1;
            }
            next = jobs.try_recv().ok();
        }
        self.sync()?;
        Ok(settled)
    }

    /// Makes durable what this round added.
    fn sync(&self) -> Result<(), Fault> {
        let used = self.open.iter().filter(|(_, file)| file.used == self.round);
        for (topic, file) in used {
            file.sync(self.round).map_err(|error| fault(&self.options.path.join(topic), &error))?;
        }
        Ok(())
    }

    fn append(&mut self, topic: &str, line: &[u8]) -> Result<(), Trouble> {
        let path = self.path(topic)?;
        let failed = |error| Trouble::Fault(fault(&path, &error));
        let (topic, mut file) = match self.open.remove_entry(topic) {
            Some(entry) => entry,
            None => {
                self.make_room().map_err(failed)?;
                let lines = shared::open(&self.sink, &path).map_err(|error| unopened(&path, error))?;
                (topic.to_owned(), OpenFile { lines, used: 0, failures: 0 })
            }
        };
        {
            let mut lines = lock(&file.lines);
            // Looked at once a round: a moved file is noticed soon, and cheaply.
            if file.used != self.round {
                if !lines.is_in_place().map_err(failed)? {
                    lines.sync().map_err(failed)?;
                    lines.reopen().map_err(|error| unopened(&path, error))?;
                }
                (file.used, file.failures) = (self.round, lines.failures());
            }
            let now = SystemTime::now();
            if lines.is_due(&self.options.rotate, line.len(), now) {
                lines.set_aside(self.options.rotate.keep, now).map_err(failed)?;
                lines.reopen().map_err(|error| unopened(&path, error))?;
            }
            lines.push(line).map_err(failed)?;
        }
        self.open.insert(topic, file);
        Ok(())
    }

    /// Closes the file that waited longest, when as many are open as may be.
    fn make_room(&mut self) -> io::Result<()> {
        if self.open.len() < self.options.open_max {
            return Ok(());
        }
        let oldest = self.open.iter().min_by_key(|(_, file)| file.used).map(|(topic, _)| topic.clone());
        match oldest.and_then(|topic| self.open.remove(&topic)) {
            Some(file) => file.sync(self.round),
            None => Ok(()),
        }
    }

    /// The path of a topic's file: always below the folder.
    fn path(&self, topic: &str) -> Result<PathBuf, Trouble> {
        let below = Path::new(topic);
        if topic.is_empty() || !below.components().all(|part| matches!(part, Component::Normal(_))) {
            // A template's own text, since what an event brings is made fit: the operator's mistake.
            return Err(Trouble::Fault(Fault::refused(format!("`{topic}` is not a path below the folder"))));
        }
        Ok(self.options.path.join(below))
    }
}

fn unopened(path: &Path, error: OpenError) -> Trouble {
    let error = match error {
        OpenError::Io(error) => error,
        OpenError::Locked => {
            let text = format!("{}: another sink or another relay writes to it", path.display());
            return Trouble::Fault(Fault::refused(text));
        }
    };
    match error.kind() {
        // A name that the file system does not take, or a file where a folder would have to be.
        ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::AlreadyExists => {
            Trouble::Rejected(Rejection { code: "bad_path", text: format!("{}: {error}", path.display()) })
        }
        _ => Trouble::Fault(fault(path, &error)),
    }
}

fn fault(path: &Path, error: &io::Error) -> Fault {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Fault::busy(text),
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists => Fault::refused(text),
        _ => Fault::disconnected(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Files {
        let yaml = format!("{{path: '{}'}}", folder.display());
        let options = serde_yaml::from_str(&yaml).expect("options");
        Files { sink: "archive".to_owned(), options, open: HashMap::new(), round: 1 }
    }

    /// A replay adds to the file of the live flow. When one cannot make durable what both have added, the
    /// other must not take its own for delivered.
    #[test]
    fn a_failure_is_everybodys_who_added_to_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = || std::fs::read_to_string(folder.path().join("a")).expect("the file");
        let (mut live, mut replay) = (files(folder.path()), files(folder.path()));
        let append = |files: &mut Files, line: &str| {
            assert!(files.append("a", line.as_bytes()).is_ok());
        };
        append(&mut live, "1");
        live.sync().expect("durable");
        live.round += 1;
        append(&mut live, "2");
        append(&mut replay, "3");
        lock(&replay.open["a"].lines).fail_next_sync();
        assert!(replay.sync().is_err());
        assert_eq!(text(), "1\n");
        assert!(live.sync().is_err(), "line 2 is not there");
        // The next round begins with a file that is good.
        live.round += 1;
        append(&mut live, "2");
        live.sync().expect("durable");
        assert_eq!(text(), "1\n2\n");
    }
}
