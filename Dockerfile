# One image for receiver, worker and API; the command chooses the part. Build: docker build -t sangloc .
FROM python:3.11.13-slim-bookworm AS build

# The CPU build of torch; empty: PyPI's, with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY pacs pacs
COPY inference inference
COPY models models
COPY api api
COPY storage storage
RUN python -m venv /opt/sangloc \
    && /opt/sangloc/bin/pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt '.[models]'

FROM python:3.11.13-slim-bookworm

RUN useradd --system --uid 10001 --create-home sangloc \
    && mkdir /data \
    && chown sangloc:sangloc /data
COPY --from=build /opt/sangloc /opt/sangloc
ENV PATH=/opt/sangloc/bin:$PATH SANGLOC_DATA=/data SANGLOC_LOG_FORMAT=json MALLOC_ARENA_MAX=2
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 11112 8080
# Everything in one container. Its doors are on loopback: compose.yaml shows how to open them with tokens and peers.
CMD ["sangloc", "up"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["sangloc", "status"]
