# syntax=docker/dockerfile:1
# Three targets: `serve` (default) answers requests, `train` has the frameworks as well, and
# `pgbouncer` stands between many workers and one Postgres.

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/vestiary
RUN useradd --uid 1000 --create-home --home-dir /var/lib/vestiary vestiary
COPY pyproject.toml constraints.txt README.md LICENSE alembic.ini ./
COPY vision vision
COPY training training
COPY detection detection
COPY classification classification
COPY style_maskrcnn style_maskrcnn
COPY services services
COPY configs configs
COPY migrations migrations

FROM base AS train
# git fetches Detectron2, g++ builds it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git g++ \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --constraint constraints.txt --editable '.[train]' \
    && pip install 'setuptools<81' wheel \
    && pip install --no-build-isolation --editable '.[detectron2]'
COPY weights weights
USER vestiary
ENTRYPOINT ["python", "-m"]
CMD ["detection", "--help"]

FROM debian:trixie-slim AS pgbouncer
RUN apt-get update \
    && apt-get install --yes --no-install-recommends pgbouncer \
    && rm -rf /var/lib/apt/lists/* /etc/pgbouncer/*
COPY deploy/pgbouncer/pgbouncer.ini /etc/pgbouncer/pgbouncer.ini
USER 65534:65534
EXPOSE 6432
ENTRYPOINT ["pgbouncer", "/etc/pgbouncer/pgbouncer.ini"]

FROM base AS serve
RUN pip install --constraint constraints.txt --editable .
COPY weights weights
COPY samples samples
USER vestiary
ENV VESTIARY_HOST=0.0.0.0 VESTIARY_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import requests; requests.get('http://127.0.0.1:8000/ready', timeout=4).raise_for_status()"]
ENTRYPOINT ["vestiary"]
CMD ["serve"]
