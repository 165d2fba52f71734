//! The commands: one file each, with its arguments, its help and what it does.
//!
//! To add one: a file with `Args` (a `clap::Args`, with examples) and `run`, a variant of [`Command`] and an arm
//! in [`Cli::run`]; then `UPDATE_DOCS=1 cargo test --test cli` to write it down in
//! `docs/commands.md`.

mod check;
mod client;
mod completions;
mod dead_letters;
pub mod emit;
mod hints;
mod import_registry;
mod journal;
mod quarantine;
mod replay;
mod route;
mod serve;
mod sse;
mod status;
mod tail;
mod text;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Loaded};
use crate::logging::{self, LogFormat};

/// A durable bridge from a container registry's notifications to Kafka, RabbitMQ, NATS, webhooks
/// and files.
#[derive(Debug, Parser)]
#[command(name = "relay", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    serve: serve::Args,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Without a command, `relay` is `relay serve`.

Examples:
  relay                              run on ./relay.yml
  relay check                        is the configuration right?
  relay emit --count 10              send ten events, as a registry would
  relay tail 'registry.*'            see events as they come
  relay status                       what it does

Exit codes: 0 done, 1 failed, 2 wrong arguments, 69 no relay answers, 78 a wrong configuration.";

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// Say more; twice or three times, more still. RUST_LOG overrides it
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    verbose: u8,

    /// How log lines on standard error look
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT", display_order = 901)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    Serve(serve::Args),
    /// Say whether a configuration is right, and print its routing table
    Check(check::Args),
    /// Say where events would go, and why
    Route(route::Args),
    /// Send events, as a registry would
    Emit(emit::EmitArgs),
    /// Show what a running relay does
    Status(status::Args),
    /// Print a running relay's events as they come
    Tail(tail::Args),
    /// Look at what destinations would not take, send it again, or discard it
    DeadLetters(dead_letters::Args),
    /// Look at bodies that could not be read, try them again, or discard them
    Quarantine(quarantine::Args),
    /// Deliver again out of the journal
    Replay(replay::Args),
    /// Turn a registry's `notifications` into a configuration
    ImportRegistry(import_registry::Args),
    /// Look into a journal's folder, without a relay
    Journal(journal::Args),
    /// Print a shell's completions
    Completions(completions::Args),
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArg {
    /// The configuration
    #[arg(
        short = 'c',
        long = "config",
        env = "RELAY_CONFIG",
        hide_env_values = true,
        default_value = "relay.yml",
        value_name = "FILE"
    )]
    pub path: PathBuf,
}

impl Cli {
    /// Starts logging as the arguments say. Call once.
    pub fn init_logging(&self) {
        let serving = matches!(self.command, None | Some(Command::Serve(_)));
        logging::init(!serving, self.global.verbose, self.global.log_format);
    }

    /// Does what the arguments say; prints why it failed, if it did.
    pub async fn run(self) -> ExitCode {
        let log_format = self.global.log_format;
        let done = match self.command.unwrap_or(Command::Serve(self.serve)) {
            Command::Serve(args) => serve::run(args, log_format).await,
            Command::Check(args) => check::run(&args).await,
            Command::Route(args) => route::run(&args),
            Command::Emit(args) => emit::run(args).await,
            Command::Status(args) => status::run(&args).await,
            Command::Tail(args) => tail::run(&args).await,
            Command::DeadLetters(args) => dead_letters::run(&args).await,
            Command::Quarantine(args) => quarantine::run(&args).await,
            Command::Replay(args) => replay::run(&args).await,
            Command::ImportRegistry(args) => import_registry::run(&args),
            Command::Journal(args) => journal::run(&args),
            Command::Completions(args) => completions::run(&args),
        };
        done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
    }
}

/// Reads the configuration, and what is doubtful in it.
fn load_with_warnings(arg: &ConfigArg) -> Result<Loaded, Failure> {
    config::load(&arg.path, &|name| std::env::var(name).ok()).map_err(|problems| {
        Failure::Config(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// Reads the configuration. Warnings are logged.
fn load(arg: &ConfigArg) -> Result<Config, Failure> {
    let loaded = load_with_warnings(arg)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// Why a command failed. Decides what is printed, and the exit code, after BSD's `sysexits.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The configuration is wrong: the text names every mistake.
    Config(String),
    /// No relay answers.
    Unavailable(String),
    /// Whoever read our output has left, as `head` does: no mistake.
    OutputClosed,
    /// Anything else.
    Other(String),
}

impl Failure {
    /// Prints what there is to say, and answers the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            // Mistakes in a configuration come formatted, each with its place.
            Self::Config(text) => eprintln!("{text}"),
            Self::Unavailable(text) | Self::Other(text) => eprintln!("error: {text}"),
            Self::OutputClosed => {}
        }
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Other(_) => 1,
            Self::Unavailable(_) => 69, // EX_UNAVAILABLE
            Self::Config(_) => 78,      // EX_CONFIG
        })
    }
}

/// Of writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Other(format!("cannot write: {error}")),
        }
    }
}
