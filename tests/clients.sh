#!/usr/bin/env bash
# Tests the clients and the Ruby adapter with the real service and the real ImmuDB: the conformance
# suite, and the tests of each client, which play its README and its example.
#
#     tests/clients.sh [python] [go] [typescript] [ruby]
#
# The program is the one that `cargo test` has built. Without arguments, all languages are tested,
# one beside the other. A language whose tools are missing is skipped, and the output says so.
# Tools and libraries come from the registries of the languages, and Ruby's from Debian (installed
# as root if `CI` is set). All of it is done in a copy of the sources below `target/clients`, so
# that nothing of it lies in the work tree.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
work=$target/clients
rm -rf "$work/source"
mkdir -p "$work/source"
tar --exclude=node_modules --exclude=dist -cf - clients adapters proto | tar -xf - -C "$work/source"

service=$target/debug/aethyr-event-store
if ! [ -x "$service" ]; then
    cargo build --locked --bin aethyr-event-store
fi
export AETHYR_EVENT_STORE=$service

# The server that the tests of the service use, built by the first that needs it.
immudb_version=1.11.1
immudb=$target/immudb-$immudb_version/immudb
if ! [ -x "$immudb" ]; then
    if command -v go >/dev/null; then
        mkdir -p "${immudb%/*}"
        (cd tests/immudb && go build -buildvcs=false -o "$immudb.unfinished" github.com/codenotary/immudb/cmd/immudb)
        mv "$immudb.unfinished" "$immudb"
    else
        immudb=
    fi
fi

# Plays the conformance suite with a runner.
conform() {
    local with=()
    if [ -n "$immudb" ]; then
        with=(--immudb "$immudb")
    fi
    python3 "$work/source/clients/conformance/harness.py" --service "$service" "${with[@]}" -- "$@"
}

# A language is skipped with the reason.
skip() {
    echo "skipped: $1"
    exit 77
}

python() {
    local venv=$work/python
    if ! [ -x "$venv/bin/python" ]; then
        python3 -m venv "$venv" || skip "python3 has no venv (Debian: python3-venv)"
    fi
    cd "$work/source/clients/python"
    "$venv/bin/pip" install --quiet --disable-pip-version-check .
    conform "$venv/bin/python" conformance.py
    conform "$venv/bin/python" conformance.py --asyncio
    "$venv/bin/python" -m unittest discover -s tests
}

go() {
    command -v go >/dev/null || skip "go is not installed"
    cd "$work/source/clients/go"
    command go vet ./...
    command go test ./...
    command go build -buildvcs=false -o "$work/go-conformance" ./conformance
    conform "$work/go-conformance"
}

typescript() {
    command -v npm >/dev/null || skip "npm is not installed"
    cd "$work/source/clients/typescript"
    npm ci --silent --no-audit --no-fund --ignore-scripts
    npm test --silent
    conform node dist/conformance/main.js
}

ruby() {
    if ! command ruby -e 'require "grpc"' 2>/dev/null; then
        if [ -n "${CI:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get -qq update && apt-get -qq install -y ruby ruby-grpc >/dev/null
        fi
        command ruby -e 'require "grpc"' 2>/dev/null || skip "ruby with grpc is not installed (Debian: ruby-grpc)"
    fi
    cd "$work/source/adapters/ruby"
    conform ruby conformance.rb
    command ruby -Ilib test/run.rb
}

command -v python3 >/dev/null || { echo "the conformance suite needs python3: no client was tested"; exit 0; }
languages=("$@")
if [ $# = 0 ]; then
    languages=(python go typescript ruby)
fi
declare -A running
for language in "${languages[@]}"; do
    ("$language") >"$work/$language.txt" 2>&1 &
    running[$language]=$!
done
failed=0
for language in "${languages[@]}"; do
    status=0
    wait "${running[$language]}" || status=$?
    case $status in
        0) echo "$language: passed" ;;
        77) echo "$language: NOT TESTED" ;;
        *) echo "$language: FAILED" && failed=1 ;;
    esac
    if [ "$status" = 0 ]; then
        grep -E "^[0-9]+ cases|^skipped|^Ran |^OK|^ok  |^# (tests|pass|fail) |runs,|tests," "$work/$language.txt" | sed "s/^/    /" || true
    else
        sed 's/^/    /' "$work/$language.txt"
    fi
done
exit $failed
