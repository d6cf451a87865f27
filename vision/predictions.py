"""Answers for a whole folder or zip of photos, one JSON line a photo."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from vision.archive import Archive, image_names, open_archive
from vision.errors import PermanentError
from vision.image import EncodedImage, RgbImage, decode

Answer = dict[str, Any]
Answering = Callable[[Sequence[RgbImage]], Iterable[Answer]]


def write_predictions(images: Path, output: Path, answering: Answering, batch_size: int) -> None:
    """Write `output` as JSON Lines, one for every image file in the folder or zip `images`.

    answering: gives one answer a photo, in order. A photo that cannot be read has an `error` with
    its code in place of an answer. Progress is shown on stderr where that is a terminal.

    Raises `PermanentError` (`dataset_invalid`) when `images` is neither a folder nor a zip.
    """
    archive = open_archive(images)
    lines = track(
        prediction_lines(archive, answering, batch_size),
        description="predicting",
        total=len(image_names(archive)),
        console=Console(stderr=True),
        transient=True,
        disable=not Console(stderr=True).is_terminal,
    )
    with output.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def prediction_lines(
    archive: Archive, answering: Answering, batch_size: int
) -> Iterator[dict[str, Any]]:
    """One line for every image file, broken ones included, in the archive's order."""
    names = image_names(archive)
    for start in range(0, len(names), batch_size):
        group = names[start : start + batch_size]
        photos = [_photo(archive, name) for name in group]
        answers = iter(answering([photo for photo in photos if isinstance(photo, RgbImage)]))
        for name, photo in zip(group, photos, strict=True):
            if isinstance(photo, RgbImage):
                yield {"file": name, **next(answers)}
            else:
                yield {"file": name, "error": {"code": photo.code, "message": photo.message}}


def _photo(archive: Archive, name: str) -> RgbImage | PermanentError:
    try:
        return decode(EncodedImage(archive.read(name)))
    except PermanentError as error:
        return error
