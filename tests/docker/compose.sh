#!/usr/bin/env bash
# Brings docker-compose.yml really up, takes its ImmuDB away and gives it back, and at last takes
# the event store's own disk away: what was acknowledged is there every time.
#
#     tests/docker/compose.sh
#     EVENT_STORE_TEST_BASE_IMAGES=make tests/docker/compose.sh     without an image registry, as root
#     EVENT_STORE_PORT=50052 tests/docker/compose.sh                when 50051 is taken
#
# Needs docker, its compose, and grpcurl. What it makes has names of its own and is removed again;
# base images and Docker's build cache stay.
set -euo pipefail
cd "$(dirname "$0")/../.."

export EVENT_STORE_PORT=${EVENT_STORE_PORT:-50051}
IMMUDB_PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
export IMMUDB_PASSWORD
project=aethyr-compose-test-$$
aggregate=room-1
passed=0
work=$(mktemp -d)

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    echo "FAIL: neither docker compose nor docker-compose is here" >&2
    exit 1
fi
command -v grpcurl >/dev/null || { echo "FAIL: grpcurl is not here" >&2; exit 1; }
compose+=(--project-directory "$PWD" -p "$project" -f docker-compose.yml)
if [[ ${EVENT_STORE_TEST_BASE_IMAGES:-} == make ]]; then
    tests/docker/base-images.sh
    # Crates are fetched while the image is built; where there is no registry for images, only
    # this machine's own network may lead to one for crates.
    cat >"$work/network.yml" <<'YAML'
services:
  event-store:
    build:
      context: .
      network: host
      args: [HTTP_PROXY, HTTPS_PROXY, NO_PROXY]
YAML
    compose+=(-f "$work/network.yml")
fi

clean_up() {
    local status=$?
    trap - EXIT
    if ((status != 0)); then
        "${compose[@]}" ps >&2 || true
        "${compose[@]}" logs --tail 60 >&2 || true
        echo "FAIL: see above" >&2
    fi
    "${compose[@]}" down --volumes --rmi local --timeout 30 >/dev/null 2>&1 || true
    rm -rf "$work"
    echo "$passed passed, $((status != 0)) failed"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

pass() {
    passed=$((passed + 1))
    echo "PASS: $*"
}

fail() {
    echo "FAIL: $*" >&2
    exit 1
}

# call METHOD JSON: the answer as JSON, fields with their default value included.
call() {
    grpcurl -plaintext -emit-defaults -max-time 30 -d "$2" "127.0.0.1:$EVENT_STORE_PORT" \
        "aethyr.eventstore.v1.EventStoreService/$1"
}

# has NAME VALUE: what is read has this field, whether a string, a number, an enum or a boolean.
has() {
    grep -Eq "\"$1\": \"?$2\"?,?\$"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "waited in vain: $what"
        sleep 0.5
    done
    pass "$what"
}

healthy() {
    local id
    id=$("${compose[@]}" ps -q "$1")
    [[ -n $id && $(docker inspect -f '{{.State.Health.Status}}' "$id") == healthy ]]
}

state_is() {
    call Stats '{}' >"$work/stats" 2>/dev/null && has state "$1" <"$work/stats"
}

connected() {
    state_is STATE_CONNECTED && has pendingEvents 0 <"$work/stats"
}

# append NUMBER: event NUMBER of the aggregate, under an id that is the same in every try.
append() {
    call AppendEvents "{
        \"events\": [{
            \"event_id\": \"00000000-0000-4000-8000-$(printf '%012d' "$1")\",
            \"aggregate_id\": \"$aggregate\",
            \"aggregate_type\": \"Quest\",
            \"event_type\": \"QuestAdvanced\",
            \"json\": \"{\\\"number\\\":$1}\"
        }],
        \"expected_sequences\": {\"$aggregate\": $(($1 - 1))}
    }" >"$work/answer"
}

stored_in() {
    has storedIn "$1" <"$work/answer" || fail "not $1: $(cat "$work/answer")"
}

# load FILE: the aggregate's whole history.
load() {
    call LoadEvents "{\"aggregate_id\": \"$aggregate\"}" >"$1"
}

"${compose[@]}" up -d --build
wait_for 120 "ImmuDB is healthy on a fresh volume" healthy immudb
wait_for 120 "the event store is healthy" healthy event-store
wait_for 60 "it is connected" connected

[[ -z $(docker port "$("${compose[@]}" ps -q immudb)") ]] || fail "ImmuDB is published"
pass "ImmuDB is not published"
[[ $("${compose[@]}" exec -T event-store id -u) == 10001 ]] || fail "not the uid of the image"
pass "the event store is not root"

append 1
stored_in STORED_IN_IMMUDB
has immudbTx '[1-9][0-9]*' <"$work/answer" || fail "no transaction: $(cat "$work/answer")"
pass "an event went into ImmuDB"

number=1
for way in stop kill; do
    number=$((number + 1))
    "${compose[@]}" "$way" immudb
    append "$number" || fail "an append failed in the outage after $way"
    stored_in STORED_IN_LOCAL_LOG
    pass "after $way: an event is taken in the outage"

    wait_for 30 "after $way: Stats says fallback" state_is STATE_FALLBACK
    has pendingEvents 1 <"$work/stats" || fail "not one event pending: $(cat "$work/stats")"
    load "$work/outage"
    has lastSequence "$number" <"$work/outage" || fail "the history is not whole in the outage"
    "${compose[@]}" exec -T event-store aethyr-event-store health || fail "not healthy in the outage"
    pass "after $way: the history is whole, the service healthy"

    "${compose[@]}" start immudb
    wait_for 60 "after $way: ImmuDB has everything again" connected

    append "$number"
    stored_in STORED_IN_IMMUDB
    has alreadyStored true <"$work/answer" || fail "stored twice: $(cat "$work/answer")"
    pass "after $way: sent again, the event is in ImmuDB, and once"
done

# The event store's disk goes; whatever comes back, comes out of ImmuDB. Records, numbers, times
# and hashes must be the same.
load "$work/before"
"${compose[@]}" stop event-store
"${compose[@]}" rm -f event-store
docker volume rm "${project}_event-store-storage" >/dev/null
"${compose[@]}" up -d
wait_for 60 "the event store is connected after the loss of its disk" connected
load "$work/after"
has lastSequence "$number" <"$work/after" || fail "events are missing: $(cat "$work/after")"
diff "$work/before" "$work/after" || fail "the history out of ImmuDB differs"
pass "the whole history came back out of ImmuDB"
