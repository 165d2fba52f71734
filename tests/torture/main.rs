//! The torture bench: a load through the real relay into real brokers, while everything around it is
//! broken at random from a seed, and five properties that must hold all the same.
//!
//! In the order in which a run goes: `settings`, `plan` (which faults, when), `load` and `event` (who
//! sends what), `run` (round after round), `strike`, `shim` and `damage` (carrying a fault out),
//! `collect` and `oracle` (what came of it), `rates`, `report`. `selftest` tests the bench itself. docs/reliability.md says how to run it, and
//! what it has found.

#[path = "../support/mod.rs"]
mod support;

mod collect;
mod damage;
mod event;
mod load;
mod oracle;
mod plan;
mod rates;
mod report;
mod run;
mod selftest;
mod settings;
mod shim;
mod strike;

use std::{process::ExitCode, time::Duration};

use settings::Settings;
use support::{suite::Suite, trio::Trio};

/// The short run's; a long one takes as long as it takes.
const SHORT_BOUND: Duration = Duration::from_secs(400);
const LONG_BOUND: Duration = Duration::from_secs(24 * 3600);

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.test("a_line_is_the_event_without_white_space", async || {
        selftest::a_line_is_the_event_without_white_space();
    });
    suite.test("the_oracle_tells_each_violation", async || selftest::the_oracle_tells_each_violation());
    suite.test("a_plan_follows_from_its_seed", async || selftest::a_plan_follows_from_its_seed());
    let trio = Trio::shared();
    let settings = Settings::from_environment();
    let bound = if settings.long { LONG_BOUND } else { SHORT_BOUND };
    suite.test_within(bound, "five_properties_hold_whatever_breaks", async move || {
        println!("seed {}: {}", settings.seed, settings.command());
        let bench = run::Bench::start(settings, trio.get().await).await;
        let report = bench.run().await;
        println!("{}", report.text());
        assert!(report.is_good(), "a property does not hold");
    });
    suite.run()
}
