"""The size of an image in an archive, without decoding it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from detection.layouts.records import Findings, Problem
from vision.archive import Archive

# EXIF orientations that lay the photo on its side.
_SIDEWAYS = (5, 6, 7, 8)


def upright_size(
    archive: Archive, name: str, where: str, findings: Findings
) -> tuple[int, int] | None:
    """(width, height) as the photo is looked at; None, noted, where it is no readable image."""
    # Of a file on disk only the header is read, which hundreds of thousands of photos need.
    path = archive.path / name
    source: Path | io.BytesIO = path if path.is_file() else io.BytesIO(archive.read(name))
    try:
        with Image.open(source) as picture:
            width, height = picture.size
            sideways = picture.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    # Pillow raises whatever a broken header makes it stumble over.
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        findings.note(where, Problem.IMAGE_BROKEN)
        return None
    return (height, width) if sideways else (width, height)
