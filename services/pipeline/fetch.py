"""Fetching a picture from a URL that a stranger chose.

What keeps it safe, and where:

- The address is judged at the socket that is really opened (`_Transfer.open_socket`), so neither
  a spelling, nor a redirect, nor a name that resolves differently a second time gets around it.
- One deadline covers names, connections, redirects and bodies; a server that drips is cut off.
- Bytes are counted as they come, whatever the headers promised; no content coding is undone.
- Names are resolved here and handed to libcurl, because closing a libcurl handle waits for its own
  resolver: a name server that never answers held a 0.5 s deadline for 10 s.
- Every hop has its own handle and its own connection. Nothing (a pooled connection, a cached name,
  a cookie, a session) that one hop's check let through can serve another; it costs 3 ms.
- A redirect from https to http is followed: nothing secret is sent, and plain http is fetched too.
"""

from __future__ import annotations

import email.utils
import http
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import certifi
import pycurl

from services.pipeline.addresses import AddressRules, Network, parse_address
from services.pipeline.urls import SourceUrl, invalid_url, parse_url
from services.settings import Settings
from vision.errors import ErrorCode, PermanentError, TransientError, VestiaryError
from vision.image import EncodedImage, sniff

SIGNATURE_BYTES = 12
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Answers that a later try may better, beside all of 5xx.
TRY_AGAIN = frozenset({408, 425, 429})

# CURLE_TOO_LARGE: a header line over 100 kB, headers over 300 kB. pycurl has no name for it.
_E_TOO_LARGE = 100

_REFUSED: int = pycurl.SOCKET_BAD

_STATUS_LINE = re.compile(rb"HTTP/[0-9.]+ +([0-9]{3})")

_SECONDS = re.compile(rb"[0-9]{1,9}")

Resolve = Callable[[str], Sequence[str]]
"""Host name → its addresses; raises `OSError` when there are none."""


class SourceBusyError(TransientError):
    """The source said when to come again. retry_after_s: seconds from its answer, 0 or more."""

    def __init__(self, code: ErrorCode, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What a fetch may cost and where it may go.

    total_timeout_s: from the call to the last byte, redirects included. connect_timeout_s: of one
    hop, to the end of the TLS handshake. max_bytes: of the body. allowed_networks: may be reached
    although they are not public. ca_file: PEM of the authorities to trust, None for Mozilla's.
    """

    total_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    max_bytes: int = 20 * 1024 * 1024
    max_redirects: int = 3
    allowed_ports: tuple[int, ...] = (80, 443)
    allowed_networks: tuple[Network, ...] = ()
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if self.ca_file is not None and not self.ca_file.is_file():
            # Later it would look as if no source could be reached.
            raise ValueError(f"the CA file {self.ca_file} does not exist")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            total_timeout_s=settings.fetch_total_timeout_s,
            connect_timeout_s=settings.fetch_connect_timeout_s,
            max_bytes=settings.fetch_max_bytes,
            max_redirects=settings.fetch_max_redirects,
            allowed_ports=settings.fetch_allowed_ports,
            allowed_networks=settings.fetch_allowed_networks,
            ca_file=settings.fetch_ca_file,
        )


def system_addresses(host: str) -> list[str]:
    """The addresses the operating system knows for a name."""
    # Bytes, because a str would pass Python's own, older IDNA encoding.
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Fetcher:
    """Fetches pictures under one policy. Safe to share between threads."""

    def __init__(self, policy: FetchPolicy, resolve: Resolve = system_addresses) -> None:
        self._policy = policy
        self._rules = AddressRules(policy.allowed_networks)
        self._resolve = resolve

    def fetch(self, url: str) -> EncodedImage:
        """The picture behind an http or https URL, as it came.

        The body starts like one of the formats `vision.image.decode` reads, or is shorter than any
        signature; whether it is whole is for `decode` to say.

        Raises `PermanentError`: `invalid_url`, `url_blocked`, `source_too_large`,
        `too_many_redirects`, `unsupported_media`, `source_status` (most 4xx), `source_unreachable`
        (no such host, certificate not trusted). Raises `TransientError`: `source_unreachable`,
        `source_incomplete`, `source_timeout`, `source_status` (408, 425, 429 and 5xx).
        """
        deadline = time.monotonic() + self._policy.total_timeout_s
        hop = parse_url(url)
        for _ in range(self._policy.max_redirects + 1):
            self._check(hop)
            transfer = _Transfer(self._rules, self._policy.max_bytes)
            self._perform(hop, deadline, transfer, {})
            if transfer.status not in REDIRECTS:
                return EncodedImage(transfer.picture(), source_url=url)
            hop = hop.join(transfer.location())
        raise PermanentError(
            ErrorCode.TOO_MANY_REDIRECTS,
            f"the source redirected more than {self._policy.max_redirects} times",
        )

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send `body` to an http or https URL, under the same rules; redirects are not followed.

        Returns when the answer's status is 2xx, whatever else it says. Raises `PermanentError`
        (`invalid_url`, `url_blocked`, `source_status`, `source_unreachable`) and `TransientError`
        (`source_unreachable`, `source_timeout`, `source_status`) as `fetch` does.
        """
        hop = parse_url(url)
        self._check(hop)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        # An empty Expect: libcurl would wait for leave to send more than a megabyte.
        options = {pycurl.POSTFIELDS: body, pycurl.HTTPHEADER: [*lines, "Expect:"]}
        receipt = _Receipt(self._rules, self._policy.max_bytes)
        deadline = time.monotonic() + self._policy.total_timeout_s
        self._perform(hop, deadline, receipt, options)
        receipt.require_accepted()

    def _check(self, hop: SourceUrl) -> None:
        """What can be said of a URL before anything is opened."""
        if hop.address is not None and not self._rules.permits(hop.address):
            raise _blocked()
        if hop.has_credentials:
            raise invalid_url("the URL holds a user name or password")
        if hop.port not in self._policy.allowed_ports:
            raise PermanentError(ErrorCode.URL_BLOCKED, f"port {hop.port} may not be fetched from")

    def _perform(
        self, hop: SourceUrl, deadline: float, transfer: _Transfer, options: Mapping[int, Any]
    ) -> None:
        """One request and its answer, redirects not followed. options: besides the usual ones."""
        connect_by = min(deadline, time.monotonic() + self._policy.connect_timeout_s)
        addresses = self._addresses(hop, connect_by)
        curl = pycurl.Curl()
        try:
            for option, value in {**self._options(hop, addresses), **options}.items():
                curl.setopt(option, value)
            transfer.attach(curl)
            curl.setopt(pycurl.CONNECTTIMEOUT_MS, _milliseconds_until(connect_by))
            curl.setopt(pycurl.TIMEOUT_MS, _milliseconds_until(deadline))
            curl.perform()
        except pycurl.error as error:
            transfer.raise_for(error.args[0])
        finally:
            curl.close()
        transfer.require_headers()

    def _addresses(self, hop: SourceUrl, connect_by: float) -> Sequence[str]:
        if hop.address is not None:
            return [hop.host]
        found: Future[Sequence[str]] = Future()
        # getaddrinfo cannot be interrupted. Its thread may outlive the deadline, its caller not.
        threading.Thread(
            target=_settle, args=(found, self._resolve, hop.host), name="resolve", daemon=True
        ).start()
        try:
            return found.result(timeout=connect_by - time.monotonic())
        except TimeoutError as error:
            raise _timed_out() from error
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            kind = PermanentError if unknown else TransientError
            raise kind(
                ErrorCode.SOURCE_UNREACHABLE, "the source's host name could not be resolved"
            ) from error

    def _options(self, hop: SourceUrl, addresses: Sequence[str]) -> dict[int, Any]:
        options: dict[int, Any] = {
            pycurl.URL: str(hop),
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.FOLLOWLOCATION: 0,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.HTTPHEADER: [
                "Accept: image/jpeg, image/png, image/webp, image/gif",
                "Accept-Encoding: identity",
            ],
            pycurl.USERAGENT: "Vestiary/1",
            # Nothing from the environment or the home folder: no proxy, no .netrc, no signals.
            pycurl.PROXY: "",
            pycurl.NOPROXY: "*",
            pycurl.NETRC: pycurl.NETRC_IGNORED,
            pycurl.NOSIGNAL: 1,
            pycurl.FRESH_CONNECT: 1,
            pycurl.FORBID_REUSE: 1,
            pycurl.SSL_VERIFYPEER: 1,
            pycurl.SSL_VERIFYHOST: 2,
            pycurl.CAINFO: str(self._policy.ca_file or certifi.where()),
            pycurl.BUFFERSIZE: 128 * 1024,
            # A promise of too much ends the transfer before its body begins.
            pycurl.MAXFILESIZE_LARGE: self._policy.max_bytes,
        }
        if hop.address is None:
            listed = ",".join(f"[{a}]" if ":" in a else a for a in addresses)
            options[pycurl.RESOLVE] = [f"{hop.host}:{hop.port}:{listed}"]
        return options


class _Transfer:
    """What one request brought, collected by libcurl's callbacks."""

    def __init__(self, rules: AddressRules, max_bytes: int) -> None:
        self.status = 0
        self._rules = rules
        self._max_bytes = max_bytes
        self._location: bytes | None = None
        self._retry_after: bytes | None = None
        self._headers_ended = False
        self._body = bytearray()
        self._refused_address = False
        # Set where a callback ends the transfer: the error to raise, or None for "enough seen".
        self._stopped = False
        self._error: VestiaryError | None = None

    def attach(self, curl: pycurl.Curl) -> None:
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self.open_socket)
        curl.setopt(pycurl.HEADERFUNCTION, self.take_header)
        curl.setopt(pycurl.WRITEFUNCTION, self.take_body)

    def open_socket(self, _purpose: int, target: Any) -> socket.socket | int:
        """The socket libcurl is about to connect to `target`, or a refusal.

        libcurl tries the next address of the name after a refusal.
        """
        try:
            address = parse_address(target.addr[0])
        except (ValueError, TypeError, IndexError):  # not an IP address at all
            self._refused_address = True
            return _REFUSED
        if not self._rules.permits(address):
            self._refused_address = True
            return _REFUSED
        return socket.socket(target.family, target.socktype, target.protocol)

    def take_header(self, line: bytes) -> int:
        """One header line; -1 ends the transfer."""
        if match := _STATUS_LINE.match(line):
            self.status = int(match[1])
            self._location = self._retry_after = None
            return len(line)
        name, _, value = line.partition(b":")
        if name.lower() == b"location":
            self._location = value.strip()
        elif name.lower() == b"retry-after":
            self._retry_after = value.strip()
        if line in (b"\r\n", b"\n") and self.status >= 200:  # 1xx only announce the answer
            self._headers_ended = True
            # Only a picture's body is worth waiting for.
            if self.status != http.HTTPStatus.OK:
                return self._stop(None)
        return len(line)

    def take_body(self, chunk: bytes) -> int:
        """A part of the body; -1 ends the transfer."""
        if len(self._body) + len(chunk) > self._max_bytes:
            return self._stop(self._body_too_large())
        had = len(self._body)
        self._body += chunk
        if (
            had < SIGNATURE_BYTES <= len(self._body)
            and sniff(bytes(self._body[:SIGNATURE_BYTES])) is None
        ):
            # Content-Type is not asked: pictures come as octet-stream, and error pages as pictures.
            return self._stop(_not_an_image())
        return len(chunk)

    def require_headers(self) -> None:
        """Raise unless the headers came whole: libcurl is content when they are cut short."""
        if not self._headers_ended:
            raise TransientError(
                ErrorCode.SOURCE_INCOMPLETE, "the source sent only a part of its answer"
            )

    def location(self) -> str:
        """Where the redirect leads."""
        if self._location is None:
            raise self._status_error()
        # Headers have no encoding; browsers take UTF-8, and Latin-1 always decodes.
        try:
            return self._location.decode("utf-8")
        except UnicodeDecodeError:
            return self._location.decode("latin-1")

    def picture(self) -> bytes:
        if self.status != http.HTTPStatus.OK:
            raise self._status_error()
        return bytes(self._body)

    def raise_for(self, curl_code: int) -> None:
        """Turn libcurl's error into ours; return where the transfer was ended on purpose."""
        if self._stopped:
            if self._error is not None:
                raise self._error
            return
        if curl_code == pycurl.E_OPERATION_TIMEDOUT:
            raise _timed_out()
        if curl_code == pycurl.E_FILESIZE_EXCEEDED:
            raise self._body_too_large()
        if curl_code == _E_TOO_LARGE:
            raise _too_large("the source's headers are too large")
        if curl_code == pycurl.E_BAD_CONTENT_ENCODING:
            raise _not_an_image()
        if curl_code == pycurl.E_PARTIAL_FILE or self._body:
            raise TransientError(
                ErrorCode.SOURCE_INCOMPLETE, "the source sent only a part of the image"
            )
        if self._refused_address:
            raise _blocked()
        if curl_code == pycurl.E_PEER_FAILED_VERIFICATION:
            raise PermanentError(
                ErrorCode.SOURCE_UNREACHABLE, "the source's certificate is not trusted"
            )
        raise TransientError(ErrorCode.SOURCE_UNREACHABLE, "the source could not be reached")

    def _stop(self, error: VestiaryError | None) -> int:
        self._stopped = True
        self._error = error
        return -1

    def _status_error(self) -> VestiaryError:
        code, message = ErrorCode.SOURCE_STATUS, f"the source answered with status {self.status}"
        if not (500 <= self.status <= 599 or self.status in TRY_AGAIN):
            return PermanentError(code, message)
        rest_s = None if self._retry_after is None else parse_retry_after(self._retry_after)
        if rest_s is None:
            return TransientError(code, message)
        return SourceBusyError(code, message, rest_s)

    def _body_too_large(self) -> PermanentError:
        return _too_large(f"the source sends more than {self._max_bytes} bytes")


class _Receipt(_Transfer):
    """The answer to what was posted, of which only the status counts."""

    def take_body(self, _chunk: bytes) -> int:
        return self._stop(None)

    def require_accepted(self) -> None:
        if not http.HTTPStatus.OK <= self.status < http.HTTPStatus.MULTIPLE_CHOICES:
            raise self._status_error()


def parse_retry_after(value: bytes) -> float | None:
    """Seconds from now that a `Retry-After` asks for (RFC 9110, 10.2.3: a number or a date); None
    when it cannot be read.
    """
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value.decode("ascii"))
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": the time is UTC, and the sender's zone is not told.
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _settle(found: Future[Sequence[str]], resolve: Resolve, host: str) -> None:
    try:
        found.set_result(resolve(host))
    except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
        found.set_exception(error)


def _milliseconds_until(moment: float) -> int:
    """At least 1: libcurl takes 0 for "no limit"."""
    return max(1, round((moment - time.monotonic()) * 1000))


def _blocked() -> PermanentError:
    # The address is not repeated: the answer must not tell what stands behind a name.
    return PermanentError(ErrorCode.URL_BLOCKED, "the URL leads to an address that is not public")


def _timed_out() -> TransientError:
    return TransientError(ErrorCode.SOURCE_TIMEOUT, "the source took too long to answer")


def _not_an_image() -> PermanentError:
    return PermanentError(
        ErrorCode.UNSUPPORTED_MEDIA, "the source did not send a JPEG, PNG, WEBP or GIF image"
    )


def _too_large(message: str) -> PermanentError:
    return PermanentError(ErrorCode.SOURCE_TOO_LARGE, message)
