from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pipeline.addresses import AddressRules, is_public, parse_address

REFUSED = [
    # first and last of every refused IPv4 network, and the well-known hosts inside
    *("0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255"),
    *("100.64.0.0", "100.100.100.200", "100.127.255.255"),
    *("127.0.0.1", "127.255.255.254", "168.63.129.16"),
    *("169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255"),
    *("172.16.0.0", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.0.1", "192.168.255.255", "198.18.0.0", "198.19.255.255"),
    *("198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255"),
    # IPv6: unspecified, loopback, compatible, mapped (also of a public address)
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"),
    # NAT64 (both prefixes), discard-only, segment routing
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "100::1", "5f00::1"),
    # Teredo, benchmarking, ORCHID, documentation, 6to4
    *("2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:20::1", "2001:db8::1", "3fff::1"),
    *("2002:7f00:1::", "2002:808:808::1"),
    # unique-local (with two clouds' metadata), link-local, site-local, multicast
    *("fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "febf::1", "fec0::1", "ff02::1"),
]
PUBLIC = [
    # neighbours of the refused networks, and well-known public hosts
    *("1.0.0.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "168.63.129.15", "168.63.129.17"),
    *("169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0"),
    *("192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("8.8.8.8", "2001:4860:4860::8888", "2606:4700::1111", "2a00:1450:4001::1", "2001:200::1"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not AddressRules().permits(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_permitted(address: str) -> None:
    assert is_public(ip_address(address))
    assert AddressRules().permits(ip_address(address))


@given(st.ip_addresses())
def test_whatever_python_knows_to_be_special_is_refused(address: object) -> None:
    """`ipaddress` knows fewer special networks, so it is only asked in one direction."""
    known = ip_address(str(address))
    if known.is_private or known.is_loopback or known.is_link_local or known.is_multicast:
        assert not is_public(known)


def test_an_allowed_network_stands_above_the_other_rules() -> None:
    rules = AddressRules((ip_network("127.0.0.2/32"), ip_network("fd00:1::/32")))

    assert rules.permits(ip_address("127.0.0.2"))
    assert rules.permits(ip_address("fd00:1::7"))
    assert not rules.permits(ip_address("127.0.0.1"))
    assert not rules.permits(ip_address("fd00:2::7"))
    assert rules.permits(ip_address("8.8.8.8"))


def test_a_mapped_address_is_judged_by_the_ipv4_address_inside() -> None:
    rules = AddressRules((ip_network("127.0.0.2/32"),))

    assert rules.permits(ip_address("::ffff:127.0.0.2"))
    assert not rules.permits(ip_address("::ffff:127.0.0.1"))


@pytest.mark.parametrize("wrapped", ["64:ff9b::7f00:2", "2002:7f00:2::", "::127.0.0.2"])
def test_translated_addresses_are_not_allowed_by_the_ipv4_address_inside(wrapped: str) -> None:
    """They leave through a translator elsewhere, which may reach another host of that number."""
    assert not AddressRules((ip_network("127.0.0.2/32"),)).permits(ip_address(wrapped))


def test_the_zone_of_a_link_local_address_does_not_count() -> None:
    assert parse_address("fe80::1%eth0") == ip_address("fe80::1")
