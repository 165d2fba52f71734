//! `relay serve`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::hints::hints;
use super::{ConfigArg, Failure};
use crate::app::App;
use crate::logging::LogFormat;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay serve
  relay serve -c /etc/relay/relay.yml --log-format json
  RELAY_CONFIG=/etc/relay/relay.yml relay

A wrong configuration ends it before anything is bound, with exit code 78. A broker that is down
does not: events are taken, and delivered later.
SIGTERM and Ctrl-C stop it: what is in flight is answered and delivered first; a second one ends it at once.")]
pub(super) struct Args {
    #[command(flatten)]
    pub config: ConfigArg,
}

pub(super) async fn run(args: Args, log_format: LogFormat) -> Result<(), Failure> {
    let config = super::load(&args.config)?;
    // Before anything runs that a signal would have to stop.
    let mut signals =
        Signals::new().map_err(|error| Failure::Other(format!("cannot take signals: {error}")))?;
    let app = App::start(config.clone()).await.map_err(|error| Failure::Other(error.to_string()))?;
    let (receiver, admin) = (app.receiver_addr(), app.admin_addr());
    tracing::info!(%receiver, admin = admin.map(tracing::field::display), "started");
    if log_format == LogFormat::Text {
        eprint!("{}", hints(&config, receiver, admin));
    }
    let signal = signals.next().await;
    tracing::info!(signal, "stopping");
    tokio::select! {
        () = app.drain() => {
            tracing::info!("stopped");
            Ok(())
        }
        signal = signals.next() => Err(Failure::Other(format!("stopped at once by a second {signal}"))),
    }
}

/// What ends the relay.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
