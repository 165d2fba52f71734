//! `relay completions`.

use std::io::Write as _;

use clap::CommandFactory as _;

use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay completions bash > /etc/bash_completion.d/relay
  relay completions zsh > \"${fpath[1]}/_relay\"
  relay completions fish > ~/.config/fish/completions/relay.fish")]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // Into memory first: the generator panics when its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "relay", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
