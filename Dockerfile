# syntax=docker/dockerfile:1

# The version is Cargo.toml's rust-version or newer.
FROM rust:1-slim-bookworm AS builder
WORKDIR /src
COPY . .
# The caches outlive this build, so only what has changed is compiled and downloaded again: a change of the program does
# not touch its dependencies, nor does one of Cargo.toml touch all of them. They are no part of the image, which is why
# the program is copied out of there.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin ordering \
 && cp target/release/ordering /usr/local/bin/ordering

FROM debian:bookworm-slim
# For the HTTPS calls of stage handlers: the authorities to trust.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/ordering
COPY --from=builder /usr/local/bin/ordering /usr/local/bin/ordering
# By number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 65532:65532
# What `all` needs to keep its orders across containers: docker run --volume ordering:/var/lib/ordering
ENV ORDERING_DATA_DIR=/var/lib/ordering
# All of the container's addresses. Which of them can be reached from outside is for `docker run --publish` to say.
ENV ORDERING_LISTEN=0.0.0.0:8080
EXPOSE 8080
ENTRYPOINT ["ordering"]
CMD ["all"]
