//! Figures: what a line measured, and whether that reaches what it is to reach.

use std::future::Future;

use serde::{Deserialize, Serialize};

/// What a line's two figures are compared by.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Aim {
    /// The relay's figure is at least this part of the reference's: both are rates.
    AtLeast(f64),
    /// The relay's figure is at most this multiple of the reference's: both are times.
    AtMost(f64),
    /// The relay's figure is at most this much above the reference's.
    AddedAtMost(f64),
    /// Nothing to reach: told to compare with.
    None,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Unit {
    EventsPerSecond,
    Microseconds,
    Mebibytes,
    Seconds,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::EventsPerSecond => format!("{} /s", thousands(value)),
            Self::Microseconds if value < 100.0 => format!("{value:.1} µs"),
            Self::Microseconds => format!("{} µs", thousands(value)),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Seconds => format!("{value:.2} s"),
        }
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// One line of the table. `relay[n]` and `reference[n]` were measured one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub what: String,
    pub reference_is: String,
    pub unit: Unit,
    pub aim: Aim,
    pub relay: Vec<f64>,
    pub reference: Vec<f64>,
    /// Why there are no figures, where there are none.
    pub skipped: Option<String>,
}

impl Row {
    pub fn new(what: &str, reference_is: &str, unit: Unit, aim: Aim) -> Self {
        let (what, reference_is) = (what.to_owned(), reference_is.to_owned());
        Self { what, reference_is, unit, aim, relay: Vec::new(), reference: Vec::new(), skipped: None }
    }

    pub fn skipped(mut self, why: impl Into<String>) -> Self {
        self.skipped = Some(why.into());
        self
    }

    pub fn add(&mut self, relay: f64, reference: f64) {
        self.relay.push(relay);
        self.reference.push(reference);
    }

    /// Measures the two in turn, `rounds` times: relay, reference, relay, reference.
    pub async fn alternate<A, B>(
        mut self,
        rounds: usize,
        mut relay: impl FnMut() -> A,
        mut reference: impl FnMut() -> B,
    ) -> Self
    where
        A: Future<Output = f64>,
        B: Future<Output = f64>,
    {
        for round in 1..=rounds {
            let pair = (relay().await, reference().await);
            eprintln!("  {round}/{rounds}: {} against {}", self.unit.show(pair.0), self.unit.show(pair.1));
            self.add(pair.0, pair.1);
        }
        self
    }

    /// How the relay's figure compares in each pair: a ratio, or what is added.
    fn comparisons(&self) -> Vec<f64> {
        let pairs = self.relay.iter().zip(&self.reference);
        let compare = |(relay, reference): (&f64, &f64)| match self.aim {
            Aim::AddedAtMost(_) => relay - reference,
            _ => relay / reference,
        };
        pairs.map(compare).collect()
    }

    /// The median comparison.
    pub fn comparison(&self) -> f64 {
        median(&self.comparisons())
    }

    fn reached(&self) -> Option<bool> {
        let is = self.comparison();
        match self.aim {
            Aim::AtLeast(least) => Some(is >= least),
            Aim::AtMost(most) | Aim::AddedAtMost(most) => Some(is <= most),
            Aim::None => None,
        }
    }

    /// The line of the table, in Markdown.
    pub fn markdown(&self) -> String {
        let Self { what, reference_is, unit, .. } = self;
        if let Some(why) = &self.skipped {
            return format!("| {what} | {reference_is} | | | {why} | {} | skipped |", self.target());
        }
        let comparisons = self.comparisons();
        let (low, high) = spread(&comparisons);
        let show = |value: f64| match self.aim {
            Aim::AddedAtMost(_) => format!("{}{}", if value < 0.0 { "" } else { "+" }, unit.show(value)),
            _ => format!("{value:.2}"),
        };
        let verdict = self.reached().map_or("", |reached| if reached { "yes" } else { "**no**" });
        format!(
            "| {what} | {reference_is} | {} | {} | {} ({} – {}) | {} | {verdict} |",
            unit.show(median(&self.relay)),
            unit.show(median(&self.reference)),
            show(self.comparison()),
            show(low),
            show(high),
            self.target(),
        )
    }

    fn target(&self) -> String {
        match self.aim {
            Aim::AtLeast(least) => format!("≥ {least}"),
            Aim::AtMost(most) => format!("≤ {most}"),
            Aim::AddedAtMost(most) => format!("≤ +{}", self.unit.show(most)),
            Aim::None => String::new(),
        }
    }
}

/// The table of all lines, in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | reference in the same run | relay | reference | ratio: median (lowest – highest) | to reach | reached |\n\
         |---|---|--:|--:|--:|--:|---|\n",
    );
    for row in rows {
        text += &row.markdown();
        text.push('\n');
    }
    text
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

/// The value below which `part` of them are, by the nearest rank.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}
