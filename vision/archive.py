"""Read-only files of a data set that comes as a folder or as a zip, without unpacking it."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from vision.errors import ErrorCode, PermanentError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


class Archive(Protocol):
    """Files by their POSIX path relative to the data set's root, in sorted order."""

    path: Path

    def names(self) -> tuple[str, ...]: ...

    def read(self, name: str) -> bytes:
        """Contents of one file; `KeyError` when there is no such file."""
        ...

    def close(self) -> None: ...


class FolderArchive:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = tuple(
            sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        )
        self._known = frozenset(self._names)

    def names(self) -> tuple[str, ...]:
        return self._names

    def read(self, name: str) -> bytes:
        if name not in self._known:
            raise KeyError(name)
        return (self.path / name).read_bytes()

    def close(self) -> None:
        return None


class ZipArchive:
    """A zip file, read in place. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"{path} is not a readable zip file: {error}"
            ) from error
        self._lock = threading.Lock()
        self._names = tuple(
            sorted(info.filename for info in self._zip.infolist() if not info.is_dir())
        )

    def names(self) -> tuple[str, ...]:
        return self._names

    def read(self, name: str) -> bytes:
        with self._lock:
            return self._zip.read(name)

    def close(self) -> None:
        self._zip.close()


class SubArchive:
    """The part of an archive under one prefix, for zips that wrap everything in a folder."""

    def __init__(self, parent: Archive, prefix: str) -> None:
        self.path = parent.path
        self._parent = parent
        self._prefix = prefix
        self._names = tuple(n[len(prefix) :] for n in parent.names() if n.startswith(prefix))

    def names(self) -> tuple[str, ...]:
        return self._names

    def read(self, name: str) -> bytes:
        return self._parent.read(self._prefix + name)

    def close(self) -> None:
        self._parent.close()


def open_archive(path: Path | str, marker: str | None = None) -> Archive:
    """Open a folder or zip.

    `marker` is a file the data set's root holds (`styles.csv`): the archive is then rooted at the
    shallowest folder that has it, so a zip with everything under one folder reads the same.

    Raises `PermanentError` (`dataset_invalid`) when the path is missing, is neither folder nor
    zip, or has no such marker.
    """
    path = Path(path)
    if not path.exists():
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} does not exist")
    archive: Archive = FolderArchive(path) if path.is_dir() else ZipArchive(path)
    if marker is None:
        return archive
    found = [n for n in archive.names() if n == marker or n.endswith("/" + marker)]
    if not found:
        archive.close()
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} holds no {marker}")
    prefix = min(found, key=len)[: -len(marker)]
    return SubArchive(archive, prefix) if prefix else archive


def iter_images(archive: Archive) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every image file, in name order; hidden files are left out."""
    for name in archive.names():
        leaf = name.rsplit("/", 1)[-1]
        if leaf.lower().endswith(IMAGE_SUFFIXES) and not leaf.startswith("."):
            yield name, archive.read(name)
