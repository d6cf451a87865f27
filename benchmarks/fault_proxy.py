"""A network between workers and their database that can be cut: TCP in, a Unix socket out.

    python -m benchmarks.fault_proxy /path/.s.PGSQL.5432   # prints its port

SIGSTOP cuts it: connections stay open, and nothing comes through. SIGCONT heals it. SIGUSR1 resets
every other connection, as a router does that has forgotten them. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

CHUNK = 64 * 1024


class Proxy:
    def __init__(self, target: str) -> None:
        self._target = target
        self._open: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []

    async def serve(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._forget_half)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, back_writer)
        self._open.append(pair)
        ways = [
            asyncio.create_task(_pump(reader, back_writer)),
            asyncio.create_task(_pump(back_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in pair:
            end.transport.abort()
        self._open.remove(pair)

    def _forget_half(self) -> None:
        for pair in self._open[::2]:
            for end in pair:
                end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    asyncio.run(Proxy(sys.argv[1]).serve())
