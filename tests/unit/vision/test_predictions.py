"""One JSON line a photo, whatever the photo."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.pictures import picture
from vision.image import RgbImage
from vision.predictions import write_predictions


def _widths(photos: Sequence[RgbImage]) -> list[dict[str, Any]]:
    assert len(photos) <= 2
    return [{"width": photo.resolution_wh[0]} for photo in photos]


def _lines(images: Path, output: Path) -> list[dict[str, Any]]:
    write_predictions(images, output, _widths, batch_size=2)
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_every_image_has_its_line_in_the_order_of_the_names(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, width in (("c.png", 30), ("a.png", 10), ("b.png", 20)):
        (folder / name).write_bytes(picture(width=width).data)
    (folder / "b2.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("not a photo")
    lines = _lines(folder, tmp_path / "out.jsonl")
    assert [line["file"] for line in lines] == ["a.png", "b.png", "b2.jpg", "c.png"]
    assert [line.get("width") for line in lines] == [10, 20, None, 30]
    assert lines[2]["error"]["code"] == "unsupported_media"


def test_a_damaged_member_of_a_zip_has_an_error_line(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", picture(width=10).data)
        archive.writestr("b.png", b"12345")
    path.write_bytes(path.read_bytes().replace(b"12345", b"12346"))
    lines = _lines(path, tmp_path / "out.jsonl")
    assert [line.get("width") for line in lines] == [10, None]
    assert lines[1]["error"]["code"] == "image_corrupt"


def test_an_empty_folder_makes_an_empty_file(tmp_path):
    (tmp_path / "photos").mkdir()
    assert _lines(tmp_path / "photos", tmp_path / "out.jsonl") == []
