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
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives(quiet, verbosity)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Text => builder.with_target(verbosity > 0).compact().init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// What is let through, in the syntax of [`EnvFilter`].
///
/// lapin writes returned messages down whole, with their bodies, and says as errors what the RabbitMQ
/// sink reports anyway, once: the former never, the latter only where clients are asked about.
fn directives(quiet: bool, verbosity: u8) -> String {
    let (relay, rest) = levels(quiet, verbosity);
    let lapin = if verbosity < 2 { "off" } else { rest };
    format!("{rest},lapin={lapin},lapin::returned_messages=off,relay={relay}")
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is written at a verbosity of the lines of three clients.
    fn written(verbosity: u8) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("lines").write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives(false, verbosity)))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "lapin::returned_messages", "a body");
            tracing::error!(target: "lapin::channel", "a closed channel");
            tracing::warn!(target: "rustls::check", "somebody else");
        });
        String::from_utf8(lines.0.lock().expect("lines").clone()).expect("text")
    }

    #[test]
    fn no_body_is_written_however_much_is_asked_for() {
        for verbosity in 0..4 {
            let lines = written(verbosity);
            assert!(!lines.contains("a body"), "{lines}");
            assert_eq!(lines.contains("a closed channel"), verbosity >= 2, "{lines}");
            assert!(lines.contains("somebody else"), "{lines}");
        }
    }
}
