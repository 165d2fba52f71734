//! What the relay says of itself, on standard error.

mod throttle;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

pub use throttle::Throttle;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines to read.
    #[default]
    Text,
    /// One JSON object a line, to search.
    Json,
}

/// Starts logging. Call once.
///
/// `verbosity` counts `-v`: 0 says what matters to whoever runs the relay, 1 what it does, 2 what
/// its clients do too, 3 everything. `RUST_LOG` overrides it, in the syntax of [`EnvFilter`].
pub fn init(quiet: bool, verbosity: u8, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let (relay, rest) = levels(quiet, verbosity);
        EnvFilter::new(format!("{rest},relay={relay}"))
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Text => builder.with_target(verbosity > 0).compact().init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// The levels of the relay's own lines and of everybody else's. Commands that only ask or show
/// something are `quiet`: their output is the answer.
fn levels(quiet: bool, verbosity: u8) -> (&'static str, &'static str) {
    match (quiet, verbosity) {
        (true, 0) => ("warn", "error"),
        (false, 0) => ("info", "warn"),
        (_, 1) => ("debug", "warn"),
        (_, 2) => ("debug", "info"),
        _ => ("trace", "debug"),
    }
}
