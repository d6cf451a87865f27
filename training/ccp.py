"""Clothing Co-Parsing: street photos with a tag for every pixel.

Yang, Luo and Lin, "Clothing Co-Parsing by Joint Image Segmentation and Labeling", CVPR 2014
(https://github.com/bearpaw/clothing-co-parsing). Public layout, as a folder or a zip:
`photos/N.jpg`, `annotations/pixel-level/N.mat` (`groundtruth`: H×W uint8 tag ids) and
`label_list.mat`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision.archive import Archive, open_archive
from vision.errors import ErrorCode, PermanentError

# Components smaller than this share of their tag's pixels are annotation crumbs.
MIN_COMPONENT_SHARE = 0.01


@dataclass(frozen=True)
class TagInstance:
    """All pixels of one tag in one photo, crumbs dropped.

    tag: the data set's name. mask: (H, W) bool. xyxy: [x1, y1, x2, y2] pixels, far edges exclusive.
    """

    tag: str
    mask: NDArray[np.bool_]
    xyxy: tuple[int, int, int, int]


@dataclass(frozen=True)
class Skipped:
    """One photo that could not be used, and why."""

    photo_id: str
    reason: str


class CcpDataset:
    """Photos and tag maps by photo id (the file's stem), in sorted order.

    A photo without annotation, or an annotation without photo, is listed in `skipped`.

    Raises `PermanentError` (`dataset_invalid`) when the layout is not CCP's.
    """

    def __init__(self, path: Path | str) -> None:
        self._archive: Archive = open_archive(path, marker="label_list.mat")
        self.tags: tuple[str, ...] = _read_tag_names(self._archive.read("label_list.mat"))
        photos = _stems(self._archive, "photos/", ".jpg")
        annotations = _stems(self._archive, "annotations/pixel-level/", ".mat")
        self.photo_ids: tuple[str, ...] = tuple(sorted(photos & annotations))
        self.skipped: tuple[Skipped, ...] = tuple(
            [Skipped(i, "no pixel-level annotation") for i in sorted(photos - annotations)]
            + [Skipped(i, "photo is missing") for i in sorted(annotations - photos)]
        )
        if not self.photo_ids:
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"{path} holds no annotated photo in CCP's layout"
            )

    def __len__(self) -> int:
        return len(self.photo_ids)

    def photo_bytes(self, photo_id: str) -> bytes:
        """The encoded JPEG."""
        return self._archive.read(f"photos/{photo_id}.jpg")

    def tag_map(self, photo_id: str) -> NDArray[np.uint8]:
        """(H, W) uint8 tag ids, indices into `tags`."""
        name = f"annotations/pixel-level/{photo_id}.mat"
        values = _read_mat(name, self._archive.read(name), "groundtruth")
        is_map = values.ndim == 2 and values.dtype.kind in "iuf"
        if not is_map or not 0 <= values.min(initial=0) <= values.max(initial=0) < len(self.tags):
            raise PermanentError(
                ErrorCode.DATASET_INVALID,
                f"{name}: groundtruth must be 2-D with ids below {len(self.tags)}",
            )
        return np.ascontiguousarray(values, dtype=np.uint8)

    def instances(self, photo_id: str, leave_out: Sequence[str] = ()) -> Iterator[TagInstance]:
        """One instance for each tag in the photo, but for the tags in `leave_out`.

        A tag that is nothing but crumbs has none.
        """
        tag_map = self.tag_map(photo_id)
        for tag_id in np.unique(tag_map):
            tag = self.tags[tag_id]
            if tag not in leave_out:
                mask = drop_small_components(tag_map == tag_id)
                if mask.any():
                    yield TagInstance(tag=tag, mask=mask, xyxy=_box_around(mask))


def drop_small_components(
    mask: NDArray[np.bool_], min_share: float = MIN_COMPONENT_SHARE
) -> NDArray[np.bool_]:
    """(H, W) mask without 8-connected components under `min_share` of its pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    keep = areas >= min_share * mask.sum()
    keep[0] = False  # component 0 is the background
    return keep[labels] if count > 1 else mask


def _box_around(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _read_tag_names(data: bytes) -> tuple[str, ...]:
    cells = _read_mat("label_list.mat", data, "label_list")
    return tuple(str(cell.item()) for cell in np.ravel(cells))


def _read_mat(name: str, data: bytes, variable: str) -> NDArray[Any]:
    """One variable of a MATLAB file."""
    import scipy.io

    try:
        values: NDArray[Any] = scipy.io.loadmat(io.BytesIO(data))[variable]
    except MemoryError:
        raise
    # SciPy raises whatever a broken file makes it stumble over: IndexError, TypeError, zlib.error…
    except Exception as error:
        problem = f"has no {variable}" if isinstance(error, KeyError) else f"is broken ({error})"
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{name} {problem}") from error
    return values


def _stems(archive: Archive, prefix: str, suffix: str) -> set[str]:
    leaves = (name[len(prefix) :] for name in archive.names() if name.startswith(prefix))
    return {
        leaf[: -len(suffix)]
        for leaf in leaves
        if leaf.endswith(suffix) and not leaf.startswith(".")
    }
