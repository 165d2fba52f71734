#!/usr/bin/env bash
# Brings docker-compose.yml up as a user would, pushes an image into its registry, and reads the event of
# that push back out of Kafka, RabbitMQ and NATS JetStream, each asked with what the broker itself
# offers. docs/compose.md says what is checked. Exit 0 only when all of it is so.
#
# Needs an engine on this machine, Docker Compose v2, curl and jq. Touches nothing of a stack that is
# already up: it has a project, volumes and free ports of its own, and removes them at its end.
#
#   COMPOSE_FILE     laid over or instead of docker-compose.yml, as Compose understands it
#   RELAY_TEST_KEEP  leaves everything up, to look at
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UP_SECONDS=300        # for the health of all services, once they are built
ARRIVE_SECONDS=180    # for the event in each broker, once the push is done

export COMPOSE_PROJECT_NAME=relay-test-$$
# 0 is a free port of the engine's choice.
export REGISTRY_PORT=0 RELAY_PORT=0 RELAY_ADMIN_PORT=0 KAFKA_PORT=0 RABBITMQ_PORT=0
export RABBITMQ_MANAGEMENT_PORT=0 NATS_PORT=0 NATS_MONITOR_PORT=0
# What RabbitMQ's management is asked with; docker-compose.yml has it.
rabbitmq_login=relay:compose-example-password

say() { printf 'test-compose: %s\n' "$*"; }
die() { printf 'test-compose: %s\n' "$*" >&2; exit 1; }

pushed=
finish() {
    local status=$?
    trap - EXIT
    if [ "$status" != 0 ]; then
        docker compose ps --all >&2 || true
        docker compose logs --no-color --tail 30 >&2 || true
    fi
    if [ -n "${RELAY_TEST_KEEP:-}" ]; then
        say "kept: COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME docker compose ps"
        exit "$status"
    fi
    docker compose down --volumes --timeout 30 >/dev/null 2>&1 || true
    [ -z "$pushed" ] || docker image rm "$pushed" >/dev/null 2>&1 || true
    exit "$status"
}

# published SERVICE PORT : the address on this machine behind which that port is.
published() { docker compose port "$1" "$2"; }

# From here on, each reads all events of a topic that a broker has, as JSON one after the other. The
# bytes between them do not matter: an event has line breaks of its own.

read_kafka() { # topic
    docker compose exec -T kafka /opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:19092 \
        --topic "$1" --from-beginning --timeout-ms 15000 </dev/null 2>/dev/null || true
}

# The management's API; the messages go back into the queue.
read_rabbitmq() { # routing key
    local ask='{"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto"}'
    curl --silent --fail --user "$rabbitmq_login" --json "$ask" \
        "http://$(published rabbitmq 15672)/api/queues/%2F/registry-events/get" \
        | jq --raw-output --arg key "$1" '.[] | select(.routing_key == $key) | .payload' || true
}

# JetStream's own API (ADR-31, `$JS.API.STREAM.MSG.GET`) over NATS' protocol, which is lines of text:
# the image has no client in it. Asks for message after message until there is none.
read_nats() { # subject
    local address sequence=1 answer
    address=$(published nats 4222)
    # shellcheck disable=SC2016  # the $ is part of the subject
    while answer=$(nats_request "$address" '$JS.API.STREAM.MSG.GET.REGISTRY' \
        "{\"seq\": $sequence, \"next_by_subj\": \"$1\"}") && jq --exit-status .message <<<"$answer" >/dev/null; do
        jq --raw-output .message.data <<<"$answer" | base64 --decode
        sequence=$(($(jq .message.seq <<<"$answer") + 1))
    done
}

# The answer to one request. The server sends INFO, then `MSG subject sid size` before the answer.
nats_request() { # host:port, subject, body
    local line
    exec {nats}<>"/dev/tcp/${1%:*}/${1##*:}" || return 1
    printf 'CONNECT {"verbose":false}\r\nSUB _INBOX.compose 1\r\nPUB %s _INBOX.compose %d\r\n%s\r\n' \
        "$2" "${#3}" "$3" >&"$nats"
    while IFS= read -r -t 10 -u "$nats" line; do
        case $line in MSG*) IFS= read -r -t 10 -u "$nats" line && printf '%s\n' "${line%$'\r'}"; break ;; esac
    done
    exec {nats}>&-
}

# The push of a manifest with that digest, its keys sorted, so that three brokers' can be compared.
find_push() { jq --compact-output --sort-keys --arg digest "$1" 'select(.target.digest == $digest)'; }

# await_push BROKER DIGEST : reads again until the event is there; prints it. A copy would be allowed
# (delivery is at least once), a second event would not.
await_push() {
    local event deadline=$((SECONDS + ARRIVE_SECONDS))
    until event=$("read_$1" registry.push | find_push "$2" | sort -u) && [ -n "$event" ]; do
        [ $SECONDS -lt $deadline ] || die "no push of $2 in $1 within $ARRIVE_SECONDS seconds"
        sleep 1
    done
    [ "$(wc -l <<<"$event")" = 1 ] || die "$1 has more than one push of $2: $event"
    printf '%s\n' "$event"
}

check_image() {
    local user
    user=$(docker image inspect --format '{{.Config.User}}' relay:local)
    case $user in '' | 0 | 0:* | root*) die "the image runs as root" ;; esac
    say "relay:local is $(($(docker image inspect --format '{{.Size}}' relay:local) / 1000000)) MB, runs as $user"
}

check_loopback() {
    local published
    published=$(docker compose ps --format json | jq --raw-output --slurp \
        'flatten[].Publishers[]? | select(.PublishedPort != 0) | .URL' | sort -u)
    [ "$published" = 127.0.0.1 ] || die "something is published beyond the loopback: $published"
}

check_stop() {
    docker compose stop relay >/dev/null 2>&1
    local status
    status=$(docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps --all --quiet relay)")
    [ "$status" = 0 ] || die "docker compose stop: the relay ended with $status"
}

for tool in docker curl jq base64; do
    command -v "$tool" >/dev/null || die "$tool is missing"
done
docker compose version || die "Docker Compose v2 is missing"
trap finish EXIT

say "building"
docker compose build
say "starting"
docker compose up --detach --wait --wait-timeout "$UP_SECONDS"
check_image
check_loopback
curl --silent --fail --show-error "http://$(published relay 8081)/readyz" >/dev/null

# Any image will do; this one is there.
pushed=localhost:$(published registry 5000 | sed 's/.*://')/team/app:1.0
docker tag relay:local "$pushed"
digest=$(docker push "$pushed" | sed -n 's/.* digest: \(sha256:[0-9a-f]*\) .*/\1/p')
[ -n "$digest" ] || die "docker push named no digest"
say "pushed team/app:1.0, $digest"

events=()
for broker in kafka rabbitmq nats; do
    event=$(await_push "$broker" "$digest")
    events+=("$event")
    say "$broker has it: $(jq --compact-output '{id, action, repository: .target.repository, tag: .target.tag}' <<<"$event")"
done
[ "$(printf '%s\n' "${events[@]}" | sort -u | wc -l)" = 1 ] || die "the three events differ"
[ "$(jq --raw-output '.target | "\(.repository):\(.tag)"' <<<"${events[0]}")" = team/app:1.0 ] \
    || die "another image's event: ${events[0]}"

check_stop
say "passed: the same event in Kafka, RabbitMQ and JetStream, and a clean stop"
