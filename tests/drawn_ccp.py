"""A small data set in Clothing Co-Parsing's public layout, drawn by the tests."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray

from tests.pictures import encode

TAGS = ("null", "shirt", "jacket", "pants", "jeans", "shoes", "necklace", "skin")


def tag_map(regions: Mapping[str, tuple[int, int, int, int]], width: int = 64, height: int = 96):
    """(height, width) uint8 of `null` with each tag's box [x1, y1, x2, y2] filled."""
    tags = np.zeros((height, width), np.uint8)
    for tag, (x1, y1, x2, y2) in regions.items():
        tags[y1:y2, x1:x2] = TAGS.index(tag)
    return tags


def ccp_files(tag_maps: Mapping[str, NDArray[np.uint8]]) -> dict[str, bytes]:
    """The set's files by name: for each photo id a JPEG coloured by tag, and its annotation."""
    files = {"label_list.mat": mat(label_list=np.array([list(TAGS)], dtype=object))}
    for photo_id, tags in tag_maps.items():
        # Odd multiples give every tag its own colour.
        colours = np.stack((tags * 37, tags * 73 + 20, tags * 151 + 40), axis=2).astype(np.uint8)
        files[f"photos/{photo_id}.jpg"] = encode(colours, "JPEG").data
        files[f"annotations/pixel-level/{photo_id}.mat"] = mat(groundtruth=tags)
    return files


def mat(**variables: NDArray[np.generic]) -> bytes:
    """A MATLAB file's bytes."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def write_zip(path: Path, files: Mapping[str, bytes], prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path
