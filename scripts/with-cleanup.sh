#!/usr/bin/env bash
# Runs a command and, however it ends, ends what it left running and removes its temporary files:
# scripts/with-cleanup.sh cargo test …
#
# The tests' support library writes a file for each process that it starts, below RELAY_TEST_PIDS: named
# after the pid, with the process's start time (field 22 of /proc/PID/stat) in it. Only a process with
# that pid and that start time is killed, with its process group; a recycled pid is left alone.
set -uo pipefail

if [ -n "${RELAY_TEST_PIDS:-}" ]; then exec "$@"; fi   # an outer one does it

run=$(mktemp -d "${TMPDIR:-/tmp}/relay-test-run-XXXXXX")
mkdir "$run/pids" "$run/tmp"
export RELAY_TEST_PIDS=$run/pids
# A killed test does not remove its folders; below this one they go with the run.
if [ -z "${RELAY_TEST_KEEP:-}" ]; then export TMPDIR=$run/tmp; fi
command=

start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # After the command's name, which is in parentheses and may hold spaces.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    echo "${20}"
}

end_leftovers() {
    local file pid left=0
    for file in "$RELAY_TEST_PIDS"/*; do
        [ -f "$file" ] || continue
        pid=${file##*/}
        if [ "$(start_time "$pid")" = "$(cat "$file")" ]; then
            kill -KILL -- "-$pid" 2>/dev/null && left=$((left + 1))
        fi
    done
    [ "$left" = 0 ] || echo "with-cleanup: ended $left processes that the tests had left" >&2
    # A killed process may still be closing its files.
    rm -rf "$run" 2>/dev/null || { sleep 0.2; rm -rf "$run"; }
}

interrupted() { # exit status
    trap '' INT TERM HUP
    if [ -n "$command" ]; then
        # The command leads a process group of its own (set -m): cargo and the test binary go together.
        kill -TERM -- "-$command" 2>/dev/null
        wait "$command" 2>/dev/null
    fi
    exit "$1"
}

trap end_leftovers EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

# In the background, since a shell handles a signal only once its foreground command has ended.
set -m
"$@" &
command=$!
wait "$command"
status=$?
command=
exit "$status"
