"""A picture's file reduced to what decides its pixels, in bounded work.

Decoding should cost what the pixels cost, and their number is checked. But a file may also hold
metadata that unpacks to gigabytes, millions of tiny parts that are each handled in Python, or, in a
progressive JPEG, any number of passes over all pixels: 20 MB of those keep a core busy for hours.
So metadata is left out before a decoder sees it, and parts and passes are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from vision.errors import ErrorCode, PermanentError

# A 20 MB PNG in the usual 8 kB chunks has 2,500 parts.
MAX_PARTS = 20_000
# Encoders write 10, tuned ones up to about 20.
MAX_SCANS = 64

# Text and colour profiles are compressed and never looked at; without the animation chunks an APNG
# is its first picture.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})

_SOS, _EOI = b"\xff\xda", b"\xff\xd9"
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a body: TEM, RSTn, SOI
# COM and APPn, but JFIF (0xE0), EXIF (0xE1, judged by its body) and Adobe's colours (0xEE).
_JPEG_METADATA = frozenset({0xFE, *range(0xE1, 0xEE), 0xEF})

_GIF_EXTENSION, _GIF_IMAGE, _GIF_END, _GIF_GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9


def only_pixels(image_format: str, data: bytes) -> bytes:
    """The file without metadata but EXIF. What is cut short stays cut short.

    image_format: as `vision.image.sniff` names it. Raises `PermanentError` (`image_too_large`) when
    decoding would take work out of proportion to any honest picture.
    """
    reduce = _REDUCERS.get(image_format)
    return data if reduce is None else reduce(data)


def _reduce_png(data: bytes) -> bytes:
    view, parts = memoryview(data), _Parts()
    kept = [view[:8]]
    start = 8
    while start + 8 <= len(data):
        parts.count()
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length  # length, kind, body, checksum
        if kind in _PNG_CHUNKS:
            kept.append(view[start:end])
        if kind == b"IEND":
            break
        start = end
    return b"".join(kept)


def _reduce_jpeg(data: bytes) -> bytes:
    view, parts = memoryview(data), _Parts()
    kept = [view[:2]]
    has_exif = False
    start = 2
    # Before the first scan, segments; stray bytes between them are passed over, as decoders do.
    while (start := data.find(b"\xff", start)) != -1 and start + 4 <= len(data):
        parts.count()
        marker = data[start + 1]
        if marker == _SOS[1]:
            kept.append(view[start : _end_of_scans(data, start)])
            break
        if marker in (0x00, 0xFF):  # a stray byte, a fill byte
            start += 1
            continue
        if marker in _JPEG_ALONE:
            start += 2
            continue
        end = start + 2 + int.from_bytes(view[start + 2 : start + 4])
        is_exif = marker == 0xE1 and not has_exif and data.startswith(b"Exif\x00", start + 4)
        has_exif = has_exif or is_exif
        if is_exif or marker not in _JPEG_METADATA:
            kept.append(view[start:end])
        start = max(end, start + 2)
    return b"".join(kept)


def _end_of_scans(data: bytes, start: int) -> int:
    """Where the picture ends. What lies behind (a second picture, a film) is not decoded.

    Within a scan only 0x00 or a restart follows 0xFF, so the other markers can be searched for.
    """
    found = data.find(_EOI, start)
    end = len(data) if found == -1 else found + 2
    if data.count(_SOS, start, end) > MAX_SCANS:
        raise _too_much_work()
    return end


def _reduce_gif(data: bytes) -> bytes:
    view, parts = memoryview(data), _Parts()
    packed = data[10] if len(data) > 10 else 0
    start = 13 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)  # screen, global palette
    kept = [view[:start]]
    while start + 1 < len(data) and data[start] != _GIF_END:
        parts.count()
        if data[start] == _GIF_IMAGE:
            kept.append(view[start:])
            break
        if data[start] != _GIF_EXTENSION:  # a stray byte
            start += 1
            continue
        end = start + 2
        while end < len(data) and data[end]:
            parts.count()
            end += 1 + data[end]
        if data[start + 1] == _GIF_GRAPHIC_CONTROL:
            kept.append(view[start : end + 1])
        start = end + 1
    return b"".join(kept)


_REDUCERS: dict[str, Callable[[bytes], bytes]] = {
    "PNG": _reduce_png,
    "JPEG": _reduce_jpeg,
    "GIF": _reduce_gif,
}


class _Parts:
    """How many parts of a file were looked at."""

    def __init__(self) -> None:
        self._seen = 0

    def count(self) -> None:
        self._seen += 1
        if self._seen > MAX_PARTS:
            raise _too_much_work()


def _too_much_work() -> PermanentError:
    return PermanentError(
        ErrorCode.IMAGE_TOO_LARGE, "the image takes far more work to decode than its size explains"
    )
