"""Fetching from servers that mean well, or at least answer."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from pytest_httpserver import HTTPServer

from services.pipeline.fetch import Fetcher, FetchPolicy, SourceBusyError, parse_retry_after
from services.settings import Settings
from tests.integration.fetching import LOOPBACK, failure, fetcher_for
from tests.integration.hostile import (
    Connection,
    HostileServer,
    answering,
    redirecting,
    response,
    routing,
    serve,
    serve_names,
)
from tests.pictures import picture
from vision.errors import ErrorCode, PermanentError, TransientError, VestiaryError
from vision.image import decode

PHOTO = picture().data


def test_the_picture_comes_as_it_was_served(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/a.png").respond_with_data(PHOTO, content_type="image/png")
    url = httpserver.url_for("/a.png")

    image = fetcher_for(httpserver.port).fetch(url)

    assert image.data == PHOTO
    assert image.source_url == url
    assert decode(image).resolution_wh == (60, 80)


def test_the_policy_follows_the_settings(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    settings = Settings(
        fetch_total_timeout_s=3,
        fetch_connect_timeout_s=2,
        fetch_max_bytes=1000,
        fetch_max_redirects=1,
        fetch_allowed_ports=(80, 8080),
        fetch_allowed_networks=(LOOPBACK,),
        fetch_ca_file=ca_file,
    )
    assert FetchPolicy.from_settings(settings) == FetchPolicy(
        3, 2, 1000, 1, (80, 8080), (LOOPBACK,), ca_file
    )


def test_a_ca_file_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ca\.pem does not exist"):
        FetchPolicy(ca_file=tmp_path / "ca.pem")


def test_without_settings_the_policy_is_the_strict_one() -> None:
    assert FetchPolicy.from_settings(Settings()) == FetchPolicy()
    assert FetchPolicy() == FetchPolicy(10, 5, 20 * 1024 * 1024, 3, (80, 443), (), None)


def test_threads_may_share_a_fetcher() -> None:
    """Each of 8 threads gets its own picture although all are in flight at once."""
    everyone_is_here = threading.Barrier(8, timeout=10)

    def behave(connection: Connection) -> None:
        path = connection.read_request().split(b" ")[1]
        everyone_is_here.wait()
        connection.send(response(picture(seed=int(path[1:])).data))

    with serve(behave) as server, ThreadPoolExecutor(8) as pool:
        urls = [server.url(f"/{seed}") for seed in range(8)]
        images = list(pool.map(fetcher_for(server.port).fetch, urls))

    assert [image.sha256 for image in images] == [picture(seed=s).sha256 for s in range(8)]


@pytest.fixture
def ipv6_server() -> Iterator[HostileServer]:
    try:
        with serve(answering(response(PHOTO)), "::1") as server:
            yield server
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")


class TestIpv6:
    def test_an_address(self, ipv6_server: HostileServer) -> None:
        fetcher = fetcher_for(ipv6_server.port, allowed_networks=(ip_network("::1"),))
        assert fetcher.fetch(ipv6_server.url()).data == PHOTO

    def test_a_name_with_both_kinds_of_address(self, ipv6_server: HostileServer) -> None:
        """Nobody listens on the IPv4 one; connecting moves on to the other."""
        with serve_names({"shop.example": [["127.0.0.1", "::1"]]}) as names:
            fetcher = fetcher_for(
                ipv6_server.port,
                resolve=names.resolve,
                allowed_networks=(LOOPBACK, ip_network("::1")),
            )
            assert fetcher.fetch(ipv6_server.url(host="shop.example")).data == PHOTO


class TestMediaType:
    """The first bytes count, not what the server calls them."""

    @pytest.mark.parametrize("called", ["application/octet-stream", "text/html", "image/jpeg", ""])
    def test_a_picture_under_any_name(self, httpserver: HTTPServer, called: str) -> None:
        httpserver.expect_request("/").respond_with_data(PHOTO, content_type=called)
        assert fetcher_for(httpserver.port).fetch(httpserver.url_for("/")).data == PHOTO

    @pytest.mark.parametrize(
        "body",
        [
            b"<!DOCTYPE html><html><body>Not here</body></html>",
            b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
            b"II*\x00\x08\x00\x00\x00" + bytes(40),
            b"BM" + bytes(60),
            b"\x00\x00\x00\x18ftypheic" + bytes(40),
            b"%PDF-1.7\n" + bytes(40),
            b'{"error": "not found"}',
        ],
        ids=["html", "svg", "tiff", "bmp", "heic", "pdf", "json"],
    )
    def test_what_is_no_picture_called_one(self, httpserver: HTTPServer, body: bytes) -> None:
        httpserver.expect_request("/").respond_with_data(body, content_type="image/jpeg")
        error = failure(fetcher_for(httpserver.port), httpserver.url_for("/"))
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.UNSUPPORTED_MEDIA

    @pytest.mark.parametrize("body", [b"", PHOTO[:7]], ids=["0 bytes", "7 bytes"])
    def test_what_is_too_short_to_tell_is_left_to_the_decoder(
        self, httpserver: HTTPServer, body: bytes
    ) -> None:
        httpserver.expect_request("/").respond_with_data(body, content_type="image/png")
        image = fetcher_for(httpserver.port).fetch(httpserver.url_for("/"))
        with pytest.raises(PermanentError) as raised:
            decode(image)
        assert raised.value.code is ErrorCode.IMAGE_CORRUPT


class TestStatus:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            *((code, PermanentError) for code in (204, 300, 304, 400, 401, 403, 404, 410, 451)),
            *((code, TransientError) for code in (408, 425, 429, 500, 502, 503, 504)),
            (999, PermanentError),
        ],
    )
    def test_anything_but_200_is_an_error_that_names_it(
        self, status: int, kind: type[VestiaryError]
    ) -> None:
        with serve(answering(response(PHOTO, f"{status} Whatever"))) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, kind)
        assert error.code is ErrorCode.SOURCE_STATUS
        assert str(status) in error.message

    def test_hints_before_the_answer_are_passed_over(self) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLocation: http://10.0.0.1/\r\n\r\n"
        with serve(answering(hints, response(PHOTO))) as server:
            assert fetcher_for(server.port).fetch(server.url()).data == PHOTO


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_followed(self, httpserver: HTTPServer, status: int) -> None:
        httpserver.expect_request("/old").respond_with_data(
            b"moved", status=status, headers={"Location": "new?w=1"}
        )
        httpserver.expect_request("/new", query_string="w=1").respond_with_data(PHOTO)
        url = httpserver.url_for("/old")

        image = fetcher_for(httpserver.port).fetch(url)

        assert image.data == PHOTO
        assert image.source_url == url

    @pytest.mark.parametrize(("hops", "allowed"), [(3, True), (4, False)])
    def test_three_redirects_and_no_more(
        self, httpserver: HTTPServer, hops: int, allowed: bool
    ) -> None:
        for hop in range(hops):
            httpserver.expect_request(f"/{hop}").respond_with_data(
                status=302, headers={"Location": f"/{hop + 1}"}
            )
        httpserver.expect_request(f"/{hops}").respond_with_data(PHOTO)
        fetcher = fetcher_for(httpserver.port)

        if allowed:
            assert fetcher.fetch(httpserver.url_for("/0")).data == PHOTO
            return
        error = failure(fetcher, httpserver.url_for("/0"))
        assert error.code is ErrorCode.TOO_MANY_REDIRECTS
        assert len(httpserver.log) == 4  # the first request and three more

    def test_a_loop_ends(self) -> None:
        with serve(redirecting("/photo.jpg")) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.TOO_MANY_REDIRECTS
        assert len(server.connections) == 4

    def test_a_redirect_to_nowhere_is_a_bad_status(self) -> None:
        with serve(answering(response(status="302 Found"))) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.SOURCE_STATUS

    @pytest.mark.parametrize(
        "location",
        [
            "file:///etc/passwd",
            "gopher://127.0.0.1/",
            "data:image/png;base64,iVBORw0KGgo=",
            "ftp://127.0.0.1/photo.jpg",
        ],
    )
    def test_only_to_http_urls(self, location: str) -> None:
        with serve(redirecting(location)) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.INVALID_URL

    def test_letters_beyond_ascii_in_either_encoding(self) -> None:
        routes = {
            "/1": response(status="302 Found", headers={"Location": "/\xfc"}),  # Latin-1
            "/%C3%BC": response(status="302 Found", headers={"Location": "/\xc3\xa9"}),  # UTF-8
            "/%C3%A9": response(PHOTO),
        }
        with serve(routing(routes)) as server:
            assert fetcher_for(server.port).fetch(server.url("/1")).data == PHOTO


class TestWhatIsSent:
    def test_no_cookie_no_referrer_no_coding(self) -> None:
        """A cookie that the first hop sets does not come back, not even to the same host."""
        seen: list[bytes] = []
        setting = response(
            status="302 Found", headers={"Location": "/b", "Set-Cookie": "session=1; Path=/"}
        )
        with serve(routing({"/a": setting, "/b": response(PHOTO)}, seen)) as server:
            fetcher_for(server.port).fetch(server.url("/a#fragment"))

        assert [head.split(b" ")[:2] for head in seen] == [[b"GET", b"/a"], [b"GET", b"/b"]]
        for head in seen:
            names = {line.split(b":")[0].lower() for line in head.strip().split(b"\r\n")[1:]}
            assert names == {b"host", b"user-agent", b"accept", b"accept-encoding"}
            assert b"Accept-Encoding: identity\r\n" in head

    def test_nothing_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Neither a proxy nor the passwords of a .netrc file are used."""
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        seen: list[bytes] = []
        with (
            serve(answering(response(b"the proxy's"))) as proxy,
            serve(routing({"/a": response(PHOTO)}, seen)) as server,
        ):
            for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url("/"))
            image = fetcher_for(server.port, allowed_networks=(LOOPBACK,)).fetch(server.url("/a"))

        assert image.data == PHOTO
        assert proxy.connections == []
        assert len(seen) == 1
        assert b"authorization" not in seen[0].lower()


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def ca_file(self, authority: trustme.CA, tmp_path: Path) -> Path:
        path = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(path))
        return path

    @pytest.fixture
    def tls(self, authority: trustme.CA) -> ssl.SSLContext:
        return server_context(authority, "127.0.0.1", "localhost")

    def test_a_trusted_certificate(self, tls: ssl.SSLContext, ca_file: Path) -> None:
        with serve(answering(response(PHOTO)), tls=tls) as server:
            fetcher = fetcher_for(server.port, ca_file=ca_file)
            for host in ("127.0.0.1", "localhost"):
                assert fetcher.fetch(server.url(host=host, scheme="https")).data == PHOTO

    def test_an_unknown_authority(self, tls: ssl.SSLContext) -> None:
        with serve(answering(response(PHOTO)), tls=tls) as server:
            assert_not_trusted(fetcher_for(server.port), server.url(scheme="https"))

    def test_a_certificate_for_another_host(self, authority: trustme.CA, ca_file: Path) -> None:
        tls = server_context(authority, "shop.example")
        with serve(answering(response(PHOTO)), tls=tls) as server:
            fetcher = fetcher_for(server.port, ca_file=ca_file)
            assert_not_trusted(fetcher, server.url(scheme="https"))

    def test_redirects_between_http_and_https(self, tls: ssl.SSLContext, ca_file: Path) -> None:
        with (
            serve(answering(response(PHOTO))) as plain,
            serve(redirecting(plain.url()), tls=tls) as secure,
            serve(redirecting(secure.url(scheme="https"))) as first,
        ):
            fetcher = fetcher_for(plain.port, secure.port, first.port, ca_file=ca_file)
            assert fetcher.fetch(first.url()).data == PHOTO
        assert len(secure.connections) == 1


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def assert_not_trusted(fetcher: Fetcher, url: str) -> None:
    error = failure(fetcher, url)
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.SOURCE_UNREACHABLE
    assert "certificate" in error.message


@pytest.mark.parametrize(
    ("value", "rest_s"),
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (b"Fri, 31 Dec 1999 23:59:59 -0000", 0.0),
        (b"soon", None),
        (b"-1", None),
        (b"1e9", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_what_retry_after_says(value: bytes, rest_s: float | None) -> None:
    assert parse_retry_after(value) == rest_s


def test_a_date_to_come_is_so_many_seconds_away() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    rest_s = parse_retry_after(moment.encode())
    assert rest_s is not None
    assert 85 < rest_s <= 90


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_source_says_when_to_come_again(httpserver: HTTPServer, status: int) -> None:
    httpserver.expect_request("/a").respond_with_data(
        "busy", status=status, headers={"Retry-After": "7"}
    )
    error = failure(fetcher_for(httpserver.port), httpserver.url_for("/a"))
    assert isinstance(error, SourceBusyError)
    assert (error.code, error.retry_after_s) == (ErrorCode.SOURCE_STATUS, 7.0)


def test_a_page_that_is_gone_stays_gone_whatever_it_says(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/a").respond_with_data(
        "gone", status=404, headers={"Retry-After": "7"}
    )
    assert isinstance(
        failure(fetcher_for(httpserver.port), httpserver.url_for("/a")), PermanentError
    )
