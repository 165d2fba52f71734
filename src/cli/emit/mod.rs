//! `relay emit`: sends realistic envelopes, to see the way of an event or to measure it.

mod sample;
mod load;
mod client;
mod latency;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub use client::TargetError;
pub use latency::Latencies;
pub use load::emit;
pub use report::Report;
pub use sample::Sample;

use super::Failure;
use crate::config::{Secret, Time};

/// Send realistic registry notifications, and measure the answers.
///
/// Each request is what a registry of distribution 3.x sends: an envelope of one event, on a
/// connection of its own, one request at a time. `--batch`, `--keep-alive` and `--concurrency` go
/// beyond that. Exits with 1 when anything was not answered 202.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  relay emit --count 10
  relay emit --to http://relay:8080/events --token \"$RELAY_TOKEN\" --rate 500 --count 30000
  relay emit --count 1000000 --keep-alive --concurrency 64 --json")]
pub struct EmitArgs {
    /// The receiver's address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/events")]
    pub to: String,
    /// Events to send
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub count: u64,
    /// Events a second, at most; unset: as fast as they are answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Events in each envelope
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub batch: u64,
    /// Requests at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub concurrency: u64,
    /// Send on one connection for each of the concurrent senders, not on a new one for each request
    #[arg(long)]
    pub keep_alive: bool,
    /// Bearer token
    #[arg(long, env = "RELAY_TOKEN", hide_env_values = true, value_parser = secret)]
    pub token: Option<Secret>,
    /// Basic authentication, instead of a token
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = secret)]
    pub user: Option<Secret>,
    /// Authorities (PEM) that may have signed the receiver's certificate; needed for https
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Repositories that the events are spread over
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub repositories: u64,
    /// Makes the same events again, ids included, so that a relay takes them for duplicates; unset:
    /// new ones at each run
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How many events in a hundred are sent twice
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=100))]
    pub duplicates: u64,
    /// How many bodies in a hundred cannot be read
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=100))]
    pub malformed: u64,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub timeout: Duration,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn duration(text: &str) -> Result<Duration, String> {
    Time::parse(text).map(|time| time.duration)
}

/// Sends, shows the progress on standard error and the summary on standard output.
///
/// # Errors
/// When something was not accepted, or the arguments name no usable target.
pub async fn run(args: EmitArgs) -> Result<(), Failure> {
    let progress = bar(args.count);
    let report = emit(&args, &progress).await;
    progress.finish_and_clear();
    let report = report.map_err(|error| Failure::Other(error.to_string()))?;
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    if report.all_accepted(args.count) {
        Ok(())
    } else {
        Err(Failure::Other("not everything was accepted".to_owned()))
    }
}

/// A bar on standard error; nothing where that is no terminal.
fn bar(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(count).with_style(style)
}
