//! How long and how hard a run is, from the environment.

use std::time::Duration;

use crate::{event::Recipe, load::Pace, support::given};

/// The short run's: what CI does.
const SEED: u64 = 20_261_124;
const SECONDS: u64 = 35;

#[derive(Debug, Clone)]
pub struct Settings {
    /// `TORTURE_SEED`: the events and the plan of faults follow from it.
    pub seed: u64,
    /// `TORTURE_EVENTS` and `TORTURE_FAULTS`: the run goes on until there were so many of both.
    pub events: u64,
    pub faults: usize,
    /// `TORTURE_SECONDS`: but no new round begins after so long.
    pub time: Duration,
    pub pace: Pace,
    huge_every: u64,
    /// Whether this is more than the short run: then it also compares rates.
    pub long: bool,
}

impl Settings {
    pub fn from_environment() -> Self {
        let number = |name: &str| {
            given(name).map(|text| text.parse::<u64>().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
        };
        let (events, faults) = (number("TORTURE_EVENTS"), number("TORTURE_FAULTS"));
        let long = events.is_some() || faults.is_some();
        let seconds = number("TORTURE_SECONDS").unwrap_or(if long { 24 * 3600 } else { SECONDS });
        let rate = number("TORTURE_RATE").unwrap_or(if long { 2_000 } else { 300 });
        Self {
            seed: number("TORTURE_SEED").unwrap_or(SEED),
            // The short run ends by its time.
            events: events.unwrap_or(if long { 0 } else { u64::MAX }),
            faults: faults.unwrap_or(0) as usize,
            time: Duration::from_secs(seconds),
            pace: Pace { senders: 8, rate, batch_max: if long { 200 } else { 30 } },
            huge_every: if long { 10_000 } else { 1_500 },
            long,
        }
    }

    pub fn recipe(&self) -> Recipe {
        Recipe { seed: self.seed, huge_every: self.huge_every }
    }

    /// The command that makes the same run again.
    pub fn command(&self) -> String {
        if self.long {
            format!(
                "make torture TORTURE_SEED={} TORTURE_EVENTS={} TORTURE_FAULTS={} TORTURE_RATE={} \
                 TORTURE_SECONDS={}",
                self.seed,
                self.events,
                self.faults,
                self.pace.rate,
                self.time.as_secs()
            )
        } else {
            format!("TORTURE_SEED={} cargo test --test torture", self.seed)
        }
    }
}
