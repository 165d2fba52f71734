//! Standard output: one event a line, for pipes and for looking on.

use std::io::{self, Write};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Context, Fault, Message, Naming, Options, Settled, Sink};
use crate::event::compact;

const WINDOW: usize = 1024;

/// Options of the standard output sink: none. A line is the event without white space between its
/// tokens; it counts as delivered once it is written to the pipe.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutOptions {}

impl Options for StdoutOptions {
    fn problems(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn naming(&self) -> Naming {
        Naming::Plain
    }

    fn target(&self) -> String {
        "standard output".to_owned()
    }

    fn build(&self, _context: Context) -> Box<dyn Sink> {
        Box::new(StdoutSink { thread: None })
    }
}

struct StdoutSink {
    thread: Option<Thread>,
}

/// The thread that writes: a reader that is slow holds up nothing else, not even the relay's end.
struct Thread {
    jobs: mpsc::Sender<Vec<Bytes>>,
    /// How many messages each job was, once they are written.
    written: mpsc::Receiver<io::Result<usize>>,
}

impl Thread {
    fn start() -> io::Result<Self> {
        // Both hold one entry a batch at most, of the messages in flight.
        let (jobs, mut jobs_in) = mpsc::channel::<Vec<Bytes>>(WINDOW);
        let (written_out, written) = mpsc::channel(WINDOW);
        std::thread::Builder::new().name("stdout-sink".to_owned()).spawn(move || {
            while let Some(job) = jobs_in.blocking_recv() {
                let result = write(&job).map(|()| job.len());
                let failed = result.is_err();
                if written_out.blocking_send(result).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, written })
    }
}

fn fault(error: impl std::fmt::Display) -> Fault {
    Fault::disconnected(format!("standard output: {error}"))
}

#[async_trait]
impl Sink for StdoutSink {
    async fn connect(&mut self) -> Result<(), Fault> {
        if let Some(thread) = &mut self.thread {
            // Ends the old thread, and waits for it: while it is held up another one would be, too.
            thread.jobs = mpsc::channel(1).0;
            while thread.written.recv().await.is_some() {}
        }
        self.thread = Some(Thread::start().map_err(fault)?);
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let thread = self.thread.as_ref().ok_or_else(|| fault("not connected"))?;
        let bodies = batch.iter().map(|message| message.body.clone()).collect();
        // A thread that ended after a failure has left that failure behind: `settle` tells it.
        let _ = thread.jobs.send(bodies).await;
        Ok(())
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        let thread = self.thread.as_mut().ok_or_else(|| fault("not connected"))?;
        match thread.written.recv().await {
            Some(Ok(count)) => Ok(Settled { count, rejected: Vec::new() }),
            Some(Err(error)) => Err(fault(error)),
            None => Err(fault("the writing thread has ended")),
        }
    }

    async fn close(&mut self) {
        self.thread = None;
    }

    fn window(&self) -> usize {
        WINDOW
    }
}

/// One write for all, so that lines of other writers do not come in between.
fn write(bodies: &[Bytes]) -> io::Result<()> {
    let mut out = Vec::with_capacity(bodies.iter().map(|body| body.len() + 1).sum());
    for body in bodies {
        out.extend_from_slice(&compact(body));
        out.push(b'\n');
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(&out)?;
    stdout.flush()
}
