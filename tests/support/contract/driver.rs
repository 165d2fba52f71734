//! The worker's part in the contract's scenarios.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use relay::sinks::{Fault, FaultKind, Message, Rejection, Settled, Sink};
use tokio::sync::watch;

use super::BOUND;

/// What a worker gives each call; a frozen broker is noticed by it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many messages go into one `send`.
const BATCH: usize = 50;

/// What a [`Driver`] saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Every message that was settled, in order, confirmed or rejected.
    pub settled: Vec<Message>,
    pub rejected: Vec<(Message, Rejection)>,
    pub faults: Vec<Fault>,
}

/// The worker's part: what is not settled waits in `todo`; its first `in_flight` are at the sink.
pub struct Driver {
    pub sink: Box<dyn Sink>,
    pub outcome: Outcome,
    todo: VecDeque<Message>,
    in_flight: usize,
    connected: bool,
    call_timeout: Duration,
    fault_count: watch::Sender<usize>,
}

impl Driver {
    pub fn new(sink: Box<dyn Sink>, messages: Vec<Message>) -> Self {
        Self {
            sink,
            outcome: Outcome::default(),
            todo: messages.into(),
            in_flight: 0,
            connected: false,
            call_timeout: CALL_TIMEOUT,
            fault_count: watch::Sender::new(0),
        }
    }

    /// With another time limit on each call, so that a frozen destination is noticed sooner.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Counts the faults, as they come.
    pub fn faults(&self) -> watch::Receiver<usize> {
        self.fault_count.subscribe()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What is not settled, in order.
    pub fn unsettled(&self) -> Vec<Message> {
        self.todo.iter().cloned().collect()
    }

    /// Delivers everything, through whatever faults. Panics when that takes longer than [`BOUND`].
    pub async fn finish(&mut self) {
        let end = Instant::now() + BOUND;
        while !self.todo.is_empty() {
            assert!(
                Instant::now() < end,
                "{} messages unsettled after {BOUND:?}; {} faults, at last: {:?}",
                self.todo.len(),
                self.outcome.faults.len(),
                self.outcome.faults.last()
            );
            if let Err(fault) = self.step().await {
                self.faulted(fault).await;
            }
        }
    }

    /// Connects if need be, fills the window, and settles once.
    pub async fn step(&mut self) -> Result<(), Fault> {
        if !self.connected {
            self.connect().await?;
        }
        self.fill().await?;
        self.settle().await
    }

    pub async fn connect(&mut self) -> Result<(), Fault> {
        limit(self.call_timeout, self.sink.connect()).await?;
        self.connected = true;
        Ok(())
    }

    /// Sends as much as the window allows.
    pub async fn fill(&mut self) -> Result<(), Fault> {
        while self.send_batch().await? > 0 {}
        Ok(())
    }

    /// Sends one batch, as far as the window allows, and answers how many messages that was.
    pub async fn send_batch(&mut self) -> Result<usize, Fault> {
        self.send(BATCH).await
    }

    /// The same of a batch of at most so many messages.
    pub async fn send(&mut self, most: usize) -> Result<usize, Fault> {
        let room = self.sink.window() - self.in_flight;
        let count = room.min(self.todo.len() - self.in_flight).min(most);
        if count > 0 {
            let batch = &self.todo.make_contiguous()[self.in_flight..self.in_flight + count];
            limit(self.call_timeout, self.sink.send(batch)).await?;
            self.in_flight += count;
        }
        Ok(count)
    }

    /// Settles once: at least one message is settled unless there is a fault.
    pub async fn settle(&mut self) -> Result<(), Fault> {
        let settled = limit(self.call_timeout, self.sink.settle()).await?;
        assert!(settled.count > 0, "settle returned without a settled message");
        self.note(settled);
        Ok(())
    }

    /// Takes what the sink says is settled off the queue.
    pub fn note(&mut self, settled: Settled) {
        assert!(settled.count <= self.in_flight, "more settled than in flight");
        let places: Vec<usize> = settled.rejected.iter().map(|(place, _)| *place).collect();
        assert!(places.is_sorted() && places.iter().all(|&place| place < settled.count), "{places:?}");
        for (place, rejection) in settled.rejected {
            self.outcome.rejected.push((self.todo[place].clone(), rejection));
        }
        self.outcome.settled.extend(self.todo.drain(..settled.count));
        self.in_flight -= settled.count;
    }

    /// What a worker does about a fault, its breaker apart: it rests for a moment, so that a dead
    /// destination is not asked in a tight loop, and goes on.
    pub async fn faulted(&mut self, fault: Fault) {
        self.in_flight = 0;
        if !matches!(fault.kind, FaultKind::Busy { .. }) {
            self.connected = false;
        }
        self.outcome.faults.push(fault);
        self.fault_count.send_modify(|count| *count += 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn limit<T>(bound: Duration, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(bound, call).await {
        Ok(result) => result,
        Err(_) => Err(Fault::disconnected(format!("no answer within {bound:?}"))),
    }
}
