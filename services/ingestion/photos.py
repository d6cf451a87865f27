"""Photos that lie in a folder or a zip on this machine: as rows, and their bytes."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote, unquote, urlsplit

from services.ingestion.rows import CatalogueRow, RowProblem
from vision.archive import IMAGE_SUFFIXES
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage

OTHER_IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".cr2", ".dng", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".psd",
    ".svg", ".tif", ".tiff",
)  # fmt: skip
"""Photos as well, but none that can be read: reported, where other files are passed over."""
MAX_ZIP_DIRECTORY_BYTES = 256 * 1024 * 1024
"""The list of a zip's members is read whole: about 1 KB of memory for 100 bytes of this."""
MAX_ZIP_RATIO = 100
"""Photos are compressed already; a member that expands this much is made to fill a memory."""
ZIP_GRACE_BYTES = 1024 * 1024
MAX_NAME_CHARS = 512
OPEN_ZIPS = 4

# What a damaged or encrypted member raises, by where it is damaged.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)
# Of the zip format, APPNOTE.TXT 4.3.14 to 4.3.16; `size` is that of the list of members.
_END = struct.Struct("<4s4H2LH")
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")


def folder_rows(folder: Path) -> Iterator[CatalogueRow | RowProblem]:
    """Photos of a folder and those below, in order of their names; hidden ones are left out.

    A photo's external id is its path within the folder. Links to folders are not followed. Memory
    grows with the largest single folder, by about 100 bytes a file.
    """
    number = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not _is_photo(name):
                continue
            number += 1
            relative = path.relative_to(folder).as_posix()
            problem = _name_problem(relative)
            if problem is not None:
                yield RowProblem(number, *problem)
            else:
                yield _row(number, relative, path.resolve().as_uri())


def open_zip(path: Path) -> zipfile.ZipFile:
    """Raises `PermanentError`: `validation_error` for no zip, `source_too_large` for a bomb."""
    try:
        with path.open("rb") as file:
            directory_bytes = _directory_bytes(file)
        if directory_bytes > MAX_ZIP_DIRECTORY_BYTES:
            raise PermanentError(ErrorCode.SOURCE_TOO_LARGE, "the zip has too many members")
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR, f"not a readable zip file: {error}"
        ) from error


def zip_rows(archive: zipfile.ZipFile, path: Path) -> Iterator[CatalogueRow | RowProblem]:
    """Photos of a zip in its own order. A photo's external id is its name within the zip."""
    number = 0
    base = path.resolve().as_uri()
    for member in archive.infolist():
        leaf = member.filename.rpartition("/")[2]
        if not _is_photo(leaf) or member.filename.startswith("__MACOSX/"):
            continue
        number += 1
        problem = _name_problem(member.filename) or _member_problem(archive, member)
        if problem is not None:
            yield RowProblem(number, *problem)
        else:
            yield _row(number, member.filename, f"{base}#{quote(member.filename)}")


class LocalImages:
    """The bytes behind `file://` references. Keeps a few zips open; for one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._zips: OrderedDict[tuple[str, int, int], zipfile.ZipFile] = OrderedDict()

    def read(self, ref: str) -> EncodedImage:
        """Raises `PermanentError`: `source_unreachable` or `_too_large`, a zip's `_incomplete`."""
        path, _, member = ref.partition("#")
        file = unquote(urlsplit(path).path)
        try:
            if member:
                with self._zip(file).open(unquote(member)) as stream:
                    data = stream.read(self._max_bytes + 1)
            else:
                with Path(file).open("rb") as stream:
                    data = stream.read(self._max_bytes + 1)
        except (KeyError, OSError) as error:
            raise PermanentError(ErrorCode.SOURCE_UNREACHABLE, "no such file") from error
        except _ZIP_ERRORS as error:
            raise PermanentError(ErrorCode.SOURCE_INCOMPLETE, f"damaged zip: {error}") from error
        if len(data) > self._max_bytes:
            raise PermanentError(
                ErrorCode.SOURCE_TOO_LARGE, f"the photo has more than {self._max_bytes} bytes"
            )
        return EncodedImage(data)

    def _zip(self, file: str) -> zipfile.ZipFile:
        found = Path(file).stat()
        key = (file, found.st_mtime_ns, found.st_size)  # A file replaced by another is that one.
        if key not in self._zips:
            self._zips[key] = open_zip(Path(file))
            if len(self._zips) > OPEN_ZIPS:
                self._zips.popitem(last=False)[1].close()
        self._zips.move_to_end(key)
        return self._zips[key]

    def close(self) -> None:
        while self._zips:
            self._zips.popitem()[1].close()

    def __enter__(self) -> LocalImages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LocalImagesPool:
    """One `LocalImages` for each thread that asks at a time; opening a large zip takes a second."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._spare: list[LocalImages] = []

    @contextmanager
    def borrow(self) -> Iterator[LocalImages]:
        """For this thread alone until the block ends."""
        try:
            images = self._spare.pop()
        except IndexError:
            images = LocalImages(self._max_bytes)
        try:
            yield images
        finally:
            self._spare.append(images)

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()


def _row(number: int, name: str, ref: str) -> CatalogueRow:
    return CatalogueRow(number, external_id=name, image_refs=(ref,), product_url=None, hints={})


def _is_photo(leaf: str) -> bool:
    return not leaf.startswith(".") and leaf.lower().endswith(IMAGE_SUFFIXES + OTHER_IMAGE_SUFFIXES)


def _name_problem(name: str) -> tuple[ErrorCode, str] | None:
    if len(name) > MAX_NAME_CHARS:
        return ErrorCode.VALIDATION_ERROR, f"a name longer than {MAX_NAME_CHARS} characters"
    if "\0" in name or (not name.isascii() and not _is_unicode(name)):
        return ErrorCode.VALIDATION_ERROR, f"a name that is not Unicode: {name!r}"
    if not name.lower().endswith(IMAGE_SUFFIXES):
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        return ErrorCode.UNSUPPORTED_MEDIA, f"{name!r} is none of {kinds}"
    return None


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _member_problem(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[ErrorCode, str] | None:
    name = member.filename
    if archive.getinfo(name) is not member:
        return ErrorCode.VALIDATION_ERROR, f"{name!r} stands in the zip again further down"
    if member.flag_bits & 1:
        return ErrorCode.UNSUPPORTED_MEDIA, f"{name!r} is encrypted"
    if member.file_size > ZIP_GRACE_BYTES + MAX_ZIP_RATIO * member.compress_size:
        return ErrorCode.SOURCE_TOO_LARGE, f"{name!r} expands more than {MAX_ZIP_RATIO} times"
    return None


def _directory_bytes(file: IO[bytes]) -> int:
    """The size of a zip's list of members, which `zipfile` trusts and reads whole; 0 if unclear."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - 65_535 - _END.size - _END_64_LOCATOR.size)
    file.seek(tail_start)
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < _END.size:
        return 0
    size: int = _END.unpack_from(tail, end)[5]
    locator = end - _END_64_LOCATOR.size
    if locator >= 0 and tail.startswith(b"PK\6\7", locator):
        file.seek(_END_64_LOCATOR.unpack_from(tail, locator)[2])
        record = file.read(_END_64.size)
        if len(record) == _END_64.size:
            size = max(size if size != 0xFFFFFFFF else 0, _END_64.unpack(record)[8])
    return size
