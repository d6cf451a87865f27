"""Text of a catalogue: its encoding, and its lines, none of which can fill the memory."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from vision.errors import ErrorCode, PermanentError

MAX_LINE_CHARS = 1024 * 1024
FALLBACK_ENCODING = "cp1252"
"""What is not UTF-8 is taken for this, which holds Latin-1. Telling it from its relatives by
statistics goes wrong on the few accents a catalogue has (charset-normalizer 3.5.2 took it for
cp1250), so another encoding has to be named."""

# Marks bytes that do not belong, as `surrogateescape` does; that one does not work in UTF-16.
MARK_ERRORS = "vestiary-mark"
_MARKED = re.compile("[\udc00-\udcff]")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in wrong), error.end


codecs.register_error(MARK_ERRORS, _mark)


class LineTooLongError(Exception):
    """A line longer than `MAX_LINE_CHARS`; the rest of it has been skipped."""


def sniff_encoding(head: bytes) -> str:
    """UTF-8, UTF-16 or UTF-32 by its mark; UTF-16 by its zeros; UTF-8; else cp1252.

    A few lines in another encoding do not change what most of the lines say.
    """
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) > 0.3 * len(head) / 2 and min(even, odd) < 0.05 * len(head) / 2:
        return "utf-16-le" if odd > even else "utf-16-be"
    # The last line may end in the middle of a character, but only when there are others.
    lines = [line for line in head.split(b"\n")[:-1] or [head] if not line.isascii()]
    return "utf-8" if 2 * sum(map(_is_utf8, lines)) >= len(lines) else FALLBACK_ENCODING


def check_encoding(name: str) -> str:
    """Raises `PermanentError` (`validation_error`) for a name Python knows no text encoding of."""
    try:
        "".encode(name)
    except (LookupError, ValueError) as error:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR, f"{name!r} is no encoding; utf-8 and cp1252 are"
        ) from error
    return "utf-8-sig" if codecs.lookup(name).name == "utf-8" else name  # With or without mark.


def is_8_bit(encoding: str) -> bool:
    """Whether UTF-8 would decode in it as well, to nonsense."""
    return codecs.lookup(encoding).name in {"cp1252", "iso8859-1", "iso8859-15"}


def text_problem(text: str, encoding: str) -> str | None:
    """What is wrong with a row's text, or None."""
    if text.isascii():
        return "a NUL byte" if "\0" in text else None
    if "\0" in text:
        return "a NUL byte"
    if _MARKED.search(text):
        return f"bytes that are not {encoding.removesuffix('-sig')}: encodings are mixed"
    if is_8_bit(encoding) and _is_utf8(text.encode(encoding, "replace")):
        return f"UTF-8 in a file of {encoding}: encodings are mixed"
    return None


class BoundedLines:
    """Physical lines with their ends; `line_number` is that of the last one, from 1.

    `next` raises `LineTooLongError` once for a line that is too long, and goes on after it.
    """

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        # newline="": line ends inside of quoted cells are theirs.
        self._text = io.TextIOWrapper(stream, encoding, errors=MARK_ERRORS, newline="")
        self.encoding = encoding
        self.line_number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE_CHARS)
        if not line:
            raise StopIteration
        self.line_number += 1
        if len(line) == MAX_LINE_CHARS and not line.endswith(("\n", "\r")):
            self._skip_rest()
            raise LineTooLongError
        return line

    def _skip_rest(self) -> None:
        while rest := self._text.readline(MAX_LINE_CHARS):
            if rest.endswith(("\n", "\r")):
                return


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
