"""A shop on loopback that is never the bottleneck: `GET /N.jpg` is a photo like no other.

    python -m benchmarks.photo_server --width 600 --height 800   # prints its port

Cut-outs of the sample photos at catalogue size; each answer has a comment of its own in its JPEG,
so that no two photos have the same digest. It ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
CUTS = 8
_START, _COMMENT = b"\xff\xd8", b"\xff\xfe"


def photos(width: int, height: int) -> list[bytes]:
    """JPEGs of width×height pixels, no two with the same content."""
    found = []
    for path in sorted(SAMPLES.glob("*.[jp][pn]g")):
        picture = Image.open(path).convert("RGB")
        for cut in range(CUTS):
            share = 1 - cut / (2 * CUTS)
            box = (0, 0, round(picture.width * share), round(picture.height * share))
            buffer = io.BytesIO()
            picture.resize((width, height), box=box).save(buffer, "JPEG", quality=88)
            found.append(buffer.getvalue())
    return found


def numbered(photo: bytes, number: int) -> bytes:
    """The same picture as another file."""
    comment = b"%d" % number
    length = (2 + len(comment)).to_bytes(2)
    return _START + _COMMENT + length + comment + photo.removeprefix(_START)


class Shop(asyncio.Protocol):
    catalogue: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        number = int(data[data.index(b"/") + 1 : data.index(b".")])
        photo = numbered(self.catalogue[number % len(self.catalogue)], number)
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(photo))
        self._transport.write(photo)


async def serve(width: int, height: int) -> None:
    Shop.catalogue = photos(width, height)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Shop, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=600)
    parser.add_argument("--height", type=int, default=800)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.width, arguments.height))


if __name__ == "__main__":
    main()
