"""Servers that behave badly, on real loopback sockets.

A behaviour gets one accepted connection and does with it what it likes; the server closes it
afterwards. Behaviours that never end stop when the client hangs up.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address

import dnslib

Behaviour = Callable[["Connection"], None]


@dataclass
class Connection:
    """One accepted connection."""

    socket: socket.socket
    sent_bytes: int = 0

    def read_request(self) -> bytes:
        """The request's line and headers; what has come when the client hangs up."""
        head = b""
        while b"\r\n\r\n" not in head and (part := self.socket.recv(65536)):
            head += part
        return head

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)
        self.sent_bytes += len(data)

    def reset(self) -> None:
        """Close with a TCP reset instead of a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@dataclass
class HostileServer:
    """A listening server. connections: every one it accepted, in order."""

    address: str
    port: int
    connections: list[Connection] = field(default_factory=list)

    def url(self, path: str = "/photo.jpg", host: str | None = None, scheme: str = "http") -> str:
        own_host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{scheme}://{host or own_host}:{self.port}{path}"


@contextmanager
def serve(
    behaviour: Behaviour,
    address: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[HostileServer]:
    """Run a server until the block ends. `tls` makes it shake hands before it behaves."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    server = HostileServer(address, listener.getsockname()[1])

    def handle(connection: Connection) -> None:
        # A client that hangs up is what most of these behaviours are there to provoke.
        with suppress(OSError):
            if tls is not None:
                connection.socket = tls.wrap_socket(connection.socket, server_side=True)
            behaviour(connection)
        with suppress(OSError):
            connection.socket.close()

    def accept() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:  # the listener was shut down: the block has ended
                return
            accepted.settimeout(10)
            connection = Connection(accepted)
            server.connections.append(connection)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)
        for connection in server.connections:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)


def response(
    body: bytes = b"", status: str = "200 OK", headers: Mapping[str, str] | None = None
) -> bytes:
    """A whole HTTP/1.1 answer. `Content-Length` is the body's unless the headers say otherwise."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"} | dict(headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body


def answering(*parts: bytes) -> Behaviour:
    """Read the request, send the parts, close."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        for part in parts:
            connection.send(part)

    return behave


def routing(routes: Mapping[str, bytes], seen: list[bytes] | None = None) -> Behaviour:
    """Answer by path (with query); 404 for any other. `seen` collects the request heads."""

    def behave(connection: Connection) -> None:
        head = connection.read_request()
        if seen is not None:
            seen.append(head)
        path = head.split(b" ")[1].decode("ascii")
        connection.send(routes.get(path, response(status="404 Not Found")))

    return behave


def redirecting(location: str, status: str = "302 Found") -> Behaviour:
    return answering(response(status=status, headers={"Location": location}))


def dripping(head: bytes, body: bytes, pause_s: float = 0.05) -> Behaviour:
    """The head at once, then the body a byte at a time: never idle, never done in time."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.send(head)
        for byte in body:
            connection.send(bytes([byte]))
            time.sleep(pause_s)

    return behave


def endless(head: bytes, part: bytes) -> Behaviour:
    """The head once, then the same part for ever, as fast as the client takes it."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        connection.send(head)
        for data in itertools.repeat(part):
            connection.send(data)

    return behave


def silent(connection: Connection) -> None:
    """Take whatever comes and never answer: on https, a handshake that does not end."""
    while connection.socket.recv(65536):
        pass


def resetting(*parts: bytes) -> Behaviour:
    """Send the parts after the request, then reset the connection."""

    def behave(connection: Connection) -> None:
        connection.read_request()
        for part in parts:
            connection.send(part)
        time.sleep(0.05)  # let the parts arrive before the reset throws them away
        connection.reset()

    return behave


@dataclass
class NameServer:
    """A DNS server. answers: name → the answers to its first, second, … lookup, the last repeated.

    An answer is a list of addresses; None never answers. queries: the names asked for.
    """

    port: int
    answers: Mapping[str, Sequence[Sequence[str] | None]]
    queries: list[str] = field(default_factory=list)

    def reply(self, packet: bytes) -> bytes | None:
        request = dnslib.DNSRecord.parse(packet)
        name = str(request.q.qname).rstrip(".")
        known = self.answers.get(name, [[]])
        answer = known[min(self.queries.count(name), len(known) - 1)]
        self.queries.append(name)
        if answer is None:
            return None
        reply = request.reply()
        for address in answer:
            if ":" in address:
                record = dnslib.AAAA(IPv6Address(address).exploded)
                reply.add_answer(dnslib.RR(name, dnslib.QTYPE.AAAA, rdata=record, ttl=0))
            else:
                reply.add_answer(dnslib.RR(name, dnslib.QTYPE.A, rdata=dnslib.A(address), ttl=0))
        packed: bytes = reply.pack()
        return packed

    def resolve(self, host: str) -> list[str]:
        """Ask this server over UDP: what a `Fetcher` is given to resolve names with."""
        question = dnslib.DNSRecord.question(host, "ANY")
        answer = dnslib.DNSRecord.parse(question.send("127.0.0.1", self.port, timeout=5))
        addresses = [str(record.rdata) for record in answer.rr]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return addresses


@contextmanager
def serve_names(answers: Mapping[str, Sequence[Sequence[str] | None]]) -> Iterator[NameServer]:
    """Run a DNS server on a loopback UDP port until the block ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(0.1)
        server = NameServer(udp.getsockname()[1], answers)
        stopped = threading.Event()

        def answer() -> None:
            while not stopped.is_set():
                try:
                    packet, client = udp.recvfrom(4096)
                except TimeoutError:
                    continue
                if (reply := server.reply(packet)) is not None:
                    udp.sendto(reply, client)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stopped.set()
            thread.join(5)
