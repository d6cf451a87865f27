"""Reading a URL somebody sent into parts that can have only one meaning.

Two programs that read one URL differently are how address checks are walked around. So a URL is
read once, here, the way browsers do (https://url.spec.whatwg.org), and what goes on to libcurl is
written anew from the parts.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote, urljoin

import idna

from services.pipeline.addresses import Address
from vision.errors import ErrorCode, PermanentError

MAX_URL_LENGTH = 8192
DEFAULT_PORTS = {"http": 80, "https": 443}

# RFC 3986, appendix B, for URLs with an authority. The fragment is matched and dropped.
_URL = re.compile(
    r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?"
)
_HOST_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# A last label like this makes the whole host an IPv4 address, in whatever base.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# C0 and C1 controls and the backslash, which browsers take for a slash.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
# Everything printable in ASCII but what browsers encode; "%" stays, so nothing is encoded twice.
_AS_IS = "!#$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A URL in parts.

    scheme: http or https. host: lower-case ASCII, or the address in its usual spelling, IPv6
    without brackets. address: when the host is one, however it was spelled. target: path and
    query, percent-encoded. has_credentials: whether a user name or password stood in it.
    """

    scheme: str
    host: str
    port: int
    target: str
    address: Address | None
    has_credentials: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"

    def join(self, location: str) -> SourceUrl:
        """Where a redirect from here leads. Raises `PermanentError` (`invalid_url`)."""
        try:
            joined = urljoin(str(self), location.strip(" \t\r\n"))
        except ValueError as error:
            raise invalid_url("the redirect is not a URL") from error
        return parse_url(joined)


def parse_url(text: str) -> SourceUrl:
    """Read an absolute http or https URL.

    Spaces around it are ignored; spaces and other characters within path and query are encoded, as
    a browser's address bar does. Raises `PermanentError` (`invalid_url`).
    """
    text = text.strip(" \t\r\n")
    if len(text) > MAX_URL_LENGTH:
        raise invalid_url(f"the URL is longer than {MAX_URL_LENGTH} characters")
    if _FORBIDDEN.search(text):
        raise invalid_url("the URL holds a control character or a backslash")
    match = _URL.fullmatch(text)
    scheme = match["scheme"].lower() if match else text.partition(":")[0].lower()
    if scheme not in DEFAULT_PORTS:
        raise invalid_url("the URL must start with http:// or https://")
    if match is None:
        raise invalid_url("the URL names no host")
    _, at_sign, host_port = match["authority"].rpartition("@")
    parts = _HOST_PORT.fullmatch(host_port)
    if parts is None:
        raise invalid_url("the URL's host or port is malformed")
    host, address = _parse_host(parts["ipv6"], parts["name"])
    return SourceUrl(
        scheme=scheme,
        host=host,
        port=_parse_port(parts["port"], DEFAULT_PORTS[scheme]),
        target=_encode(match["path"] or "/") + _encode(match["query"] or ""),
        address=address,
        has_credentials=bool(at_sign),
    )


def invalid_url(message: str) -> PermanentError:
    return PermanentError(ErrorCode.INVALID_URL, message)


def _parse_port(digits: str | None, default: int) -> int:
    if not digits:
        return default
    if len(digits) > 5 or not 1 <= int(digits) <= 65_535:
        raise invalid_url("the URL's port is not between 1 and 65535")
    return int(digits)


def _parse_host(ipv6: str | None, name: str) -> tuple[str, Address | None]:
    if ipv6 is not None:
        try:
            # A zone (`%eth0`) says which interface; it does not change whose address it is.
            address = IPv6Address(unquote(ipv6, errors="strict").partition("%")[0])
        except ValueError as error:
            raise invalid_url("the URL's host is not an IPv6 address") from error
        return str(address), address
    host = _ascii_host(name)
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        ipv4 = _parse_ipv4(host)
        return str(ipv4), ipv4
    return host, None


def _ascii_host(name: str) -> str:
    """The host as it goes into DNS: decoded, mapped (UTS 46), lower case, punycode."""
    try:
        host = unquote(name, errors="strict").lower()
        if not host.isascii():
            # Mapping alone may end in ASCII: full-width digits are how to hide an address.
            host = idna.uts46_remap(host, std3_rules=False)
        if not host.isascii():
            host = idna.encode(host).decode("ascii")
    except (UnicodeError, idna.IDNAError) as error:
        raise invalid_url("the URL's host is not a valid name") from error
    # The dot at the end only says that the name is complete; libcurl would look it up as another.
    host = host.removesuffix(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise invalid_url("the URL's host is not a valid name")
    return host


def _parse_ipv4(host: str) -> IPv4Address:
    """One to four numbers, each decimal, octal (0…) or hexadecimal (0x…), as C libraries do."""
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError as error:
        raise invalid_url("the URL's host is not an IPv4 address") from error


def _encode(text: str) -> str:
    return quote(text, safe=_AS_IS)
