"""What kind of catalogue some bytes are. Content decides, not the name."""

from __future__ import annotations

import re
from enum import StrEnum

from services.ingestion.streams import GZIP_MAGIC
from vision.errors import ErrorCode, PermanentError
from vision.image import sniff

PARQUET_MAGIC = b"PAR1"
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")

# Known things that are no catalogue, so that the error can say what they are.
_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save it as CSV"),
    (b"7z\xbc\xaf", "a 7-Zip archive; use zip"),
    (b"Rar!", "a RAR archive; use zip"),
    (b"BZh", "bzip2; use gzip"),
    (b"\xfd7zXZ", "xz; use gzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard; use gzip"),
    (b"SQLite format 3", "a SQLite database"),
    (b"Obj\x01", "Avro"),
    (b"ORC", "ORC"),
)
_CONTROLS = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f]")
# A comma may belong to the URL, or it makes this a row that has lost its header.
_ONLY_URL = re.compile(r"https?://[^\s,;|]+", re.IGNORECASE)
_URL_AND_MORE = re.compile(r"https?://\S+", re.IGNORECASE)


class Format(StrEnum):
    """Every kind of catalogue. urls: lines of text with one image URL each."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    URLS = "urls"
    FOLDER = "folder"
    ZIP = "zip"


KNOWN = "CSV, JSONL, Parquet (each also gzip'd), a list of URLs, a folder or a zip of photos"


def binary_format(head: bytes) -> Format | None:
    """Parquet or zip by their first bytes, None for what may be text.

    Raises `PermanentError`: `unsupported_media` for other known kinds, `validation_error` when
    there is nothing.
    """
    if not head:
        raise PermanentError(ErrorCode.VALIDATION_ERROR, "the catalogue is empty: it has no bytes")
    if head.startswith(PARQUET_MAGIC):
        return Format.PARQUET
    if head.startswith(ZIP_MAGICS):
        return Format.ZIP
    if head.startswith(GZIP_MAGIC):
        raise unsupported("gzip within gzip")
    if sniff(head[:12]) is not None:
        raise unsupported("a photo; a catalogue names photos, `vestiary analyze` reads one")
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise unsupported(what)
    return None


def text_format(head: str, name: str) -> Format:
    """JSONL, a list of URLs or CSV, by the first lines.

    A file called `.csv` is never taken for a list of URLs: it has lost its header. Raises
    `PermanentError` (`unsupported_media`) for other text and for what is no text.
    """
    text = head.lstrip("\ufeff \t\r\n")
    if text.startswith("{"):
        return Format.JSONL
    if re.match(r"\[\s*[\[{\"]", text):
        raise unsupported("one JSON array; write one object a line (JSONL)")
    if text.startswith("<"):
        raise unsupported("HTML or XML")
    if len(_CONTROLS.findall(head)) > 0.05 * len(head):
        raise unsupported("of no known format")
    first_line = text.partition("\n")[0].strip()
    called_list = name.lower().endswith((".txt", ".urls"))
    called_table = name.lower().endswith((".csv", ".tsv"))
    alone = _URL_AND_MORE if called_list else _ONLY_URL
    if not called_table and alone.fullmatch(first_line):
        return Format.URLS
    return Format.CSV


def unsupported(what: str) -> PermanentError:
    return PermanentError(
        ErrorCode.UNSUPPORTED_MEDIA, f"the catalogue is {what}; what can be read: {KNOWN}"
    )
