"""Small data sets drawn by the tests, in the public layouts."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray

from style_maskrcnn.upper_body.groups import GROUPS

TAGS = ("null", "bag", "dress", "hair", "shoes", "skin", "watch", "wedges")
COLOURS = {
    "bag": (200, 40, 40),
    "dress": (40, 60, 200),
    "shoes": (20, 20, 20),
    "watch": (0, 160, 0),
}

Box = tuple[int, int, int, int]


def draw(
    regions: Mapping[str, Box], size_hw: tuple[int, int] = (96, 64)
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A photo and its tag map with a plain rectangle for each tag."""
    photo = np.full((*size_hw, 3), 230, np.uint8)
    tags = np.zeros(size_hw, np.uint8)
    for tag, (x1, y1, x2, y2) in regions.items():
        photo[y1:y2, x1:x2] = COLOURS.get(tag, (128, 128, 128))
        tags[y1:y2, x1:x2] = TAGS.index(tag)
    return photo, tags


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encoded RGB pixels."""
    return cv2.imencode(".jpg", pixels[:, :, ::-1])[1].tobytes()


def mat(**values: NDArray[np.generic]) -> bytes:
    """A MATLAB file."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, values)
    return buffer.getvalue()


def ccp_files(photos: Mapping[str, Mapping[str, Box]]) -> dict[str, bytes]:
    """Files of a Clothing Co-Parsing copy: photo id → tag → rectangle."""
    files = {"label_list.mat": mat(label_list=np.array(TAGS, dtype=object))}
    for photo_id, regions in photos.items():
        photo, tags = draw(regions)
        files[f"photos/{photo_id}.jpg"] = jpeg(photo)
        files[f"annotations/pixel-level/{photo_id}.mat"] = mat(groundtruth=tags)
    return files


def voted_files(rows: Mapping[str, Mapping[str, str]]) -> dict[str, bytes]:
    """Files of a Clothing Attribute Dataset: photo id → column → vote, empty where not given.

    The dress is striped where `pattern_stripe` is 2 and plain elsewhere.
    """
    columns = ["image", *(group.column for group in GROUPS)]
    lines = [",".join(columns)]
    files = {}
    for photo_id, votes in rows.items():
        lines.append(",".join([photo_id, *(votes.get(name, "") for name in columns[1:])]))
        photo, _ = draw({"dress": (20, 20, 50, 70)})
        if votes.get("pattern_stripe") == "2":
            photo[20:70:8, 20:50] = photo[21:70:8, 20:50] = 255
        files[f"images/{photo_id}.jpg"] = jpeg(photo)
    return {**files, "labels.csv": "\n".join(lines).encode(), "README": b"1. No; 2. Yes"}


def product_files(rows: Sequence[Mapping[str, str]]) -> dict[str, bytes]:
    """Files of a Myntra copy: a dark square on white for each row of styles.csv."""
    columns = list(rows[0])
    lines = [",".join(columns), *(",".join(row[c] for c in columns) for row in rows)]
    files = {"styles.csv": "\n".join(lines).encode()}
    for row in rows:
        pixels = np.full((80, 60, 3), 255, np.uint8)
        pixels[20:60, 15:45] = (30, 30, 90) if row.get("usage") == "Casual" else (220, 120, 20)
        files[f"images/{row['id']}.jpg"] = jpeg(pixels)
    return files


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip with those files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """A folder with those files."""
    for name, data in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path
