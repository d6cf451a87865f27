from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pipeline.urls import MAX_URL_LENGTH, parse_url
from vision.errors import ErrorCode, PermanentError


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://example.com", "http://example.com:80/"),
        ("HTTPS://EXAMPLE.com/A.jpg", "https://example.com:443/A.jpg"),
        ("http://example.com.:8080/a?b=c#d", "http://example.com:8080/a?b=c"),
        ("http://example.com?x=1", "http://example.com:80/?x=1"),
        ("  http://example.com/a b.jpg\n", "http://example.com:80/a%20b.jpg"),
        ("http://example.com/a%20b.jpg?u=%2F", "http://example.com:80/a%20b.jpg?u=%2F"),
        ("http://example.com/é?q=é", "http://example.com:80/%C3%A9?q=%C3%A9"),
        ("http://my_bucket.example.com/x", "http://my_bucket.example.com:80/x"),
        ("http://bücher.example/", "http://xn--bcher-kva.example:80/"),
        ("http://straße.example/", "http://xn--strae-oqa.example:80/"),
        ("http://例え。テスト/", "http://xn--r8jz45g.xn--zckzah:80/"),
        ("http://example.com:/", "http://example.com:80/"),
        ("http://[2001:DB8::0:1]/x", "http://[2001:db8::1]:80/x"),
    ],
)
def test_a_url_has_one_normal_spelling(text: str, normal: str) -> None:
    assert str(parse_url(text)) == normal
    assert str(parse_url(normal)) == normal


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001"),
        *("0X7F.0.0.1", "0177.0.0.1", "0x7f.1", "127.0.0.1.", "%31%32%37.0.0.1"),
        *("１２７．０．０．１", "①②⑦.⓪.⓪.①", "127。0。0。1", "127%2E0%2E0%2E1"),
    ],
)
def test_every_spelling_of_an_ipv4_address_is_that_address(host: str) -> None:
    # 127 · 2²⁴ + 1 = 2130706433 = 0o17700000001
    url = parse_url(f"http://{host}/")
    assert url.address == IPv4Address("127.0.0.1")
    assert str(url) == "http://127.0.0.1:80/"


@pytest.mark.parametrize(
    "host", ["[::ffff:127.0.0.1]", "[::FFFF:7F00:1]", "[0:0:0:0:0:ffff:7f00:0001]"]
)
def test_every_spelling_of_an_ipv6_address_is_that_address(host: str) -> None:
    assert parse_url(f"http://{host}/").address == IPv6Address("::ffff:7f00:1")


def test_a_zone_is_left_out() -> None:
    assert parse_url("http://[fe80::1%25eth0]/").address == IPv6Address("fe80::1")


def test_a_name_is_not_an_address() -> None:
    assert parse_url("http://127.0.0.1.example.com/").address is None
    assert parse_url("http://0x7f.example/").address is None


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("http://user@example.com/", "example.com"),
        ("http://user:secret@example.com/", "example.com"),
        ("http://example.org@example.com/", "example.com"),
        ("http://a@b@example.com/", "example.com"),
        ("http://@example.com/", "example.com"),
    ],
)
def test_credentials_are_seen_and_not_taken_for_the_host(text: str, host: str) -> None:
    url = parse_url(text)
    assert url.has_credentials
    assert url.host == host


def test_an_at_sign_in_the_path_is_not_a_credential() -> None:
    url = parse_url("http://example.com/@127.0.0.1/?a@b")
    assert (url.host, url.has_credentials) == ("example.com", False)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "photo.jpg", "/photo.jpg", "//example.com/a.jpg", "example.com/a.jpg"),
        *("http:", "http:/", "http://", "http:///a.jpg", "http:example.com", "http://:80/"),
        *("ftp://example.com/a.jpg", "file:///etc/passwd", "gopher://example.com/1"),
        *("data:image/png;base64,AAAA", "javascript:alert(1)", "dict://x/", "HTTPX://x/"),
        *("http://exa mple.com/", "http://example.com:0/", "http://example.com:65536/"),
        *("http://example.com:80x/", "http://example.com:-1/", "http://example.com:٨٠/"),
        *("http://a:b:c/", "http://[::1/", "http://::1/", "http://[::g]/", "http://[127.0.0.1]/"),
        *("http://example.com\\@127.0.0.1/", "http://example.com/\r\nHost: x", "http://a\tb/"),
        *("http://example.com/\x00", "http://example.com/\x7f", "http://a%00b/", "http://%ff/"),
        *("http://1.2.3.4.5/", "http://256.0.0.1/", "http://4294967296/", "http://0x/"),
        *("http://127.0.0.08/", "http://999999999999999999999/", "http://example..com/"),
        *("http://-a.example/", "http://a%2Fb/", "http://a%40b/", "http://a%3A80/"),
        *("http://" + "a" * 64 + ".example/", "http://" + "a." * 127 + "ab/"),
        "http://example.com/" + "a" * MAX_URL_LENGTH,
    ],
)
def test_what_is_not_an_http_url_is_an_invalid_url(text: str) -> None:
    with pytest.raises(PermanentError) as raised:
        parse_url(text)
    assert raised.value.code is ErrorCode.INVALID_URL


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b.jpg", "https://example.com:8443/b.jpg"),
        ("b.jpg", "https://example.com:8443/a/b.jpg"),
        ("?w=200", "https://example.com:8443/a/photo?w=200"),
        ("//cdn.example/b.jpg", "https://cdn.example:443/b.jpg"),
        ("http://127.1/", "http://127.0.0.1:80/"),
        (" https://cdn.example/ü ", "https://cdn.example:443/%C3%BC"),
    ],
)
def test_a_redirect_is_relative_to_where_it_came_from(location: str, target: str) -> None:
    assert str(parse_url("https://example.com:8443/a/photo").join(location)) == target


@pytest.mark.parametrize("location", ["file:///etc/passwd", "\\\\127.0.0.1/", "http://[", "data:,"])
def test_a_redirect_to_no_http_url_is_an_invalid_url(location: str) -> None:
    with pytest.raises(PermanentError) as raised:
        parse_url("http://example.com/").join(location)
    assert raised.value.code is ErrorCode.INVALID_URL


@given(st.text(max_size=40))
def test_any_text_is_refused_or_becomes_a_plain_url(text: str) -> None:
    for candidate in (text, f"http://{text}", f"http://example.com/{text}"):
        try:
            url = parse_url(candidate)
        except PermanentError:
            continue
        assert str(url).isascii()
        assert str(url).isprintable()
        assert " " not in str(url)
        assert parse_url(str(url)).host == url.host
