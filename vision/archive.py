"""Read-only files of a data set that comes as a folder or as a zip, without unpacking it."""

from __future__ import annotations

import threading
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from vision.errors import ErrorCode, PermanentError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


class Archive(Protocol):
    """Files by their POSIX path relative to the data set's root, in sorted order."""

    path: Path

    def names(self) -> tuple[str, ...]: ...

    def read(self, name: str) -> bytes:
        """Contents of one file.

        Raises `KeyError` when there is no such file, `PermanentError` (`image_corrupt`) when it is
        damaged inside the archive.
        """
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
            try:
                return self._zip.read(name)
            except KeyError:
                raise
            # A bad checksum, a cut or unknown compression, a password: zipfile raises any of these.
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
                raise PermanentError(
                    ErrorCode.IMAGE_CORRUPT, f"{name} is damaged inside {self.path.name}"
                ) from error

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


def image_names(archive: Archive) -> tuple[str, ...]:
    """Names of the image files, in order; hidden files are left out."""
    return tuple(name for name in archive.names() if _is_image(name.rsplit("/", 1)[-1]))


def _is_image(leaf: str) -> bool:
    return leaf.lower().endswith(IMAGE_SUFFIXES) and not leaf.startswith(".")
