//! Which replays there are, and how each stands.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Counter, RUNNING_MAX, ReplayRefused, Tally};
use crate::delivery::status::{BreakerState, LastError, SinkStatus};
use crate::delivery::worker::Stop;
use crate::journal::Micros;
use crate::journal::local::now;

/// Replays that ended and are still told of.
const ENDED_MAX: usize = 32;

/// What is delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayKind {
    Journal,
    DeadLetters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayState {
    Running,
    /// It has come to its end.
    Done,
    /// It was told to end.
    Cancelled,
    /// The relay stopped, or the replay broke off; the log says more.
    Stopped,
}

/// A replay at one moment: the JSON of `/api/v1/replays`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplaySnapshot {
    pub id: u64,
    pub sink: String,
    pub kind: ReplayKind,
    pub state: ReplayState,
    /// From the first place up to the second, without it: offsets, or ids of dead letters.
    pub from: u64,
    pub to: u64,
    /// Everything below is done with.
    pub position: u64,
    /// Messages confirmed by the destination.
    pub delivered: u64,
    pub retried: u64,
    /// Messages that it will not take (again, of dead letters).
    pub dead_lettered: u64,
    /// Of the journal: offsets that are no longer there.
    pub lost: u64,
    /// Of dead letters: how many were delivered and so are gone, and how many stay because the
    /// routes of today send them to this sink no more.
    pub removed: u64,
    pub unrouted: u64,
    pub started: Micros,
    pub ended: Option<Micros>,
    pub connected: bool,
    pub breaker: BreakerState,
    pub last_error: Option<LastError>,
}

/// One replay.
pub struct Replay {
    id: u64,
    sink: String,
    kind: ReplayKind,
    range: std::ops::Range<u64>,
    started: Micros,
    pub status: Arc<SinkStatus>,
    pub lost: Counter,
    pub tally: Arc<Tally>,
    stop: watch::Sender<Stop>,
    end: Mutex<End>,
}

#[derive(Default)]
struct End {
    cancelled: bool,
    ended: Option<(ReplayState, Micros)>,
}

impl Replay {
    pub fn new(
        id: u64,
        sink: String,
        kind: ReplayKind,
        range: std::ops::Range<u64>,
        status: Arc<SinkStatus>,
        stop: watch::Sender<Stop>,
    ) -> Self {
        Self {
            id,
            sink,
            kind,
            range,
            started: now(),
            status,
            lost: Counter::default(),
            tally: Arc::default(),
            stop,
            end: Mutex::default(),
        }
    }

    /// Has the worker end by `deadline`.
    pub fn cancel(&self, deadline: Instant) {
        self.lock().cancelled = true;
        self.stop.send_replace(Stop::Drain(deadline));
    }

    /// Notes the end, and whether it came to it by itself.
    pub fn end(&self, done: bool, at: Micros) -> ReplaySnapshot {
        {
            let mut end = self.lock();
            let state = match (done, end.cancelled) {
                (true, _) => ReplayState::Done,
                (false, true) => ReplayState::Cancelled,
                (false, false) => ReplayState::Stopped,
            };
            end.ended = Some((state, at));
        }
        self.snapshot()
    }

    fn is_running(&self) -> bool {
        self.lock().ended.is_none()
    }

    pub fn snapshot(&self) -> ReplaySnapshot {
        let sink = self.status.snapshot(now(), 0);
        let ended = self.lock().ended;
        ReplaySnapshot {
            id: self.id,
            sink: self.sink.clone(),
            kind: self.kind,
            state: ended.map_or(ReplayState::Running, |(state, _)| state),
            from: self.range.start,
            to: self.range.end,
            position: sink.position,
            delivered: sink.delivered,
            retried: sink.retried,
            dead_lettered: sink.dead_lettered,
            lost: self.lost.load(Relaxed),
            removed: self.tally.removed.load(Relaxed),
            unrouted: self.tally.unrouted.load(Relaxed),
            started: self.started,
            ended: ended.map(|(_, at)| at),
            connected: sink.connected,
            breaker: sink.breaker,
            last_error: sink.last_error,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that are told of, the oldest first.
#[derive(Default)]
pub struct List {
    replays: VecDeque<(Arc<Replay>, JoinHandle<()>)>,
    last_id: u64,
    stopping: bool,
}

impl List {
    /// Whether another one may begin.
    pub fn may_start(&self, sink: &str, kind: ReplayKind) -> Result<(), ReplayRefused> {
        if self.stopping {
            return Err(ReplayRefused::Stopping);
        }
        let running = || self.replays.iter().map(|(replay, _)| replay).filter(|replay| replay.is_running());
        if running().count() >= RUNNING_MAX {
            return Err(ReplayRefused::TooMany);
        }
        let same = |replay: &&Arc<Replay>| replay.kind == kind && replay.sink == sink;
        match running().find(same) {
            Some(replay) if kind == ReplayKind::DeadLetters => Err(ReplayRefused::Busy { replay: replay.id }),
            _ => Ok(()),
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adds one, and forgets the oldest that ended, should there be too many.
    pub fn add(&mut self, replay: Arc<Replay>, task: JoinHandle<()>) {
        self.replays.push_back((replay, task));
        let ended = self.replays.iter().filter(|(replay, _)| !replay.is_running()).count();
        for _ in ENDED_MAX..ended {
            let oldest = self.replays.iter().position(|(replay, _)| !replay.is_running());
            oldest.and_then(|oldest| self.replays.remove(oldest));
        }
    }

    pub fn find(&self, id: u64) -> Option<&Arc<Replay>> {
        self.replays.iter().map(|(replay, _)| replay).find(|replay| replay.id == id)
    }

    pub fn snapshots(&self) -> Vec<ReplaySnapshot> {
        self.replays.iter().rev().map(|(replay, _)| replay.snapshot()).collect()
    }

    /// Tells all to end; answers what is to be waited for.
    pub fn stop(&mut self, deadline: Instant) -> Vec<JoinHandle<()>> {
        self.stopping = true;
        for (replay, _) in &self.replays {
            replay.stop.send_replace(Stop::Drain(deadline));
        }
        self.replays.drain(..).map(|(_, task)| task).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(id: u64, kind: ReplayKind) -> Arc<Replay> {
        let status = Arc::new(SinkStatus::new("bus".into(), "test", String::new(), false));
        Arc::new(Replay::new(id, "bus".into(), kind, 1..10, status, watch::Sender::new(Stop::No)))
    }

    fn start(list: &mut List, kind: ReplayKind) -> Arc<Replay> {
        list.may_start("bus", kind).expect("room");
        let replay = replay(list.next_id(), kind);
        list.add(replay.clone(), tokio::spawn(async {}));
        replay
    }

    #[tokio::test]
    async fn so_many_run_at_a_time_and_of_dead_letters_one_a_sink() {
        let mut list = List::default();
        let letters = start(&mut list, ReplayKind::DeadLetters);
        let busy = list.may_start("bus", ReplayKind::DeadLetters);
        assert_eq!(busy, Err(ReplayRefused::Busy { replay: letters.id }));
        assert_eq!(list.may_start("other", ReplayKind::DeadLetters), Ok(()));
        for _ in 1..RUNNING_MAX {
            start(&mut list, ReplayKind::Journal);
        }
        assert_eq!(list.may_start("bus", ReplayKind::Journal), Err(ReplayRefused::TooMany));
        letters.end(true, 5);
        assert_eq!(list.may_start("bus", ReplayKind::DeadLetters), Ok(()));
        assert_eq!(list.stop(Instant::now()).len(), RUNNING_MAX);
        assert_eq!(list.may_start("bus", ReplayKind::Journal), Err(ReplayRefused::Stopping));
    }

    #[tokio::test]
    async fn forgets_the_oldest_that_ended_and_none_that_runs() {
        let mut list = List::default();
        let running = start(&mut list, ReplayKind::Journal);
        for _ in 0..ENDED_MAX + 5 {
            start(&mut list, ReplayKind::Journal).end(true, 5);
        }
        let ids: Vec<_> = list.snapshots().iter().map(|replay| replay.id).collect();
        assert_eq!(ids.len(), ENDED_MAX + 2, "the last one had not ended when it was added");
        assert_eq!((ids.last(), list.find(2).is_some()), (Some(&running.id), false));
    }

    #[test]
    fn how_it_ended_says_why() {
        for (done, cancelled, state) in [
            (true, false, ReplayState::Done),
            (true, true, ReplayState::Done),
            (false, true, ReplayState::Cancelled),
            (false, false, ReplayState::Stopped),
        ] {
            let replay = replay(1, ReplayKind::Journal);
            assert_eq!(replay.snapshot().state, ReplayState::Running);
            if cancelled {
                replay.cancel(Instant::now());
            }
            let ended = replay.end(done, 7);
            assert_eq!((ended.state, ended.ended), (state, Some(7)));
        }
    }
}
