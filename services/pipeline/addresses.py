"""Which addresses the service may open a connection to on a stranger's behalf.

The lists follow IANA's special-purpose registries (RFC 6890 and later) rather than
`ipaddress.is_global`, whose answers change between Python versions.
https://www.iana.org/assignments/iana-ipv4-special-registry
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host, this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; some clouds' metadata (100.100.100.200)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's metadata and wire server: a public number, a local host
        "169.254.0.0/16",  # link-local, with most clouds' metadata (169.254.169.254)
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata of one cloud (192.0.0.192)
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved and broadcast
    )
)

# Of IPv6 only this is in use as global unicast. Outside it lie loopback, unspecified, link-local,
# site-local, unique-local (with fd00:ec2::254), multicast, IPv4-mapped and -compatible addresses,
# and NAT64 (64:ff9b::/96, 64:ff9b:1::/48), which reaches any IPv4 address.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which reaches any IPv4 address
        "3fff::/20",  # documentation
    )
)


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Public addresses, and those of `allowed_networks`, which stand above every other rule."""

    allowed_networks: tuple[Network, ...] = ()

    def permits(self, address: Address) -> bool:
        """Whether a connection to this address may be opened.

        An IPv4-mapped IPv6 address opens an IPv4 connection, so a network that allows the inner
        address allows it too; otherwise it is refused, public or not: no honest name has one.
        """
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        candidates = (address,) if inner is None else (address, inner)
        if any(
            candidate in network for network in self.allowed_networks for candidate in candidates
        ):
            return True
        return is_public(address)


def is_public(address: Address) -> bool:
    """Whether the address belongs to a host on the public Internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    return address in _GLOBAL_UNICAST and not any(address in n for n in _REFUSED_IPV6)


def parse_address(text: str) -> Address:
    """An address as the operating system writes it, without the zone of a link-local one."""
    return ip_address(text.partition("%")[0])
