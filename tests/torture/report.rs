//! What a run found: five properties with their figures.

use std::{collections::BTreeMap, fmt::Write as _, sync::atomic::Ordering::Relaxed, time::Duration};

use crate::{
    load::Load,
    oracle::{Figures, Oracle, Violations},
    plan::SINKS,
    rates::Rates,
    run::RECOVERY_BOUND,
    settings::Settings,
};

/// The relay's memory stays below this, in bytes, whatever happens to it.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// A fault that was carried out.
#[derive(Debug)]
pub struct Struck {
    pub label: String,
    /// It had no chance to happen.
    pub missed: bool,
}

#[derive(Debug, Default)]
pub struct Report {
    command: String,
    pub struck: Vec<Struck>,
    pub figures: Vec<Figures>,
    pub recoveries: Vec<Duration>,
    pub recovery: Violations,
    pub lost: Violations,
    pub foreign: Violations,
    pub order: Violations,
    pub repeats: Violations,
    /// Undisturbed stretches in which a sink failed by itself.
    pub disturbed: u64,
    pub damaged: usize,
    pub memory_bytes: u64,
    pub rates: Option<Rates>,
    pub rounds_took: Duration,
    pub took: Duration,
    taken: u64,
    requests: [u64; 5],
    quarantined: u64,
}

impl Report {
    pub fn new(settings: &Settings) -> Self {
        Self { command: settings.command(), ..Self::default() }
    }

    /// The load's own figures, and what the oracle says.
    pub fn conclude(&mut self, load: &Load, quarantined: u64, mut oracle: Oracle) {
        let counts = load.counts();
        let all = [&counts.refused, &counts.unanswered, &counts.odd, &counts.repeated, &counts.malformed];
        self.requests = all.map(|count| count.load(Relaxed));
        self.taken = load.taken();
        self.quarantined = quarantined;
        self.figures = oracle.conclude(&load.taken_each());
        self.damaged = oracle.damaged_count();
        (self.lost, self.foreign) = (oracle.lost, oracle.foreign);
        (self.order, self.repeats) = (oracle.order, oracle.repeats);
        let malformed = self.requests[4];
        if quarantined < malformed {
            self.lost.add(|| format!("the quarantine holds {quarantined} of {malformed} malformed bodies"));
        }
    }

    pub fn is_good(&self) -> bool {
        let properties = [&self.lost, &self.foreign, &self.order, &self.recovery, &self.repeats];
        properties.iter().all(|violations| violations.count == 0) && self.memory_bytes < MEMORY_BYTES_MAX
    }

    fn sum(&self, of: impl Fn(&Figures) -> u64) -> u64 {
        self.figures.iter().map(of).sum()
    }

    /// The whole report.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("to a string");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let [refused, unanswered, odd, repeated, malformed] = self.requests;
        let missed = self.struck.iter().filter(|fault| fault.missed).count();
        writeln!(text, "command     {}", self.command)?;
        writeln!(
            text,
            "load        {} events answered 2xx; {refused} requests answered 503, {unanswered} not at all, \
             {odd} otherwise, each sent again; {repeated} sent again after their 2xx; {malformed} malformed",
            self.taken
        )?;
        writeln!(
            text,
            "faults      {} carried out ({missed} more had no chance to happen) in {:.0} s, {:.0} s with reading",
            self.struck.len() - missed,
            self.rounds_took.as_secs_f64(),
            self.took.as_secs_f64()
        )?;
        self.write_faults(text)?;
        self.write_sinks(text)?;
        self.write_properties(text)?;
        self.write_rates(text)
    }

    fn write_faults(&self, text: &mut String) -> std::fmt::Result {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for fault in self.struck.iter().filter(|fault| !fault.missed) {
            *kinds.entry(&fault.label).or_default() += 1;
        }
        for (kind, count) in kinds {
            writeln!(text, "            {count:4} {kind}")?;
        }
        Ok(())
    }

    fn write_sinks(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "sink        arrivals    events   repeats   dead letters   damaged by us   lost")?;
        for (sink, figures) in SINKS.iter().zip(&self.figures) {
            writeln!(
                text,
                "{sink:<10} {:>9} {:>9} {:>9} {:>14} {:>15} {:>6}",
                figures.arrivals,
                figures.firsts,
                figures.repeats,
                figures.too_large + figures.other_letters,
                figures.damaged,
                figures.lost
            )?;
        }
        Ok(())
    }

    fn write_properties(&self, text: &mut String) -> std::fmt::Result {
        let mut times = self.recoveries.clone();
        times.sort_unstable();
        let time =
            |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default().as_secs_f64();
        let longest = times.last().copied().unwrap_or_default().as_secs_f64();
        let letters = self.sum(|figures| figures.too_large);
        property(
            text,
            1,
            &self.lost,
            &format!(
                "what was answered 2xx arrives or is a dead letter: {} of {} lost; {letters} dead letters, all too \
             large; {} records damaged by us, {} deliveries missing by that; {} malformed bodies in the quarantine",
                self.sum(|figures| figures.lost),
                self.taken * SINKS.len() as u64,
                self.damaged,
                self.sum(|figures| figures.damaged),
                self.quarantined
            ),
        )?;
        property(
            text,
            2,
            &self.foreign,
            &format!(
                "nothing arrives that was not sent, every byte the registry's: {} arrivals compared",
                self.sum(|figures| figures.arrivals)
            ),
        )?;
        property(text, 3, &self.order, "per repository and sink, first arrivals are in order")?;
        property(
            text,
            4,
            &self.recovery,
            &format!(
                "it comes back by itself within {} s of a round's last fault: half within {:.2} s, 99 of 100 within \
             {:.2} s, the slowest {longest:.2} s, of {} times",
                RECOVERY_BOUND.as_secs(),
                time(50),
                time(99),
                times.len()
            ),
        )?;
        property(
            text,
            5,
            &self.repeats,
            &format!(
                "repetitions only where a fault allows them: {} in all, {} among {} deliveries that no fault could \
                 touch ({} stretches not counted, since a sink failed by itself)",
                self.sum(|figures| figures.repeats),
                self.repeats.count,
                self.sum(|figures| figures.quiet),
                self.disturbed
            ),
        )?;
        let word = if self.memory_bytes < MEMORY_BYTES_MAX { "holds" } else { "FAILS" };
        let mib = |bytes: u64| bytes >> 20;
        writeln!(
            text,
            "memory {word}: the relay had {} MiB at most; the bound is {} MiB",
            mib(self.memory_bytes),
            mib(MEMORY_BYTES_MAX)
        )
    }

    fn write_rates(&self, text: &mut String) -> std::fmt::Result {
        let Some(rates) = &self.rates else { return Ok(()) };
        for (sink, (before, beside)) in SINKS[1..].iter().zip(rates.undisturbed.iter().zip(rates.beside_dead))
        {
            let share = beside / before;
            writeln!(
                text,
                "{sink} beside a dead Kafka: {beside:.0}/s, undisturbed {before:.0}/s: {share:.2}"
            )?;
        }
        Ok(())
    }
}

fn property(text: &mut String, number: u8, violations: &Violations, what: &str) -> std::fmt::Result {
    let word =
        if violations.count == 0 { "holds".to_owned() } else { format!("FAILS {} times", violations.count) };
    writeln!(text, "property {number} {word}: {what}")?;
    violations.shown.iter().try_for_each(|shown| writeln!(text, "    {shown}"))
}
