"""Settings come from the environment, typed and checked once."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from services.settings import Settings


def test_lists_are_comma_separated(monkeypatch):
    monkeypatch.setenv("VESTIARY_FETCH_ALLOWED_PORTS", "80, 443,8080")
    monkeypatch.setenv("VESTIARY_FETCH_ALLOWED_NETWORKS", "127.0.0.0/8,fd00::/8")
    settings = Settings()
    assert settings.fetch_allowed_ports == (80, 443, 8080)
    assert settings.fetch_allowed_networks == (ip_network("127.0.0.0/8"), ip_network("fd00::/8"))


def test_nothing_private_is_allowed_unless_named(monkeypatch):
    monkeypatch.delenv("VESTIARY_FETCH_ALLOWED_NETWORKS", raising=False)
    assert Settings().fetch_allowed_networks == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VESTIARY_FETCH_ALLOWED_NETWORKS", "127.0.0.1/8"),  # host bits set: surely a mistake
        ("VESTIARY_FETCH_ALLOWED_PORTS", "http"),
        ("VESTIARY_FETCH_MAX_BYTES", "0"),
        ("VESTIARY_PORT", "70000"),
    ],
)
def test_nonsense_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


def test_settings_never_change():
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
