"""Every setting of the service, read from the environment once and passed in.

Variables are called `VESTIARY_` plus the field's name in capitals; lists are comma-separated.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vision.bundle import WEIGHTS_DIR

Network = IPv4Network | IPv6Network
Stages = ("detect", "classify", "style")


class Settings(BaseSettings):
    """Settings of one process. Immutable; tests build their own with keyword arguments."""

    model_config = SettingsConfigDict(env_prefix="VESTIARY_", frozen=True, extra="ignore")

    # Store. Without a URL the embedded PostgreSQL in `data_dir` is started and used.
    database_url: str | None = None
    database_pool_size: int = Field(default=5, ge=1)
    data_dir: Path = Path.home() / ".local" / "share" / "vestiary"

    # Models: the bundle's folder under `weights_dir`, or `default`.
    weights_dir: Path = WEIGHTS_DIR
    detector: str = "default"
    classifier: str = "default"
    style_model: str = "default"
    # Learnt from photos published for research only; `none` or nothing: serve without.
    style_attributes: str = "default"
    inference_threads: int = Field(default=0, ge=0, description="cores of one model run; 0: all")

    # Fetching what a user names.
    fetch_total_timeout_s: float = Field(default=10.0, gt=0)
    fetch_connect_timeout_s: float = Field(default=5.0, gt=0)
    fetch_max_bytes: int = Field(default=20 * 1024 * 1024, gt=0)
    fetch_max_redirects: int = Field(default=3, ge=0)
    fetch_allowed_ports: Annotated[tuple[int, ...], NoDecode] = (80, 443)
    fetch_allowed_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    fetch_ca_file: Path | None = None
    # Of one worker to one host, so that a catalogue does not take its own shop down.
    fetch_host_concurrency: int = Field(default=8, ge=1)
    fetch_host_per_s: float | None = Field(default=None, ge=0.05)

    # Ingesting. A worker from which nothing was heard for so long has died.
    ingestion_lease_s: float = Field(default=30.0, gt=0)
    # Where a worker tells Prometheus what it does; None: nowhere.
    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535)

    # Decoding.
    image_max_pixels: int = Field(default=50_000_000, gt=0)

    # API.
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_workers: int = Field(default=1, ge=1)
    api_threads: int = Field(default=4, ge=1)

    # Signs what is posted to webhooks; without one, none are taken.
    webhook_secret: str | None = Field(default=None, min_length=16, repr=False)

    log_level: str = "INFO"

    @field_validator("fetch_allowed_ports", mode="before")
    @classmethod
    def _split_ports(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("fetch_allowed_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        parts = _split(value)
        return tuple(ip_network(p) for p in parts) if isinstance(value, str) else parts


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value
