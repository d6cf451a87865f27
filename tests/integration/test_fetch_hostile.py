"""Fetching from servers that mean harm, or are broken.

Limits are small so that the tests are quick. What is asserted of time is far above the limit and
far below what the server would take, so that a busy machine does not decide the outcome.
"""

from __future__ import annotations

import gzip
import ssl
import threading
import time
import tracemalloc

import pytest
import trustme

from services.pipeline.fetch import Fetcher
from tests.integration.fetching import failure, fetcher_for, timed_failure
from tests.integration.hostile import (
    Behaviour,
    Connection,
    HostileServer,
    answering,
    dripping,
    endless,
    redirecting,
    resetting,
    response,
    serve,
    serve_names,
    silent,
)
from tests.pictures import picture
from vision.errors import ErrorCode, PermanentError, TransientError
from vision.image import decode

PHOTO = picture().data
DEADLINE_S = 0.5
# A noisy machine may be late; the servers here would take 30 s or for ever.
AT_LATEST_S = 3.0
MAX_BYTES = 100_000
CHUNKED = {"Content-Length": "", "Transfer-Encoding": "chunked"}


def hasty(server: HostileServer) -> Fetcher:
    return fetcher_for(server.port, total_timeout_s=DEADLINE_S, max_bytes=MAX_BYTES)


class TestDeadline:
    @pytest.mark.parametrize(
        "behaviour",
        [
            pytest.param(silent, id="no answer"),
            pytest.param(
                dripping(response(headers={"Content-Length": "600"}), PHOTO[:8] + bytes(592)),
                id="dripped body",
            ),
            pytest.param(dripping(b"", b"HTTP/1.1 200 OK\r\n" + bytes(600)), id="dripped status"),
            pytest.param(
                dripping(b"HTTP/1.1 200 OK\r\n", b"X-Padding: 1234567\r\n" * 30),
                id="dripped headers",
            ),
            pytest.param(
                dripping(response(b"8;", headers=CHUNKED), b"x" * 600), id="dripped chunk extension"
            ),
            pytest.param(
                dripping(
                    response(status="302 Found", headers={"Content-Length": "600"})[:-2], b"X" * 600
                ),
                id="dripped redirect",
            ),
        ],
    )
    def test_holds_whatever_the_server_does(self, behaviour: Behaviour) -> None:
        with serve(behaviour) as server:
            error, seconds = timed_failure(hasty(server), server.url())
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.SOURCE_TIMEOUT
        assert DEADLINE_S * 0.9 <= seconds < AT_LATEST_S

    @pytest.mark.parametrize(
        "behaviour", [silent, dripping(b"", b"\x16\x03\x03\x40\x00" + bytes(600))]
    )
    def test_holds_during_the_tls_handshake(self, behaviour: Behaviour) -> None:
        with serve(behaviour) as server:
            error, seconds = timed_failure(hasty(server), server.url(scheme="https"))
        assert error.code is ErrorCode.SOURCE_TIMEOUT
        assert seconds < AT_LATEST_S

    def test_is_shorter_for_the_handshake_when_the_policy_says_so(self) -> None:
        with serve(silent) as server:
            fetcher = fetcher_for(server.port, total_timeout_s=30, connect_timeout_s=DEADLINE_S)
            error, seconds = timed_failure(fetcher, server.url(scheme="https"))
        assert error.code is ErrorCode.SOURCE_TIMEOUT
        assert seconds < AT_LATEST_S

    def test_holds_over_all_redirects_together(self) -> None:
        """Each hop answers after 0.3 s, under the deadline of 0.5 s; two of them do not."""

        def behave(connection: Connection) -> None:
            connection.read_request()
            time.sleep(0.3)
            connection.send(response(status="302 Found", headers={"Location": "/"}))

        with serve(behave) as server:
            error, seconds = timed_failure(hasty(server), server.url())
        assert error.code is ErrorCode.SOURCE_TIMEOUT
        assert seconds < AT_LATEST_S
        assert len(server.connections) <= 2

    def test_holds_while_a_name_is_looked_up(self) -> None:
        """A name server that never answers; the look-up itself would wait for 5 s."""
        with serve_names({"shop.example": [None]}) as names:
            fetcher = fetcher_for(80, resolve=names.resolve, total_timeout_s=DEADLINE_S)
            error, seconds = timed_failure(fetcher, "http://shop.example/")
        assert error.code is ErrorCode.SOURCE_TIMEOUT
        assert seconds < AT_LATEST_S

    def test_does_not_depend_on_signals(self) -> None:
        """Signals reach the main thread only; here another one fetches."""
        with serve(silent) as server:
            outcome: list[tuple[object, float]] = []
            thread = threading.Thread(
                target=lambda: outcome.append(timed_failure(hasty(server), server.url()))
            )
            thread.start()
            thread.join(10)
        [(error, seconds)] = outcome
        assert isinstance(error, TransientError)
        assert seconds < AT_LATEST_S


class TestSize:
    def test_an_endless_body_is_cut_at_the_limit(self) -> None:
        with serve(endless(b"HTTP/1.1 200 OK\r\n\r\n" + PHOTO, bytes(65536))) as server:
            fetcher = fetcher_for(server.port, max_bytes=MAX_BYTES)
            error, seconds = timed_failure(fetcher, server.url())
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.SOURCE_TOO_LARGE
        assert seconds < 9  # long before the deadline of 10 s, which would also end it

    def test_an_endless_chunked_body_is_cut_at_the_limit(self) -> None:
        head = response(b"8\r\n" + PHOTO[:8] + b"\r\n", headers=CHUNKED)
        with serve(endless(head, b"1000\r\n" + bytes(4096) + b"\r\n")) as server:
            error = failure(fetcher_for(server.port, max_bytes=MAX_BYTES), server.url())
        assert error.code is ErrorCode.SOURCE_TOO_LARGE

    @pytest.mark.parametrize("promised", [str(MAX_BYTES + 1), "99999999999", "9" * 40])
    def test_a_promise_of_too_much_is_enough(self, promised: str) -> None:
        """The server sends a few bytes and then waits: the promise ends it, not the deadline."""

        def behave(connection: Connection) -> None:
            connection.read_request()
            connection.send(response(PHOTO, headers={"Content-Length": promised}))
            silent(connection)

        with serve(behave) as server:
            fetcher = fetcher_for(server.port, max_bytes=MAX_BYTES)
            error, seconds = timed_failure(fetcher, server.url())
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.SOURCE_TOO_LARGE
        assert seconds < AT_LATEST_S

    @pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
    def test_the_limit_is_inclusive(self, spare: int, fits: bool) -> None:
        for headers in ({}, {"Content-Length": ""}):  # with and without a promise
            with serve(answering(response(PHOTO, headers=headers))) as server:
                fetcher = fetcher_for(server.port, max_bytes=len(PHOTO) + spare)
                if fits:
                    assert fetcher.fetch(server.url()).data == PHOTO
                else:
                    assert failure(fetcher, server.url()).code is ErrorCode.SOURCE_TOO_LARGE

    @pytest.mark.parametrize(
        "behaviour",
        [
            pytest.param(endless(b"HTTP/1.1 200 OK\r\n", b"X-A: 1234567890\r\n" * 100), id="lines"),
            pytest.param(endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"1" * 4096), id="one line"),
            pytest.param(endless(b"HTTP/1.1 200 ", b"1" * 4096), id="status line"),
            pytest.param(endless(b"", b"HTTP/1.1 103 Hints\r\nX: 1\r\n\r\n" * 100), id="hints"),
        ],
    )
    def test_endless_headers_are_cut(self, behaviour: Behaviour) -> None:
        with serve(behaviour) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.SOURCE_TOO_LARGE

    def test_a_gzip_bomb_is_not_unpacked(self) -> None:
        """100 MB in 100 kB: refused for what it is, in about its own size of memory."""
        bomb = gzip.compress(bytes(100_000_000))
        with serve(answering(response(bomb, headers={"Content-Encoding": "gzip"}))) as server:
            tracemalloc.start()
            error = failure(fetcher_for(server.port), server.url())
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.UNSUPPORTED_MEDIA
        assert peak < 5_000_000

    @pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "deflate"])
    def test_a_transfer_coding_is_not_undone(self, coding: str) -> None:
        bomb = gzip.compress(bytes(10_000_000))
        headers = {"Content-Length": "", "Transfer-Encoding": coding}
        with serve(answering(response(bomb, headers=headers))) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert error.code is ErrorCode.UNSUPPORTED_MEDIA

    @pytest.mark.parametrize(
        ("status", "code"),
        [("404 Not Found", ErrorCode.SOURCE_STATUS), ("302 Found", ErrorCode.TOO_MANY_REDIRECTS)],
    )
    def test_the_body_of_anything_but_a_picture_is_not_waited_for(
        self, status: str, code: ErrorCode
    ) -> None:
        head = f"HTTP/1.1 {status}\r\nLocation: /\r\n\r\n".encode()
        with serve(dripping(head, bytes(600))) as server:
            error, seconds = timed_failure(fetcher_for(server.port), server.url())
        assert error.code is code
        assert seconds < AT_LATEST_S

    def test_a_page_that_is_no_picture_is_not_waited_for(self) -> None:
        with serve(
            dripping(response(b"<!DOCTYPE html>", headers={"Content-Length": "615"}), bytes(600))
        ) as server:
            error, seconds = timed_failure(fetcher_for(server.port), server.url())
        assert error.code is ErrorCode.UNSUPPORTED_MEDIA
        assert seconds < AT_LATEST_S


class TestBrokenOff:
    HALF = PHOTO[: len(PHOTO) // 2]

    @pytest.mark.parametrize(
        "behaviour",
        [
            pytest.param(
                answering(response(HALF, headers={"Content-Length": str(len(PHOTO))})),
                id="half of what was promised",
            ),
            pytest.param(
                resetting(response(HALF, headers={"Content-Length": str(len(PHOTO))})),
                id="reset in the body",
            ),
            pytest.param(
                answering(response(b"ffff\r\n" + HALF, headers=CHUNKED)), id="within a chunk"
            ),
            pytest.param(
                answering(response(b"40\r\n" + PHOTO[:64] + b"\r\n", headers=CHUNKED)),
                id="before the last chunk",
            ),
            pytest.param(
                answering(response(b"40\r\n" + PHOTO[:64] + b"\r\nzz\r\n", headers=CHUNKED)),
                id="chunk of no size",
            ),
            pytest.param(
                answering(response(headers={"Content-Length": "5"})),
                id="nothing of what was promised",
            ),
            pytest.param(answering(b"HTTP/1.1 200 OK\r\nServer: x\r\n"), id="within the headers"),
            pytest.param(
                answering(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/a"),
                id="within a redirect",
            ),
        ],
    )
    def test_a_body_that_is_not_whole_is_incomplete(self, behaviour: Behaviour) -> None:
        with serve(behaviour) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.SOURCE_INCOMPLETE

    def test_half_a_picture_that_claims_to_be_whole_is_for_the_decoder(self) -> None:
        with serve(answering(response(self.HALF))) as server:
            image = fetcher_for(server.port).fetch(server.url())
        with pytest.raises(PermanentError) as raised:
            decode(image)
        assert raised.value.code is ErrorCode.IMAGE_CORRUPT

    def test_tls_cut_without_a_goodbye_is_incomplete(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Somebody on the way may have cut it: what came is not taken for the whole."""
        authority = trustme.CA()
        ca_file = tmp_path_factory.mktemp("tls") / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        until_closed = response(self.HALF, headers={"Content-Length": ""})
        with serve(answering(until_closed), tls=tls) as server:
            error = failure(fetcher_for(server.port, ca_file=ca_file), server.url(scheme="https"))
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.SOURCE_INCOMPLETE

    @pytest.mark.parametrize(
        "behaviour",
        [
            pytest.param(resetting(), id="reset"),
            pytest.param(answering(), id="closed without a word"),
            pytest.param(answering(b"SSH-2.0-OpenSSH_9.9\r\n"), id="another protocol"),
            pytest.param(answering(PHOTO), id="a picture without HTTP"),
            pytest.param(
                answering(response(PHOTO, headers={"Content-Length": "-1"})), id="negative length"
            ),
            pytest.param(
                answering(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 5\r\n\r\n12345"
                ),
                id="two lengths",
            ),
            pytest.param(
                answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), id="upgrade"
            ),
        ],
    )
    def test_what_gives_no_answer_is_unreachable(self, behaviour: Behaviour) -> None:
        with serve(behaviour) as server:
            error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.SOURCE_UNREACHABLE

    def test_a_port_nobody_listens_on_is_unreachable(self) -> None:
        with serve(silent) as server:
            pass
        error = failure(fetcher_for(server.port), server.url())
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.SOURCE_UNREACHABLE

    def test_tls_spoken_to_a_plain_server_is_unreachable(self) -> None:
        def behave(connection: Connection) -> None:
            connection.socket.recv(65536)  # the handshake's first message
            connection.send(response(status="400 Bad Request"))

        with serve(behave) as server:
            error = failure(fetcher_for(server.port), server.url(scheme="https"))
        assert error.code is ErrorCode.SOURCE_UNREACHABLE

    def test_a_redirect_to_a_broken_server(self) -> None:
        with serve(resetting()) as broken, serve(redirecting(broken.url())) as server:
            error = failure(fetcher_for(server.port, broken.port), server.url())
        assert error.code is ErrorCode.SOURCE_UNREACHABLE
