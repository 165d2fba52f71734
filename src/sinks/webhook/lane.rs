//! The lanes' tasks. Each owns a connection, and makes its requests one after the other, without
//! waiting for anybody in between: the sink hands it what it has, and hears of the answers later.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use hyper::Response;
use hyper::body::{Body as _, Incoming};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};

use super::answer::{Verdict, verdict};
use super::connection::Connection;
use super::lanes::{Job, Ticket};
use super::target::Target;
use crate::sinks::Fault;

/// A connection that rested for longer is not used again: what is between here and there may have
/// forgotten it without a word.
const REST_MAX: Duration = Duration::from_secs(90);
/// A connection that rested for so long may be about to be closed by the endpoint, and a request may
/// cross that. It is made once more then, on a new connection.
const REST_DOUBTFUL: Duration = Duration::from_secs(1);

/// What became of a job.
pub type Done = (Ticket, Verdict);

/// The tasks of all lanes, until one fails. They end with the value, and with them their requests.
pub struct Crew {
    shared: Arc<Shared>,
    jobs: Vec<mpsc::Sender<Job>>,
    pub done: mpsc::Receiver<Done>,
    _tasks: JoinSet<()>,
}

/// What a crew is told.
pub struct Orders {
    pub target: Arc<Target>,
    /// The statuses that mean "never".
    pub reject: Vec<u16>,
    /// For a request, to the end of its answer.
    pub timeout: Duration,
}

struct Shared {
    orders: Orders,
    /// One has failed: the others finish what is on its way, and begin nothing.
    is_stopped: AtomicBool,
}

impl Crew {
    /// Tasks for `lanes` lanes, which connect once there is something to send. No more than
    /// `window` jobs may be handed that are not done.
    pub fn new(orders: Orders, lanes: usize, window: usize) -> Self {
        let shared = Arc::new(Shared { orders, is_stopped: AtomicBool::new(false) });
        let (done_by, done) = mpsc::channel(window);
        let mut tasks = JoinSet::new();
        let jobs = (0..lanes).map(|_| {
            let (sender, jobs) = mpsc::channel(window);
            let lane = Lane::new(jobs, done_by.clone(), sleep(shared.orders.timeout));
            tasks.spawn(lane.run(Arc::clone(&shared)));
            sender
        });
        Self { jobs: jobs.collect(), shared, done, _tasks: tasks }
    }

    pub fn hand(&self, job: Job) {
        // A task that takes no more has failed, or another has: that is heard of in `done`.
        let _ = self.jobs[job.ticket.lane].try_send(job);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // A task that runs at this moment ends when it next rests, and is to begin nothing before.
        self.shared.is_stopped.store(true, Relaxed);
    }
}

struct Lane {
    jobs: mpsc::Receiver<Job>,
    done: mpsc::Sender<Done>,
    connection: Option<Connection>,
    /// Since when there was nothing to do, if so before this job.
    rests_since: Option<Instant>,
    /// One for all requests: a timer is cheaper to move than to make.
    timer: Pin<Box<Sleep>>,
}

impl Lane {
    fn new(jobs: mpsc::Receiver<Job>, done: mpsc::Sender<Done>, timer: Sleep) -> Self {
        Self { jobs, done, connection: None, rests_since: None, timer: Box::pin(timer) }
    }

    /// Ends after a failure, its own or another's: order is kept only if nothing of a lane overtakes
    /// what failed.
    async fn run(mut self, shared: Arc<Shared>) {
        while let Some(job) = self.next().await {
            if shared.is_stopped.load(Relaxed) {
                return;
            }
            let ticket = job.ticket;
            let verdict = self.attempt(job, &shared.orders).await;
            let has_failed = matches!(verdict, Verdict::Fault(_));
            if has_failed {
                shared.is_stopped.store(true, Relaxed);
            }
            if self.done.send((ticket, verdict)).await.is_err() || has_failed {
                return;
            }
        }
    }

    /// The next job. Sees meanwhile when the endpoint closes the connection.
    async fn next(&mut self) -> Option<Job> {
        if let Ok(job) = self.jobs.try_recv() {
            return Some(job);
        }
        self.rests_since = Some(Instant::now());
        poll_fn(|cx| {
            if let Poll::Ready(job) = self.jobs.poll_recv(cx) {
                return Poll::Ready(job);
            }
            self.connection.take_if(|connection| connection.poll_ended(cx));
            Poll::Pending
        })
        .await
    }

    /// One request, to the end of its answer.
    async fn attempt(&mut self, job: Job, orders: &Orders) -> Verdict {
        let (now, target) = (Instant::now(), &orders.target);
        self.timer.as_mut().reset(now + orders.timeout);
        let answer = match self.answer(target, job, now).await {
            Ok(answer) => answer,
            Err(failure) => return Verdict::Fault(failure.fault(target)),
        };
        let (head, body) = answer.into_parts();
        let verdict = verdict(&target.name, head.status, &head.headers, &orders.reject, SystemTime::now());
        if !body.is_end_stream()
            && let Some(connection) = &mut self.connection
            && in_time(self.timer.as_mut(), connection.drain(body)).await != Some(true)
        {
            self.connection = None;
        }
        verdict
    }

    /// The head of the answer.
    async fn answer(
        &mut self,
        target: &Target,
        job: Job,
        now: Instant,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = target.request(job);
        let rested = self.rests_since.take().map_or(Duration::ZERO, |since| now - since);
        let kept = self.connection.take().filter(|_| rested < REST_MAX);
        if let Some(mut kept) = kept
            && kept.is_ready()
        {
            let spare = (rested >= REST_DOUBTFUL).then(|| request.clone());
            let answer = in_time(self.timer.as_mut(), kept.exchange(request)).await;
            let mut failed = match answer.ok_or(Failure::Late)? {
                Ok(answer) => {
                    self.connection = Some(kept);
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            let spare = spare.filter(|_| !failed.error().is_parse());
            request = match failed.take_message().or(spare) {
                Some(again) => again,
                None => return Err(Failure::Broken(failed.into_error().into())),
            };
        }
        let opened = in_time(self.timer.as_mut(), Connection::open(target)).await;
        let mut connection = opened.ok_or(Failure::Late)?.map_err(Failure::Broken)?;
        let answer = in_time(self.timer.as_mut(), connection.exchange(request)).await;
        let answer = answer.ok_or(Failure::Late)?;
        let answer = answer.map_err(|failed| Failure::Broken(failed.into_error().into()))?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

/// Why there was no answer.
enum Failure {
    Late,
    Broken(Box<dyn Error + Send + Sync>),
}

impl Failure {
    fn fault(&self, target: &Target) -> Fault {
        let Self::Broken(error) = self else {
            return Fault::disconnected(format!("{}: no answer in time", target.name));
        };
        // The innermost cause says what happened; those around it only that something did.
        let mut cause: &dyn Error = error.as_ref();
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Fault::disconnected(format!("{}: {cause}", target.name))
    }
}

/// `None` once `timer` has gone off.
async fn in_time<T>(timer: Pin<&mut Sleep>, what: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = what => Some(done),
        () = timer => None,
    }
}

#[cfg(test)]
mod tests;
