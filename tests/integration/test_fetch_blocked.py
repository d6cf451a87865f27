"""Addresses a stranger must not reach through us, by every way of naming them.

A server really listens where the blocked URLs lead. It must see no connection; the same URLs reach
it once its network is allowed, so that it is the rule that keeps them away.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from services.pipeline.fetch import Fetcher, FetchPolicy
from tests.integration.fetching import failure, fetcher_for
from tests.integration.hostile import (
    HostileServer,
    answering,
    redirecting,
    response,
    serve,
    serve_names,
)
from tests.pictures import picture
from vision.errors import ErrorCode, PermanentError, VestiaryError

PHOTO = picture().data

# 127.0.0.1 in every dress. The kernel would connect each of them to the server below.
LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.0.0.1.",  # a trailing dot
    "127.1",  # short forms
    "127.0.1",
    "2130706433",  # one decimal number
    "017700000001",  # one octal number
    "0x7f000001",  # one hexadecimal number
    "0X7F000001",
    "0x7F.0.0.1",  # mixed
    "0177.0.0.01",
    "0x7f.1",
    "%31%32%37.0.0.1",  # percent-encoded
    "127%2e0%2e0%2e1",
    "１２７．０．０．１",  # full-width
    "①②⑦.⓪.⓪.①",  # circled
    "127。0。0。1",  # ideographic full stops
    "[::ffff:127.0.0.1]",  # IPv4-mapped
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "localhost",  # a name
    "LOCALHOST",
    "localhost.",
]
# Others that lead inside, or to somebody who would go there for us.
OTHER_SPELLINGS = [
    *("0", "0.0.0.0", "0x0", "00000", "127.127.127.127", "127.255.255.254"),
    *("10.0.0.1", "10.1", "167772161", "172.16.0.1", "172.31.255.255", "192.168.0.1", "0xc0a80001"),
    *("169.254.169.254", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1"),
    *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "203.0.113.1", "192.88.99.1"),
    *("[::]", "[::1]", "[0000::0001]", "[::1%25lo]", "[::1%lo]", "[::127.0.0.1]", "[::7f00:1]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]"),
    *("[2001:0:7f00:1::]", "[::ffff:0:127.0.0.1]", "[fe80::1%25eth0]", "[fec0::1]", "[ff02::1]"),
    *(
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[2001:db8::1]",
        "[::ffff:169.254.169.254]",
    ),
]


@pytest.fixture
def inside() -> Iterator[HostileServer]:
    """A server that nobody outside should reach."""
    with serve(answering(response(PHOTO))) as server:
        yield server


def assert_blocked(error: VestiaryError) -> None:
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.URL_BLOCKED


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_every_spelling_of_loopback_is_refused(host: str, inside: HostileServer) -> None:
    strict = Fetcher(FetchPolicy(allowed_ports=(inside.port,)))

    assert_blocked(failure(strict, inside.url(host=host)))
    assert inside.connections == []


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_every_spelling_of_loopback_is_reached_when_allowed(
    host: str, inside: HostileServer
) -> None:
    fetcher = fetcher_for(inside.port, allowed_networks=(ip_network("127.0.0.1"),))

    assert fetcher.fetch(inside.url(host=host)).data == PHOTO


@pytest.mark.parametrize("host", OTHER_SPELLINGS)
def test_every_address_that_is_not_public_is_refused(host: str) -> None:
    assert_blocked(failure(Fetcher(FetchPolicy()), f"http://{host}/photo.jpg"))


def test_the_answer_does_not_tell_the_address(inside: HostileServer) -> None:
    with serve_names({"shop.example": [["127.0.0.1"]]}) as names:
        fetcher = fetcher_for(inside.port, resolve=names.resolve, allowed_networks=())
        error = failure(fetcher, inside.url(host="shop.example"))

    assert_blocked(error)
    assert "127" not in error.message
    assert "loopback" not in error.message


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example@127.0.0.1/",
        "http://shop.example:80@127.0.0.1/",
        "http://shop.example%40x@127.0.0.1/",
        "http://127.0.0.1@127.0.0.1/",
    ],
)
def test_a_name_before_the_at_sign_does_not_hide_the_address(url: str) -> None:
    assert_blocked(failure(Fetcher(FetchPolicy()), url))


def test_credentials_are_not_sent_anywhere(inside: HostileServer) -> None:
    error = failure(fetcher_for(inside.port), inside.url(host="me:secret@127.0.0.1"))

    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.INVALID_URL
    assert "secret" not in error.message
    assert inside.connections == []


def test_only_the_ports_of_the_policy(inside: HostileServer) -> None:
    fetcher = fetcher_for(80, 443)

    assert_blocked(failure(fetcher, inside.url()))
    assert inside.connections == []


class TestRedirects:
    @pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
    def test_to_a_refused_address(self, host: str, inside: HostileServer) -> None:
        """From 127.0.0.2, which is allowed, to 127.0.0.1, which is not."""
        location = inside.url(host=host).encode("utf-8").decode("latin-1")
        with serve(redirecting(location), "127.0.0.2") as outside:
            fetcher = fetcher_for(
                outside.port, inside.port, allowed_networks=(ip_network("127.0.0.2"),)
            )
            assert_blocked(failure(fetcher, outside.url()))
        assert len(outside.connections) == 1
        assert inside.connections == []

    def test_to_a_refused_port(self, inside: HostileServer) -> None:
        with serve(redirecting(inside.url())) as outside:
            assert_blocked(failure(fetcher_for(outside.port), outside.url()))
        assert inside.connections == []

    def test_to_a_url_with_credentials(self, inside: HostileServer) -> None:
        with serve(redirecting(inside.url(host="me:secret@127.0.0.1"))) as outside:
            error = failure(fetcher_for(outside.port, inside.port), outside.url())
        assert error.code is ErrorCode.INVALID_URL
        assert inside.connections == []


class TestNames:
    """Names from a real name server, under the rule that only 127.0.0.2 may be reached."""

    ALLOWED = (ip_network("127.0.0.2"),)

    @pytest.mark.parametrize(
        "address",
        [
            *("127.0.0.1", "0.0.0.0", "169.254.169.254", "10.0.0.1", "100.100.100.200"),
            *("::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
            *("fe80::1", "fd00:ec2::254"),
        ],
    )
    def test_that_lead_to_a_refused_address(self, address: str, inside: HostileServer) -> None:
        with serve_names({"shop.example": [[address]]}) as names:
            fetcher = fetcher_for(inside.port, resolve=names.resolve, allowed_networks=self.ALLOWED)
            assert_blocked(failure(fetcher, inside.url(host="shop.example")))
        assert names.queries == ["shop.example"]
        assert inside.connections == []

    def test_with_a_refused_and_an_allowed_address(self, inside: HostileServer) -> None:
        with (
            serve(answering(response(PHOTO)), "127.0.0.2", inside.port) as outside,
            serve_names({"shop.example": [["127.0.0.1", "127.0.0.2"]]}) as names,
        ):
            fetcher = fetcher_for(inside.port, resolve=names.resolve, allowed_networks=self.ALLOWED)
            assert fetcher.fetch(inside.url(host="shop.example")).data == PHOTO
        assert len(outside.connections) == 1
        assert inside.connections == []

    def test_that_change_after_they_were_looked_up(self, inside: HostileServer) -> None:
        """Rebinding within one hop: there is one look-up, and what it said is connected to."""
        with (
            serve(answering(response(PHOTO)), "127.0.0.2", inside.port) as outside,
            serve_names({"shop.example": [["127.0.0.2"], ["127.0.0.1"]]}) as names,
        ):
            fetcher = fetcher_for(inside.port, resolve=names.resolve, allowed_networks=self.ALLOWED)
            assert fetcher.fetch(inside.url(host="shop.example")).data == PHOTO
        assert names.queries == ["shop.example"]
        assert len(outside.connections) == 1
        assert inside.connections == []

    def test_that_change_between_two_hops(self, inside: HostileServer) -> None:
        """Rebinding across a redirect to the same name: the second hop is judged anew."""
        with (
            serve(redirecting("/again"), "127.0.0.2", inside.port) as outside,
            serve_names({"shop.example": [["127.0.0.2"], ["127.0.0.1"]]}) as names,
        ):
            fetcher = fetcher_for(inside.port, resolve=names.resolve, allowed_networks=self.ALLOWED)
            assert_blocked(failure(fetcher, inside.url(host="shop.example")))
        assert names.queries == ["shop.example", "shop.example"]
        assert len(outside.connections) == 1
        assert inside.connections == []

    def test_that_change_between_two_fetches(self, inside: HostileServer) -> None:
        """No connection and no name of an earlier fetch is used again."""
        keep_alive = response(PHOTO, headers={"Connection": "keep-alive"})
        with (
            serve(answering(keep_alive), "127.0.0.2", inside.port) as outside,
            serve_names({"shop.example": [["127.0.0.2"], ["127.0.0.1"]]}) as names,
        ):
            fetcher = fetcher_for(inside.port, resolve=names.resolve, allowed_networks=self.ALLOWED)
            assert fetcher.fetch(inside.url(host="shop.example")).data == PHOTO
            assert_blocked(failure(fetcher, inside.url(host="shop.example")))
        assert len(outside.connections) == 1
        assert inside.connections == []

    def test_that_nobody_knows(self) -> None:
        with serve_names({}) as names:
            error = failure(fetcher_for(80, resolve=names.resolve), "http://shop.example/")
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.SOURCE_UNREACHABLE
