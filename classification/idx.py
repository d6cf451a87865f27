"""The IDX format of the MNIST family: a header with type and sizes, then the values.

http://yann.lecun.com/exdb/mnist/ describes it. Only unsigned bytes are read, which is what images
and labels are; the file may be gzipped.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from vision.errors import ErrorCode, PermanentError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08
# No data set of the family is near this; a damaged header must not ask for terabytes.
_MOST_BYTES = 1 << 30


def parse_idx(content: bytes, name: str, dimensions: int) -> NDArray[np.uint8]:
    """The array of a file's `content`, of as many `dimensions`: 3 for images, 1 for labels.

    Raises `PermanentError` (`dataset_invalid`) calling the file `name` when it is no such file,
    or is truncated or damaged.
    """
    stream: io.BufferedIOBase = io.BytesIO(content)
    if content.startswith(_GZIP_MAGIC):
        stream = gzip.GzipFile(fileobj=stream)
    try:
        shape = _shape(stream.read(4 + 4 * dimensions), name, dimensions)
        size = math.prod(shape)
        if size > _MOST_BYTES:
            raise _invalid(name, f"announces {size} values, more than any such data set has")
        values = stream.read(size)
        following = stream.read(1)
    except (EOFError, OSError, zlib.error) as error:
        raise _invalid(name, f"is damaged or truncated: {error}") from error
    if len(values) < size:
        raise _invalid(name, f"is truncated: {len(values)} of {size} values")
    if following:
        raise _invalid(name, f"goes on after its {size} values")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _shape(header: bytes, name: str, dimensions: int) -> tuple[int, ...]:
    expected = struct.pack(">HBB", 0, _UNSIGNED_BYTES, dimensions)
    if header[:4] != expected:
        raise _invalid(
            name,
            f"is no IDX file of unsigned bytes in {dimensions} dimensions: it starts with "
            f"{header[:4].hex() or 'nothing'}, not {expected.hex()}",
        )
    if len(header) < 4 + 4 * dimensions:
        raise _invalid(name, "is truncated within its header")
    return struct.unpack(f">{dimensions}I", header[4:])


def _invalid(name: str, problem: str) -> PermanentError:
    return PermanentError(ErrorCode.DATASET_INVALID, f"{name} {problem}")
