"""Bytes of a catalogue, whatever they come out of, in memory that does not grow with them."""

from __future__ import annotations

import gzip
import io
import tempfile
import zlib
from typing import IO, BinaryIO

from vision.errors import ErrorCode, PermanentError

HEAD_BYTES = 256 * 1024
"""What format, encoding and columns are told from."""
GZIP_MAGIC = b"\x1f\x8b"
MAX_GZIP_RATIO = 200
"""Deflate ends at 1,032; catalogues, repetitive as they are, stay under 60."""
GZIP_GRACE_BYTES = 16 * 1024 * 1024
MAX_SPOOL_BYTES = 16 * 1024**3
_CHUNK = 1024 * 1024


def split_head(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """The first `HEAD_BYTES` of a stream that need not seek, and the stream from its beginning.

    Where the stream breaks off within the head, the second one does so at the same place.
    """
    head = bytearray()
    failure = None
    try:
        while len(head) < HEAD_BYTES and (chunk := _read_some(stream, HEAD_BYTES - len(head))):
            head += chunk
    except PermanentError as error:
        if not head:
            raise
        failure = error
    return bytes(head), io.BufferedReader(_Rejoined(bytes(head), stream, failure), _CHUNK)


def ungzip(stream: BinaryIO) -> BinaryIO:
    """The expanded bytes.

    Reading raises `PermanentError`: `source_incomplete` where the data break off or are damaged,
    after everything before was given out, and `source_too_large` when they expand like a bomb.
    """
    return io.BufferedReader(_Expanded(stream), HEAD_BYTES)


def spool(stream: BinaryIO) -> IO[bytes]:
    """A copy on disk, for formats that are read from their end. Gone when closed.

    Raises `PermanentError` (`source_too_large`).
    """
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        size = 0
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            if size > MAX_SPOOL_BYTES:
                raise PermanentError(
                    ErrorCode.SOURCE_TOO_LARGE, f"more than {MAX_SPOOL_BYTES:,} bytes"
                )
            copy.write(chunk)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy


class _Rejoined(io.RawIOBase):
    """A head that was read already, then the rest, or what reading it ended with."""

    def __init__(self, head: bytes, rest: BinaryIO, failure: PermanentError | None) -> None:
        self._head = head
        self._rest = rest
        self._failure = failure

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._head:
            data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        elif self._failure is not None:
            raise self._failure
        else:
            data = _read_some(self._rest, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Counted(io.RawIOBase):
    """Counts the bytes that pass."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = _read_some(self._stream, len(buffer))
        self.count += len(data)
        buffer[: len(data)] = data
        return len(data)


class _Expanded(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        self._compressed = _Counted(stream)
        self._file = gzip.GzipFile(fileobj=io.BufferedReader(self._compressed), mode="rb")
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            # read1, because read would lose what it has when the next piece is damaged.
            data = self._file.read1(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            message = "the gzip data break off" if isinstance(error, EOFError) else "damaged gzip"
            raise PermanentError(ErrorCode.SOURCE_INCOMPLETE, message) from error
        self._count += len(data)
        allowed = GZIP_GRACE_BYTES + MAX_GZIP_RATIO * self._compressed.count
        if self._count > allowed:
            raise PermanentError(
                ErrorCode.SOURCE_TOO_LARGE,
                f"the gzip data expand more than {MAX_GZIP_RATIO} times",
            )
        buffer[: len(data)] = data
        return len(data)


def _read_some(stream: BinaryIO, size: int) -> bytes:
    """At most `size` bytes, as soon as there are any; uploads and pipes give what they have."""
    read = getattr(stream, "read1", stream.read)
    data: bytes = read(size)
    return data
