//! Files of JSON Lines: one file per topic below one folder, one event a line.
//!
//! A thread of its own writes ([`writer`]), since file systems block. Whatever was queued by the time
//! it comes round is written and made durable together, so the slower the disk the larger the group.
//! What each error means stands in `docs/failures/file.md`.

mod lines;
mod shared;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use super::{Context, Fault, Message, Naming, Options, Settled, Sink};
use crate::config::{Size, Time};
use writer::Writer;

/// Enough that one `fdatasync` serves many events, and little memory: events are about 1 KiB.
const WINDOW: usize = 4096;

/// Options of the file sink.
///
/// The sink's `topic` is the file's path below `path`: `registry.{action}.jsonl` by default, so each
/// action has a file. A line is the event without white space between its tokens; it counts as
/// delivered once it is on disk (`fdatasync`).
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileOptions {
    /// The folder; made if it is not there.
    pub path: PathBuf,
    /// When a file is set aside under a name with the time at its end, and a new one begun.
    #[serde(default)]
    pub rotate: Rotate,
    /// How many files are open at once; beyond that the one that waited longest is closed.
    #[serde(default = "default_open_max")]
    pub open_max: usize,
}

/// When to begin a new file. Without any of it, files grow for ever.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// Before a line would make the file larger than this.
    pub size: Option<Size>,
    /// At the first line after the file has become this old.
    pub age: Option<Time>,
    /// How many files set aside are kept of each; older ones are deleted. Without it, all.
    pub keep: Option<usize>,
}

fn default_open_max() -> usize {
    64
}

impl Rotate {
    /// Whether a file of `len` bytes and of that age is to be set aside before `more` bytes are
    /// added. An empty one never is.
    fn is_due(&self, len: u64, more: u64, age: Duration) -> bool {
        let too_large = self.size.is_some_and(|size| len + more > size.0);
        let too_old = self.age.is_some_and(|limit| age >= limit.duration);
        len > 0 && (too_large || too_old)
    }
}

impl Options for FileOptions {
    fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut add = |key: &str, text: &str| found.push((key.to_owned(), text.to_owned()));
        if self.path.as_os_str().is_empty() {
            add("path", "name a folder");
        }
        if self.open_max == 0 {
            add("open_max", "must be at least 1");
        }
        if self.rotate.size.is_some_and(|size| size.0 == 0) {
            add("rotate.size", "must be more than 0; leave it out to let files grow");
        }
        if self.rotate.age.is_some_and(|age| age.duration.is_zero()) {
            add("rotate.age", "must be more than 0; leave it out to let files grow");
        }
        if self.rotate.keep.is_some() && self.rotate.size.is_none() && self.rotate.age.is_none() {
            add("rotate.keep", "has no effect without rotate.size or rotate.age");
        }
        found
    }

    fn default_topic(&self) -> &'static str {
        "registry.{action}.jsonl"
    }

    fn naming(&self) -> Naming {
        Naming::Path
    }

    fn target(&self) -> String {
        self.path.display().to_string()
    }

    fn build(&self, context: Context) -> Box<dyn Sink> {
        Box::new(FileSink { name: context.name, options: self.clone(), writer: None })
    }
}

struct FileSink {
    name: String,
    options: FileOptions,
    /// `None` before `connect` and after a fault.
    writer: Option<Writer>,
}

impl FileSink {
    fn writer(&mut self) -> Result<&mut Writer, Fault> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            // After `Busy` (a full disk) the worker goes on without a new `connect`.
            none => Ok(none.insert(Writer::start(&self.name, &self.options)?)),
        }
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn connect(&mut self) -> Result<(), Fault> {
        // One thread at a time: should the old one hang in a file system, this waits with it.
        self.close().await;
        let writer = self.writer()?;
        let ready = writer.ready().await;
        ready.inspect_err(|_| self.writer = None)
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let sent = self.writer()?.send(batch).await;
        sent.inspect_err(|_| self.writer = None)
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        let settled = self.writer()?.settle().await;
        settled.inspect_err(|_| self.writer = None)
    }

    async fn close(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.end().await;
        }
        self.writer = None;
    }

    fn window(&self) -> usize {
        WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_is_due() {
        let rotate = |yaml: &str| serde_yaml::from_str::<Rotate>(yaml).expect(yaml);
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        for (yaml, len, more, age, expected) in [
            ("{}", u64::MAX / 2, 1, hours(1000), false),
            ("{size: 100}", 90, 10, hours(0), false),
            ("{size: 100}", 90, 11, hours(0), true),
            ("{size: 100}", 0, 500, hours(0), false),
            ("{age: 1h}", 1, 1, hours(0), false),
            ("{age: 1h}", 1, 1, hours(1), true),
            ("{age: 1h}", 0, 1, hours(1), false),
            ("{size: 100, age: 1h}", 1, 1, hours(1), true),
        ] {
            assert_eq!(rotate(yaml).is_due(len, more, age), expected, "{yaml} {len} {more} {age:?}");
        }
    }

    #[test]
    fn finds_what_types_cannot() {
        for (yaml, keys) in [
            ("{path: out}", &[][..]),
            ("{path: out, rotate: {size: 1MiB, age: 1d, keep: 3}}", &[]),
            ("{path: ''}", &["path"]),
            ("{path: out, open_max: 0}", &["open_max"]),
            ("{path: out, rotate: {size: 0}}", &["rotate.size"]),
            ("{path: out, rotate: {keep: 3}}", &["rotate.keep"]),
        ] {
            let options: FileOptions = serde_yaml::from_str(yaml).expect(yaml);
            let problems = options.problems();
            let found: Vec<_> = problems.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(found, keys, "{yaml}");
        }
    }
}
