# Shortcuts for the commands of docs/internals/testing.md. None of them is needed by `.ci/run`.

# List the recipes.
default:
    @just --list

# Everything that a change has to pass.
ci:
    .ci/run

# Formatting and lints of everything, and the API documentation.
check:
    cargo fmt --check
    cargo fmt --check --manifest-path fuzz/Cargo.toml
    cargo fmt --check --manifest-path benches/instructions/Cargo.toml
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# All tests. Needs Go 1.25 or later at the first run, to build ImmuDB.
test *arguments:
    cargo test --locked {{ arguments }}

# The torture test: `just torture --seed 100 --runs 50 --seconds 30`.
torture *arguments:
    cargo test --locked --test torture -- {{ arguments }}

# The clients and the Ruby adapter: `just clients go python`.
clients *languages:
    tests/clients.sh {{ languages }}

# Attacks on the wire: `just hostile --requests 1000000 --connections 10000`.
hostile *arguments:
    cargo test --locked --test hostile -- {{ arguments }}

# The comparison with other event stores. Writes docs/benchmarks.md.
bench *arguments:
    cargo bench --locked --bench compare -- {{ arguments }}

# The protos: style, and whether they fit the clients of the last release. Needs npm.
protos:
    npx --yes --package "@bufbuild/buf@1.75.0" buf lint
    npx --yes --package "@bufbuild/buf@1.75.0" buf breaking --against tests/proto/0.2.0.binpb

# Licences, sources and advisories of dependencies. Needs cargo-deny.
deny:
    cargo deny --locked check advisories bans licenses sources

# The tests of the documentation, and the API documentation.
docs:
    cargo test --locked --test it -- documents
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
