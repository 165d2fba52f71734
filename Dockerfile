# docker build -t relay .
#
# BuildKit (the default since Docker 23) keeps cargo's downloads and target/ between builds: the first
# build takes minutes, most of it OpenSSL and librdkafka; after a change in src/ only the relay itself is
# compiled.

FROM rust:1.95-slim-bookworm AS build
# The Kafka client is C and builds its own OpenSSL from source; the rustls back end is C too.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin relay \
    && install -D target/release/relay /out/usr/local/bin/relay
# The final image has no shell, so its folders are made here. A new volume takes the owner over.
RUN install -D --mode=644 relay.yml /out/etc/relay/relay.yml \
    && install -d --owner=65532 --group=65532 /out/var/lib/relay

# glibc, libgcc and the public certificate authorities; no shell, no package manager. The same Debian
# as above, since the binary wants a glibc at least as new.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/usr/local/bin/relay /usr/local/bin/relay
COPY --from=build /out/etc/relay /etc/relay
COPY --from=build --chown=65532:65532 /out/var/lib/relay /var/lib/relay
# By number: Kubernetes' runAsNonRoot cannot tell who a name is.
USER 65532:65532
# Relative paths of the configuration are in here: the journal, dead letters, files of a file sink.
WORKDIR /var/lib/relay
VOLUME /var/lib/relay
ENV RELAY_CONFIG=/etc/relay/relay.yml
EXPOSE 8080 8081
# Whether events are taken. A broker that is down makes nobody unhealthy: its events wait.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["relay", "status", "--ready"]
ENTRYPOINT ["relay"]
