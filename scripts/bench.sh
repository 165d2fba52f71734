#!/usr/bin/env bash
# Measures the relay: scripts/bench.sh [NAME…] runs the lines whose names contain one of the words, or,
# without any, the parts (criterion) and then every line; it prints one table. docs/performance.md says
# what is measured and how. `scripts/bench.sh --list` names the lines.
#
#   BENCH_QUICK=1             a twentieth of the work
#   BENCH_ROUNDS=N            how often each line measures its two in turn
#   BENCH_PARTS=0             leaves the parts out
#   BENCH_KEEP=1              puts table and drawings into docs/
#   RELAY_BENCH_NOTIFIER=PATH a registry's own delivery code, built; without it that line is left out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=target/bench
PEER_VERSION=1.2.0

# On the disk that the repository is on: /tmp may be memory, where an fdatasync costs nothing.
if [ -z "${RELAY_BENCH_FOLDER:-}" ]; then
    mkdir -p "$OUT"
    RELAY_BENCH_FOLDER=$(mktemp -d "$PWD/$OUT/run-XXXXXX")
    export RELAY_BENCH_FOLDER TMPDIR=$RELAY_BENCH_FOLDER
    trap 'rm -rf "$RELAY_BENCH_FOLDER"' EXIT
    RELAY_TEST_PIDS='' scripts/with-cleanup.sh "$0" "$@"
    exit
fi

# The peer's wheel in an environment of its own; where PyPI is out of reach its lines are left out.
install_peer() {
    local venv=$OUT/peer
    if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv" || return 1; fi
    "$venv/bin/python" -m pip -q install "mq-bridge==$PEER_VERSION" || return 1
    export RELAY_BENCH_PEER_PYTHON=$PWD/$venv/bin/python
}

machine() {
    local model
    model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    printf '%s, %s cores (%s), %s, Linux %s, %s, commit %s\n' "$(date -u +%F)" "$(nproc)" "$model" \
        "$(df --output=fstype . | tail -n 1)" "$(uname -r | cut -d- -f1)" "$(rustc --version | cut -d' ' -f1,2)" \
        "$(git rev-parse --short HEAD)"
}

# Replaces what stands in docs/performance.md between the two marks.
keep() {
    local doc=docs/performance.md
    {
        sed '/<!-- bench: begin -->/q' "$doc"
        cat "$OUT/table.md"
        sed -n '/<!-- bench: end -->/,$p' "$doc"
    } >"$doc.new"
    mv "$doc.new" "$doc"
    mkdir -p docs/plots
    cp "$OUT"/plots/*.svg docs/plots/
}

scripts/setup.sh >&2
install_peer >&2 || echo "bench: no mq-bridge" >&2
if [ $# = 0 ] && [ "${BENCH_PARTS:-1}" = 1 ]; then cargo bench --bench parts -- --noplot >&2; fi
{
    machine
    echo
    cargo bench --bench whole -- "$@"
} | tee "$OUT/table.md"
if [ "${BENCH_KEEP:-0}" = 1 ]; then keep; fi
