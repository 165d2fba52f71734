//! The lanes: tasks that own a connection each, and make one request after the other. They take from the
//! queue by themselves; the sink fills it, and hears of what is settled later.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use hyper::Response;
use hyper::body::{Body as _, Incoming};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::answer::{Verdict, verdict};
use super::connection::Connection;
use super::queue::{Content, Job, Queue, Ticket};
use super::target::Target;
use crate::sinks::{Fault, Settled};

/// A connection that rested for longer is not used again: what is between here and there may have
/// forgotten it without a word.
const REST_MAX: Duration = Duration::from_secs(90);
/// A connection that rested for so long may be about to be closed by the endpoint, and a request may
/// cross that. It is made once more then, on a new connection.
const REST_DOUBTFUL: Duration = Duration::from_secs(1);

/// So many messages that became settled are worth waking the sink for, as a part of all in flight.
const WORTH_A_WAKE: usize = 8;

/// And however few there are, the sink hears of them within this: what it has not heard of it would send
/// again after a crash.
const UNHEARD_MAX: Duration = Duration::from_millis(25);

/// The tasks of all lanes, until one fails. They end with the value, and with them their requests.
pub struct Crew {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What a crew is told.
pub struct Orders {
    pub target: Arc<Target>,
    /// The statuses that mean "never".
    pub reject: Vec<u16>,
    /// For a request, to the end of its answer.
    pub timeout: Duration,
    /// The most messages in one request.
    pub batch: usize,
    /// The most messages in flight.
    pub window: usize,
}

struct Shared {
    orders: Orders,
    state: Mutex<State>,
    /// There may be something to request.
    work: Notify,
    /// There is reason to hear of what is settled.
    news: Notify,
    /// One has failed: the others finish what is on its way, and begin nothing.
    is_stopped: AtomicBool,
}

struct State {
    queue: Queue,
    /// Why a lane failed, the first to.
    fault: Option<Fault>,
    /// How many requests were answered since the sink last heard.
    unheard: usize,
}

impl Shared {
    fn new(orders: Orders) -> Self {
        let state = State { queue: Queue::new(orders.batch), fault: None, unheard: 0 };
        let [work, news] = [Notify::new(), Notify::new()];
        Self { orders, state: Mutex::new(state), work, news, is_stopped: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request, if there is one that may be made. When there are more, another lane is called,
    /// which may call a third: the last one to rest comes first, so that few connections are used when
    /// few are needed.
    fn take(&self) -> Option<Job> {
        let mut state = self.state();
        // Behind the lock, under which a lane that fails says so: nothing is begun after that.
        if self.is_stopped.load(Acquire) {
            return None;
        }
        let job = state.queue.next();
        if state.queue.is_ready() {
            self.work.notify_last();
        }
        job
    }

    /// Notes what became of a request. To be told of each alone would cost the sink more than a request
    /// does: it is woken once there is much to tell, or the lanes run out of work.
    fn note(&self, ticket: &Ticket, verdict: Verdict) {
        let mut state = self.state();
        match verdict {
            Verdict::Taken => state.queue.taken(ticket),
            Verdict::Rejected(rejection) => state.queue.rejected(ticket, rejection),
            Verdict::Fault(fault) => {
                state.fault.get_or_insert(fault);
                self.is_stopped.store(true, Release);
            }
        }
        state.unheard += 1;
        let much = self.orders.window / WORTH_A_WAKE / self.orders.batch;
        if state.unheard == much.max(1) || !state.queue.is_ready() || state.fault.is_some() {
            self.news.notify_one();
        }
    }
}

impl Crew {
    /// Tasks for `lanes` lanes, which connect once there is something to send.
    pub fn new(orders: Orders, lanes: usize) -> Self {
        let shared = Arc::new(Shared::new(orders));
        let mut tasks = JoinSet::new();
        for _ in 0..lanes {
            tasks.spawn(Lane::new(sleep(shared.orders.timeout)).run(Arc::clone(&shared)));
        }
        Self { shared, _tasks: tasks }
    }

    /// Adds messages, in order, by their keys.
    pub fn push<'k>(&self, messages: impl IntoIterator<Item = (&'k str, Content)>) {
        let mut state = self.shared.state();
        for (key, content) in messages {
            state.queue.push(key, content);
        }
        drop(state);
        self.shared.work.notify_last();
    }

    /// What is settled, in order; else why nothing more will be.
    pub fn hear(&self) -> Option<Result<Settled, Fault>> {
        // Looked at first: a lane notes why it failed before it says that it has.
        let is_stopped = self.shared.is_stopped.load(Acquire);
        let mut state = self.shared.state();
        state.unheard = 0;
        if let Some(settled) = state.queue.take_settled() {
            return Some(Ok(settled));
        }
        let ended = || Fault::disconnected("a connection's task has ended");
        state.fault.take().or_else(|| is_stopped.then(ended)).map(Err)
    }

    /// Waits until there is reason to ask, but not for long. May be dropped, and waited for again.
    pub async fn news(&self) {
        let _ = timeout(UNHEARD_MAX, self.shared.news.notified()).await; // either way it is time
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // A task that runs at this moment ends when it next rests, and is to begin nothing before.
        self.shared.is_stopped.store(true, Release);
    }
}

/// However a lane's task ends, the others are to end too.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.is_stopped.store(true, Release);
    }
}

struct Lane {
    connection: Option<Connection>,
    /// Since when there was nothing to do, if so before this job.
    rests_since: Option<Instant>,
    /// One for all requests: a timer is cheaper to move than to make.
    timer: Pin<Box<Sleep>>,
}

impl Lane {
    fn new(timer: Sleep) -> Self {
        Self { connection: None, rests_since: None, timer: Box::pin(timer) }
    }

    /// Ends after a failure of its own: order is kept only if nothing of a key overtakes what failed.
    async fn run(mut self, shared: Arc<Shared>) {
        let Ended(shared) = &Ended(shared);
        loop {
            let Job { ticket, content } = self.next(shared).await;
            let verdict = self.attempt(content, &shared.orders).await;
            let has_failed = matches!(verdict, Verdict::Fault(_));
            shared.note(&ticket, verdict);
            if has_failed {
                return;
            }
        }
    }

    /// The next job. Sees meanwhile when the endpoint closes the connection.
    async fn next(&mut self, shared: &Shared) -> Job {
        loop {
            if let Some(job) = shared.take() {
                return job;
            }
            self.rests_since.get_or_insert_with(Instant::now);
            let mut work = pin!(shared.work.notified());
            poll_fn(|cx| {
                if work.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                self.connection.take_if(|connection| connection.poll_ended(cx));
                Poll::Pending
            })
            .await;
        }
    }

    /// One request, to the end of its answer.
    async fn attempt(&mut self, content: Content, orders: &Orders) -> Verdict {
        let (now, target) = (Instant::now(), &orders.target);
        self.timer.as_mut().reset(now + orders.timeout);
        let answer = match self.answer(target, content, now).await {
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
        content: Content,
        now: Instant,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = target.request(content);
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
