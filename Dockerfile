# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY protocol protocol
COPY redis-link redis-link
COPY client client
COPY ops ops
COPY gateway gateway
COPY loadtest loadtest
# The cache mounts are not part of the image, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p earshot-gateway \
    && install -D target/release/earshot /out/earshot

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/earshot /usr/local/bin/earshot
RUN useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin earshot \
    && mkdir /etc/earshot
WORKDIR /etc/earshot
USER 65532:65532
# Loopback addresses of a container are not reachable from outside it.
ENV EARSHOT_LISTEN=0.0.0.0:8000
EXPOSE 8000
STOPSIGNAL SIGTERM
# Requests /health with the sockets of bash, so that the image needs neither curl nor wget.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 2 line <&3 && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["earshot"]
CMD ["serve"]
