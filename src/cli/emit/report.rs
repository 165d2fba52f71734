//! The summary of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Latencies;
use super::client::{Answer, Counts};

/// Different failures that are told apart; further ones are counted together.
const KINDS_MAX: usize = 8;

/// What became of a run's requests.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sent, answered or not.
    pub requests: u64,
    pub events: u64,
    /// Summed from the answers; `quarantined` counts bodies, the others events.
    pub counts: Counts,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by what happened.
    pub failures: BTreeMap<String, u64>,
    pub latencies: Latencies,
    pub took: Duration,
    /// Ended early, since nothing was taken any more.
    pub gave_up: bool,
}

impl Report {
    pub fn answer(&mut self, answer: &Answer, latency: Duration) {
        *self.statuses.entry(answer.status.as_u16()).or_default() += 1;
        self.counts.accepted += answer.counts.accepted;
        self.counts.duplicates += answer.counts.duplicates;
        self.counts.quarantined += answer.counts.quarantined;
        self.latencies.record(latency);
    }

    pub fn fail(&mut self, what: &str) {
        self.add_failures(what, 1);
    }

    fn add_failures(&mut self, what: &str, count: u64) {
        let known = self.failures.len() < KINDS_MAX || self.failures.contains_key(what);
        let what = if known { what } else { "other failures" };
        *self.failures.entry(what.to_owned()).or_default() += count;
    }

    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.events += other.events;
        self.counts.accepted += other.counts.accepted;
        self.counts.duplicates += other.counts.duplicates;
        self.counts.quarantined += other.counts.quarantined;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (what, count) in &other.failures {
            self.add_failures(what, *count);
        }
        self.latencies.merge(&other.latencies);
    }

    /// Whether `count` events were sent and every request was answered 202.
    pub fn all_accepted(&self, count: u64) -> bool {
        let answered = self.statuses.get(&202).copied().unwrap_or(0);
        self.events == count && answered == self.requests && self.failures.is_empty()
    }

    pub fn events_per_second(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// One line, for scripts. Latencies are in microseconds.
    pub fn json(&self) -> String {
        let micros = |part: f64| self.latencies.quantile(part).as_micros();
        serde_json::json!({
            "requests": self.requests, "events": self.events,
            "accepted": self.counts.accepted, "duplicates": self.counts.duplicates,
            "quarantined": self.counts.quarantined,
            "statuses": self.statuses, "failures": self.failures,
            "seconds": self.took.as_secs_f64(), "events_per_second": self.events_per_second(),
            "latency_us": {
                "p50": micros(0.5), "p90": micros(0.9), "p99": micros(0.99),
                "max": self.latencies.max().as_micros(),
            },
            "gave_up": self.gave_up,
        })
        .to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let Counts { accepted, duplicates, quarantined } = self.counts;
        let millis = |latency: Duration| latency.as_secs_f64() * 1e3;
        let quantile = |part: f64| millis(self.latencies.quantile(part));
        writeln!(
            f,
            "sent      {} events in {} requests and {seconds:.2} s: {:.0} events/s",
            self.events,
            self.requests,
            self.events_per_second()
        )?;
        writeln!(
            f,
            "answered  {accepted} accepted, {duplicates} duplicates, {quarantined} bodies quarantined"
        )?;
        writeln!(
            f,
            "latency   p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            millis(self.latencies.max())
        )?;
        for (status, count) in &self.statuses {
            writeln!(f, "status    {status}: {count}")?;
        }
        for (what, count) in &self.failures {
            writeln!(f, "failed    {count}: {what}")?;
        }
        if self.gave_up {
            writeln!(f, "gave up   after too many requests in a row that were not accepted")?;
        }
        Ok(())
    }
}
