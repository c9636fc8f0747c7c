#!/usr/bin/env bash
# Brings docker-compose.yml really up, takes its ImmuDB away and gives it back, takes the event
# store's own disk away, and plays the procedures of docs/operations: what was acknowledged is
# there every time.
#
#     tests/docker/compose.sh
#     EVENT_STORE_TEST_BASE_IMAGES=make tests/docker/compose.sh   without an image registry, as root
#     EVENT_STORE_PORT=50052 tests/docker/compose.sh              when 50051 is taken
#
# Needs docker, its compose, and grpcurl. What it makes has names of its own and is removed again;
# base images and Docker's build cache stay.
set -euo pipefail
cd "$(dirname "$0")/../.."

export EVENT_STORE_PORT=${EVENT_STORE_PORT:-50051}
IMMUDB_PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
export IMMUDB_PASSWORD
project=aethyr-compose-test-$$
export EVENT_STORE_IMAGE=$project
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
generation=("${compose[@]}")
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
    "${compose[@]}" down --volumes --timeout 30 >/dev/null 2>&1 || true
    docker rmi "$EVENT_STORE_IMAGE" >/dev/null 2>&1 || true
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
        ((SECONDS < deadline)) || fail "timed out waiting: $what"
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

# in_service ARGUMENTS...: a command in a container of the service, which is stopped.
in_service() {
    "${compose[@]}" run --rm -T --no-deps "$@"
}

# taking_over: starts it once so.
taking_over() {
    EVENT_STORE_COMMAND="serve --take-over" "${compose[@]}" up -d event-store
}

lose_storage() {
    "${compose[@]}" rm -f event-store
    docker volume rm "${project}_event-store-storage" >/dev/null
}

# put_back FILE: the storage as it was when the file was made.
put_back() {
    lose_storage
    in_service --entrypoint tar event-store -xf - <"$1"
}

# same_history WHAT: as it was when it was loaded into "before".
same_history() {
    load "$work/after"
    diff "$work/before" "$work/after" || fail "the history differs: $1"
    pass "$1"
}

refused_with() {
    "${compose[@]}" logs event-store 2>&1 | grep -q "$1"
}

began=$SECONDS
"${compose[@]}" up -d --build
echo "built in $((SECONDS - began)) s"
wait_for 120 "ImmuDB is healthy on a fresh volume" healthy immudb
wait_for 120 "the event store is healthy" healthy event-store
wait_for 60 "it is connected" connected

[[ -z $(docker port "$("${compose[@]}" ps -q immudb)") ]] || fail "ImmuDB is published"
pass "ImmuDB is not published"
[[ $("${compose[@]}" exec -T event-store id -u) == 10001 ]] || fail "not the uid of the image"
pass "the event store is not root"

setup_is_done() {
    [[ $(docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$("${compose[@]}" ps -aq immudb-setup)") == "exited 0" ]]
}
wait_for 60 "the user of the event store is set up" setup_is_done
"${compose[@]}" exec -T event-store sh -c 'env; cat /var/lib/aethyr/secrets/immudb-password' >"$work/known"
! grep -q "$IMMUDB_PASSWORD" "$work/known" || fail "the event store knows the password of the administrator"
mode=$("${compose[@]}" exec -T event-store stat -c '%a %u' /var/lib/aethyr/secrets/immudb-password)
[[ ${mode%$'\r'} == "400 10001" ]] || fail "the password's mode and owner are $mode"
pass "the event store knows only its own password"

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
same_history "the whole history came back out of ImmuDB"

# Killed, and the disk is gone: another service may have the database. No client gets the answer
# that the world is empty.
"${compose[@]}" kill event-store
lose_storage
"${compose[@]}" up -d
wait_for 60 "killed, and without its disk: it is fenced" state_is STATE_FENCED
! call LoadEvents "{\"aggregate_id\": \"$aggregate\"}" >"$work/empty" 2>&1 || fail "an answer: $(cat "$work/empty")"
grep -q EMPTY_LOG "$work/empty" || fail "not EMPTY_LOG: $(cat "$work/empty")"
! "${compose[@]}" exec -T event-store aethyr-event-store health --service reads || fail "it is healthy"
pass "it does not say that the world is empty, and is not healthy"
taking_over
wait_for 60 "it has taken over" connected
same_history "all of the history is back after that"
"${compose[@]}" up -d
wait_for 60 "it goes on without --take-over" connected

# A backup, and what was appended since.
"${compose[@]}" stop event-store
in_service --entrypoint tar event-store -cf - storage >"$work/backup.tar"
"${compose[@]}" up -d
wait_for 60 "it goes on after a backup" connected
number=$((number + 1))
append "$number"
stored_in STORED_IN_IMMUDB
load "$work/before"
"${compose[@]}" stop event-store
put_back "$work/backup.tar"
"${compose[@]}" up -d
wait_for 60 "the backup is put back" connected
same_history "what the backup lacks came back out of ImmuDB"

# The same backup, while ImmuDB is away: the game goes on in another history, which is given up.
"${compose[@]}" stop event-store immudb
put_back "$work/backup.tar"
"${compose[@]}" up -d --no-deps event-store
wait_for 60 "it serves an old backup without ImmuDB" state_is STATE_FALLBACK
other=$number
call AppendEvents "{
    \"events\": [{\"aggregate_id\": \"$aggregate\", \"event_type\": \"QuestLost\", \"json\": \"{}\"}],
    \"expected_sequences\": {\"$aggregate\": $((other - 1))}
}" >"$work/answer"
"${compose[@]}" up -d
wait_for 60 "of two histories none is overwritten" state_is STATE_FENCED
"${compose[@]}" stop event-store
in_service event-store pending list >"$work/pending" 2>"$work/pending.log"
grep -q QuestLost "$work/pending" || fail "not pending: $(cat "$work/pending" "$work/pending.log")"
grep -q "the database continues with different events" "$work/pending" || fail "no advice: $(cat "$work/pending")"
pass "pending list says what only this log has"
in_service event-store resolve --give-up-pending --export storage/rescued >"$work/given-up" 2>&1 \
    || fail "not given up: $(cat "$work/given-up")"
in_service --entrypoint tar event-store -cf - storage/rescued >"$work/rescued.tar"
tar -tf "$work/rescued.tar" | grep -q "$aggregate/$other.event" || fail "not rescued: $(tar -tf "$work/rescued.tar")"
pass "what is given up is there as files"
taking_over
wait_for 60 "it has ImmuDB's history again" connected
same_history "the history is that of before"
"${compose[@]}" up -d

# Another password.
IMMUDB_PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
"${compose[@]}" up -d
wait_for 120 "it is connected with a new password" connected
number=$((number + 1))
append "$number"
stored_in STORED_IN_IMMUDB
load "$work/before"

# A checkout of another name, which has the same .env.
mkdir "$work/renamed"
cp docker-compose.yml "$work/renamed/"
printf 'COMPOSE_PROJECT_NAME=%s\nIMMUDB_PASSWORD=%s\nEVENT_STORE_PORT=%s\n' \
    "$project" "$IMMUDB_PASSWORD" "$EVENT_STORE_PORT" >"$work/renamed/.env"
(cd "$work/renamed" && env -u IMMUDB_PASSWORD -u EVENT_STORE_PORT "${generation[@]}" up -d --no-build)
wait_for 60 "a renamed checkout is connected" connected
same_history "a renamed checkout has the same world"

# Files of another user.
image=$(docker inspect -f '{{.Image}}' "$("${compose[@]}" ps -q event-store)")
owned_by() {
    docker run --rm --user 0 --entrypoint chown -v "${project}_event-store-storage:/storage" "$image" -R "$1" /storage
}
"${compose[@]}" stop event-store
owned_by 0:0
"${compose[@]}" up -d --no-build
wait_for 60 "files of another user are named with the uid that is wanted" refused_with "chown -R 10001:10001"
"${compose[@]}" stop event-store
owned_by 10001:10001
"${compose[@]}" up -d --no-build
wait_for 60 "it goes on with files of its own" connected
same_history "the history is whole"

echo "image: $(($(docker image inspect -f '{{.Size}}' "$image") / 1000000)) MB; $SECONDS s in all"
