#!/usr/bin/env bash
# Makes the images that Dockerfile and docker-compose.yml start from, where no image registry can
# be reached: Debian with debootstrap, Rust from this machine's toolchain, ImmuDB out of the Go
# module in tests/immudb. Images that are there already, such as the real ones, are left alone.
#
# Needs root on Debian or a relative of it, docker, debootstrap, cargo from rustup, and Go.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Dockerfile and docker-compose.yml say what is wanted; nothing is repeated here.
runtime=$(sed -n 's/^ARG RUNTIME_IMAGE=//p' Dockerfile)
build=$(sed -n 's/^ARG BUILD_IMAGE=//p' Dockerfile)
immudb=$(sed -n 's/^ *image: *\(codenotary\/immudb:.*\)$/\1/p' docker-compose.yml)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

missing() {
    ! docker image inspect "$1" >/dev/null 2>&1
}

# A tar of folder $1 as image $2; what follows goes to docker import.
import() {
    local folder=$1 image=$2
    shift 2
    tar --numeric-owner -C "$folder" -c . | docker import "$@" - "$image" >/dev/null
    echo "made $image"
}

make_debian() {
    local release mirror
    release=${runtime#debian:}
    release=${release%-slim}
    # The mirror that this machine's own apt uses; where it uses none of Debian's, debootstrap's.
    # shellcheck disable=SC2016 # It is apt that fills this in.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' "Codename: $release" 'Component: main' | sed -n 1p)
    debootstrap --variant=minbase "$release" "$work/debian" ${mirror:+"$mirror"} >"$work/log" 2>&1 \
        || { tail -n 20 "$work/log" >&2; return 1; }
    rm -rf "$work/debian/var/cache/apt/archives" "$work"/debian/var/lib/apt/lists/*
    if missing "$runtime"; then
        import "$work/debian" "$runtime" --change 'CMD ["bash"]'
    fi
}

make_rust() {
    local tree=$work/debian sysroot
    sysroot=$(rustc --print sysroot)
    if [[ $sysroot == /usr || ! -x $sysroot/bin/cargo ]]; then
        echo "the Rust toolchain in $sysroot is not one of rustup's and can't be copied alone" >&2
        return 1
    fi
    mkdir -p "$tree/var/cache/apt/archives/partial"
    chroot "$tree" sh -c 'apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy \
        install --no-install-recommends gcc make libc6-dev ca-certificates && apt-get clean' \
        >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; return 1; }
    # Crates come over this machine's network, so its certificates and its cargo settings count.
    cp --dereference "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" \
        "$tree/etc/ssl/certs/ca-certificates.crt"
    install -d "$tree/usr/local/cargo"
    if [[ -f ${CARGO_HOME:-$HOME/.cargo}/config.toml ]]; then
        cp --dereference "${CARGO_HOME:-$HOME/.cargo}/config.toml" "$tree/usr/local/cargo/"
    fi
    cp "$sysroot/bin/cargo" "$sysroot/bin/rustc" "$tree/usr/local/bin/"
    cp -r "$sysroot/lib/." "$tree/usr/local/lib/"
    import "$tree" "$build" --change 'ENV CARGO_HOME=/usr/local/cargo' --change 'CMD ["bash"]'
}

# As the published image: no shell, uid 3322, and the data folder empty and owned by that uid.
make_immudb() {
    local tree=$work/immudb package=github.com/codenotary/immudb
    if ! grep -q "$package v${immudb##*:}$" tests/immudb/go.mod; then
        echo "tests/immudb/go.mod has another version than docker-compose.yml: $immudb" >&2
        return 1
    fi
    # A copy, since the sums of what only immuadmin needs may have to be added.
    cp -r tests/immudb "$work/module"
    install -d "$tree/usr/sbin" "$tree/usr/local/bin" "$tree/etc/ssl/certs"
    (
        cd "$work/module"
        export CGO_ENABLED=0
        go build -mod=mod -buildvcs=false -trimpath -o "$tree/usr/sbin/" "$package/cmd/immudb"
        go build -mod=mod -buildvcs=false -trimpath -o "$tree/usr/local/bin/" "$package/cmd/immuadmin"
    )
    install -d -o 3322 -g 3322 "$tree/var/lib/immudb" "$tree/usr/share/immudb" "$tree/tmp"
    import "$tree" "$immudb" \
        --change 'ENV IMMUDB_HOME=/usr/share/immudb HOME=/usr/share/immudb USER=immu' \
        --change 'ENV IMMUDB_DIR=/var/lib/immudb IMMUDB_ADDRESS=0.0.0.0 IMMUDB_PORT=3322' \
        --change 'ENV IMMUDB_DEVMODE=true IMMUDB_AUTH=true IMMUDB_ADMIN_PASSWORD=immudb' \
        --change 'ENV IMMUADMIN_TOKENFILE=/var/lib/immudb/admin_token' \
        --change 'EXPOSE 3322 9497 8080 5432' \
        --change 'USER 3322:3322' \
        --change 'ENTRYPOINT ["/usr/sbin/immudb"]'
}

if missing "$runtime" || missing "$build"; then
    make_debian
fi
if missing "$build"; then
    make_rust
fi
if missing "$immudb"; then
    make_immudb
fi
