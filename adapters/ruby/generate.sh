#!/bin/sh
# Owns the generated stubs in lib/aethyr/eventstore and lib/aethyr/world: makes them anew from proto/aethyr.
# PROTOC: protoc 26 or later, whose Ruby code runs on protobuf 3.21 and on 4 (the DSL of older ones was removed in 4).
# GRPC_PLUGIN: grpc_ruby_plugin (Debian: protobuf-compiler-grpc; RubyGems: in grpc-tools).
set -eu
cd "$(dirname "$0")"
protos=../../proto
plugin=${GRPC_PLUGIN:-$(command -v grpc_ruby_plugin)}
rm -rf lib/aethyr/eventstore lib/aethyr/world
"${PROTOC:-protoc}" -I "$protos" --ruby_out=lib --grpc_out=lib --plugin=protoc-gen-grpc="$plugin" \
    "$protos"/aethyr/eventstore/v1/*.proto "$protos"/aethyr/world/v1/*.proto
if grep -rql 'pool.build do' lib/aethyr/eventstore lib/aethyr/world; then
    echo "this protoc is too old: its code does not run on protobuf 4" >&2
    exit 1
fi
