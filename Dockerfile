# One file, two images.
#
#   docker build -t pageswarm .                      compiles in the builder stage
#   docker build -t pageswarm --target runtime .     takes target/release/pageswarm as it is (seconds)
#
# The stage that takes a prebuilt binary comes before the builder, so that a builder without BuildKit, which runs
# every stage up to the target, needs neither a Rust image nor a network for it.

ARG BUILDER_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# What both images share. Any uid of group 0 may write the node's directory, so the image runs as an ordinary user,
# as root without capabilities, and under platforms that choose the uid themselves.
FROM ${RUNTIME_IMAGE} AS base
RUN install -d -o 10001 -g 0 -m 0770 /var/lib/pageswarm
COPY deploy/compose/publisher.sh deploy/compose/node.sh /usr/local/lib/pageswarm/
ENV PAGESWARM_DIR=/var/lib/pageswarm
VOLUME /var/lib/pageswarm
# Data plane, gossip, and what --http is given.
EXPOSE 7420/udp 7421/tcp 7422/tcp
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=5 \
    CMD ["pageswarm", "status", "--json"]
STOPSIGNAL SIGTERM
USER 10001:0
ENTRYPOINT ["pageswarm"]
CMD ["node", "run"]

# The image around a binary that was built outside. BINARY is its path in the build context; it must have been linked
# against a C library no newer than that of RUNTIME_IMAGE.
FROM base AS runtime
ARG BINARY=target/release/pageswarm
COPY ${BINARY} /usr/local/bin/pageswarm

FROM ${BUILDER_IMAGE} AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libclang-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package pageswarm-node --bin pageswarm \
    && strip --strip-debug target/release/pageswarm

# The default: everything from source.
FROM base AS complete
COPY --from=builder /source/target/release/pageswarm /usr/local/bin/pageswarm
