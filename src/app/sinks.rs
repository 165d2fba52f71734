//! Makes what runs of the configured sinks.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::StartError;
use crate::config::{Config, SinkConfig};
use crate::delivery::{
    Backlog, Copies, DeadLetterError, DeadLetters, Feed, FeedReader, Gaps, Live, SinkStatus, Stop,
    Surroundings, Worker,
};
use crate::journal::Journal;
use crate::route::Target;
use crate::sinks::format::Renderer;
use crate::telemetry::Metrics;

/// A sink that is ready to run.
pub struct Prepared {
    /// Its place in the configuration.
    pub index: usize,
    pub status: Arc<SinkStatus>,
    pub letters: Arc<DeadLetters>,
    pub gaps: Arc<Gaps>,
    /// None for a disabled one; else its own, and perhaps one that copies its dead letters.
    workers: Vec<(String, Worker)>,
}

impl Prepared {
    pub fn spawn(self) -> Vec<(String, JoinHandle<()>)> {
        let spawn = |worker: Worker| {
            tokio::spawn(async move {
                worker.run().await;
            })
        };
        self.workers.into_iter().map(|(name, worker)| (name, spawn(worker))).collect()
    }
}

/// What a part of each sink is, by the sinks' indexes in the configuration.
pub fn by_index<T>(config: &Config, sinks: &[Prepared], part: impl Fn(&Prepared) -> T) -> Vec<Option<T>> {
    let of = |index| sinks.iter().find(|sink| sink.index == index).map(&part);
    (0..config.sinks.len()).map(of).collect()
}

/// What sinks are made with.
pub struct Parts<'a> {
    pub config: &'a Arc<Config>,
    pub feed: &'a Arc<Feed>,
    pub journal: &'a Arc<dyn Journal>,
    pub metrics: &'a Arc<Metrics>,
    pub stop: &'a watch::Receiver<Stop>,
}

impl Parts<'_> {
    /// Makes the workers, each at its cursor. A sink that is new begins at the head: older events
    /// come by `relay replay`.
    pub fn prepare(&self) -> Result<Vec<Prepared>, StartError> {
        let enabled = self.config.sinks.iter().filter(|sink| !sink.disabled);
        let names: Vec<_> = enabled.map(|sink| sink.name.clone()).collect();
        self.journal.retain_cursors(&names);
        let mut all = Vec::new();
        for (index, sink) in self.config.sinks.iter().enumerate() {
            let Some(options) = sink.options.options() else { continue };
            let letters = self.letters(sink)?;
            let gaps = self.gaps(sink)?;
            let target = options.target();
            let status = SinkStatus::new(sink.name.clone(), sink.options.key(), target, sink.disabled);
            let status = Arc::new(status.with_letters(letters.clone()));
            all.push(Prepared { index, status, letters, gaps, workers: Vec::new() });
        }
        for at in 0..all.len() {
            let workers = self.workers(&all, at)?;
            all[at].workers = workers;
        }
        Ok(all)
    }

    fn workers(&self, all: &[Prepared], at: usize) -> Result<Vec<(String, Worker)>, StartError> {
        let prepared = &all[at];
        let sink = &self.config.sinks[prepared.index];
        if sink.disabled {
            return Ok(Vec::new());
        }
        let mut workers = vec![(sink.name.clone(), self.live(sink, prepared))];
        let also_to = sink.dead_letters.also_to;
        let to = also_to.and_then(|to| all.iter().find(|other| other.index == to));
        if let Some(to) = to.filter(|to| !self.config.sinks[to.index].disabled) {
            let copies = self.copies(sink, prepared, to);
            let copies =
                copies.map_err(|error| StartError::DeadLetters { sink: sink.name.clone(), error })?;
            workers.push(copies);
        }
        Ok(workers)
    }

    fn live(&self, sink: &SinkConfig, prepared: &Prepared) -> Worker {
        let journal = self.journal;
        let at = journal.cursor(&sink.name).unwrap_or_else(|| journal.head());
        journal.save_cursor(&sink.name, at);
        let reader = FeedReader::new(self.feed.clone(), prepared.index, at);
        let renderer = Renderer::new(sink, journal.identity());
        let live = Live::new(sink.name.clone(), reader, renderer, journal.clone());
        let surroundings = self.surroundings(&prepared.letters, prepared.status.clone());
        let worker = Worker::new(sink, self.build(prepared.index), Box::new(live), surroundings);
        match sink.backlog_max {
            Some(max) => worker.with_backlog(Backlog::new(max, journal.clone(), prepared.gaps.clone())),
            None => worker,
        }
    }

    /// A worker that brings the dead letters of one sink to another one, where it behaves as the
    /// other one's own.
    fn copies(
        &self,
        from: &SinkConfig,
        prepared: &Prepared,
        to: &Prepared,
    ) -> Result<(String, Worker), DeadLetterError> {
        let sink = &self.config.sinks[to.index];
        let target = Target {
            route: 0, // of none; nothing asks
            sink: to.index,
            topic: sink.topic.clone(),
            key: sink.key.clone(),
            naming: sink.options.naming(),
        };
        let renderer = Renderer::new(sink, self.journal.identity());
        let letters = prepared.letters.clone();
        let copies = Copies::open(from.name.clone(), sink.name.clone(), letters, target, renderer)?;
        let name = format!("{} (dead letters of {})", sink.name, from.name);
        let status = SinkStatus::new(name.clone(), sink.options.key(), to.status.target.clone(), false);
        let surroundings = self.surroundings(&to.letters, Arc::new(status));
        Ok((name, Worker::new(sink, self.build(to.index), Box::new(copies), surroundings)))
    }

    fn build(&self, index: usize) -> Box<dyn crate::sinks::Sink> {
        let options = self.config.sinks[index].options.options();
        options.expect("only the stream has none, and it has no worker").build(self.config.context(index))
    }

    fn surroundings(&self, letters: &Arc<DeadLetters>, status: Arc<SinkStatus>) -> Surroundings {
        let (metrics, stop) = (self.metrics.clone(), self.stop.clone());
        Surroundings { letters: letters.clone(), status, metrics, stop }
    }

    fn letters(&self, sink: &SinkConfig) -> Result<Arc<DeadLetters>, StartError> {
        let folder = self.config.journal.path.join("dead-letters").join(&sink.name);
        let letters = DeadLetters::open(&folder, sink.dead_letters.bytes_max)
            .map_err(|error| StartError::DeadLetters { sink: sink.name.clone(), error })?;
        Ok(Arc::new(letters))
    }

    fn gaps(&self, sink: &SinkConfig) -> Result<Arc<Gaps>, StartError> {
        let path = self.config.journal.path.join("gaps").join(format!("{}.jsonl", sink.name));
        let gaps = Gaps::open(path).map_err(|error| StartError::Gaps { sink: sink.name.clone(), error })?;
        Ok(Arc::new(gaps))
    }
}
