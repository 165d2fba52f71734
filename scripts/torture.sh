#!/usr/bin/env bash
# The torture bench at length: make torture [TORTURE_SEED=N] [TORTURE_EVENTS=N] [TORTURE_FAULTS=N]
#
# Runs until there were so many events and so many faults, and prints a report of five properties; it ends
# with an error if one does not hold. docs/reliability.md says more. `cargo test --test torture` is the
# short run.
set -euo pipefail
cd "$(dirname "$0")/.."

export TORTURE_EVENTS=${TORTURE_EVENTS:-1000000}
export TORTURE_FAULTS=${TORTURE_FAULTS:-200}
# Another one each time; the report names it, so that the run can be made again.
export TORTURE_SEED=${TORTURE_SEED:-$(date +%s)}

scripts/setup.sh
# What is shipped is what is tortured.
if [ -z "${RELAY_TEST_RELAY:-}" ]; then
    cargo build --release --bin relay
    export RELAY_TEST_RELAY=$PWD/target/release/relay
fi
exec scripts/with-cleanup.sh cargo test --test torture -- --nocapture
