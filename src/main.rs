//! Parses, dispatches, and turns what came of it into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use relay::cli::{Cli, Failure};

/// Events are many small allocations made by one thread and freed by another, which mimalloc does
/// measurably better than glibc (1 to 7 % of the whole, and less memory kept).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything can speak TLS: several crates here would else each look for a default.
    // It fails only when one is installed already, which then is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    // mimalloc asks for huge pages, of which the relay would touch a little of each: 2 MiB of memory
    // for a few kilobytes. A kernel without them refuses, which is as good.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);

    let cli = Cli::parse();
    cli.init_logging();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::Other(format!("cannot start: {error}")).report(),
    };
    runtime.block_on(cli.run())
}
