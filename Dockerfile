# Both base images can be replaced: --build-arg BUILD_IMAGE=..., --build-arg RUNTIME_IMAGE=...
ARG BUILD_IMAGE=rust:1-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# No cache mounts, so that the classic builder can build it too, not only BuildKit.
FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
# Without symbols it is a third smaller; a panic still says its file and line.
RUN CARGO_PROFILE_DIST_STRIP=symbols cargo build --profile dist --locked --bin aethyr-event-store

FROM ${RUNTIME_IMAGE}

# The uid is fixed, so that a folder of the host that is mounted can be given to it.
RUN groupadd --gid 10001 aethyr \
    && useradd --uid 10001 --gid aethyr --no-create-home --home-dir /var/lib/aethyr \
        --shell /usr/sbin/nologin aethyr \
    && install -d /var/lib/aethyr \
    && install -d -o aethyr -g aethyr -m 0750 /var/lib/aethyr/storage /var/lib/aethyr/logs \
    && install -d -o aethyr -g aethyr -m 0700 /var/lib/aethyr/secrets

# The configuration lies where the program looks by itself, beside the volumes and not in one: a
# new image brings its own, and every subcommand run in the container sees the same.
WORKDIR /var/lib/aethyr
COPY conf/server.yml conf/server.yml
COPY --from=build /src/target/dist/aethyr-event-store /usr/local/bin/aethyr-event-store

# Loopback inside a container is out of reach from outside it. With this address the service does
# not start before AETHYR_ACCESS__FILE or AETHYR_ACCESS__ANONYMOUS says who may call it.
ENV AETHYR_SERVER__LISTEN=0.0.0.0:50051
EXPOSE 50051

# Acknowledged events belong on a volume even where nobody named one. A fresh volume takes the
# folder's owner from the image.
VOLUME ["/var/lib/aethyr/storage", "/var/lib/aethyr/logs"]
USER 10001:10001

STOPSIGNAL SIGTERM
# Whether it serves reads: what else is wrong, a restart does not mend.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/aethyr-event-store", "health", "--service", "reads"]
ENTRYPOINT ["/usr/local/bin/aethyr-event-store"]
