//! The load: so many events, so fast, by so many senders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{Answer, Client, Target};
use super::sample::Random;
use super::{EmitArgs, Report, Sample, TargetError};

/// Requests without a 202 in a row after which it is given up: the receiver is not there, or refuses.
const FAILURES_MAX: u64 = 100;

/// Sends what `args` say. The bar is moved with each answer.
///
/// # Errors
/// [`TargetError`] when the arguments name no usable target; what fails later is in the report.
pub async fn emit(args: &EmitArgs, progress: &ProgressBar) -> Result<Report, TargetError> {
    let target = Arc::new(Target::new(args)?);
    let seed = args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let load = Arc::new(Load {
        sample: Sample::new(seed, args.repositories, jiff::Timestamp::now()),
        seed,
        args: args.clone(),
        began: Instant::now(),
        next: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        progress: progress.clone(),
    });
    let senders: Vec<_> = (0..args.concurrency)
        .map(|_| tokio::spawn(Arc::clone(&load).send(Client::new(Arc::clone(&target), args.keep_alive))))
        .collect();
    let mut report = Report::default();
    for sender in senders {
        match sender.await {
            Ok(part) => report.merge(&part),
            Err(error) => report.fail(&error.to_string()),
        }
    }
    report.took = load.began.elapsed();
    report.gave_up = load.has_given_up();
    Ok(report)
}

/// What the senders share.
struct Load {
    args: EmitArgs,
    seed: u64,
    sample: Sample,
    began: Instant,
    /// The next envelope.
    next: AtomicU64,
    /// In a row.
    failures: AtomicU64,
    progress: ProgressBar,
}

impl Load {
    /// One sender, until all is sent.
    async fn send(self: Arc<Self>, mut client: Client) -> Report {
        let mut report = Report::default();
        while let Some((first, events)) = self.take() {
            let began = self.due(first).await;
            let body = self.body(first, events);
            let answer = timeout(self.args.timeout, client.post(body)).await;
            report.requests += 1;
            report.events += events;
            self.note(answer.unwrap_or_else(|_| Err("no answer in time".to_owned())), began, &mut report);
            self.progress.inc(events);
        }
        report
    }

    /// The first event of the next envelope, and how many it holds.
    fn take(&self) -> Option<(u64, u64)> {
        let (batch, count) = (self.args.batch, self.args.count);
        let first = self.next.fetch_add(1, Ordering::Relaxed).checked_mul(batch)?;
        (first < count && !self.has_given_up()).then(|| (first, batch.min(count - first)))
    }

    /// Waits until an event is due. Gives the time from which its latency counts: with a rate, that
    /// at which it was to be sent, so that what had to wait behind a slow answer shows as slow.
    async fn due(&self, event: u64) -> Instant {
        let Some(rate) = self.args.rate else { return Instant::now() };
        let due = self.began + Duration::from_secs_f64(event as f64 / rate as f64);
        sleep_until(due).await;
        due
    }

    fn body(&self, first: u64, events: u64) -> String {
        let chance = |percent: u64, salt: u64, number: u64| {
            percent > 0 && Random(self.seed ^ salt ^ number << 8).next() % 100 < percent
        };
        // A duplicate stands in the place of an event, and is the event before it again.
        let number = |at: u64| if chance(self.args.duplicates, 1, at) { at.saturating_sub(1) } else { at };
        let mut body = self.sample.envelope((first..first + events).map(number));
        if chance(self.args.malformed, 2, first) {
            body.truncate(body.len() / 2);
        }
        body
    }

    fn note(&self, answer: Result<Answer, String>, began: Instant, report: &mut Report) {
        let accepted = answer.as_ref().is_ok_and(|answer| answer.status.as_u16() == 202);
        if accepted {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        match answer {
            Ok(answer) => report.answer(&answer, began.elapsed()),
            Err(error) => report.fail(&error),
        }
    }

    fn has_given_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES_MAX
    }
}
