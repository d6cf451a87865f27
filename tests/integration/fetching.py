"""What the tests of fetching share."""

from __future__ import annotations

import time
from ipaddress import ip_network
from typing import Any

import pytest

from services.pipeline.fetch import Fetcher, FetchPolicy, Resolve, system_addresses
from vision.errors import VestiaryError

LOOPBACK = ip_network("127.0.0.0/8")


def fetcher_for(*ports: int, resolve: Resolve = system_addresses, **changes: Any) -> Fetcher:
    """A fetcher that may reach these ports of loopback addresses."""
    policy: dict[str, Any] = {"allowed_ports": ports, "allowed_networks": (LOOPBACK,)} | changes
    return Fetcher(FetchPolicy(**policy), resolve)


def failure(fetcher: Fetcher, url: str) -> VestiaryError:
    """The error that fetching this URL ends in."""
    with pytest.raises(VestiaryError) as raised:
        fetcher.fetch(url)
    return raised.value


def timed_failure(fetcher: Fetcher, url: str) -> tuple[VestiaryError, float]:
    """The error that fetching this URL ends in, and after how many seconds."""
    start = time.monotonic()
    error = failure(fetcher, url)
    return error, time.monotonic() - start
