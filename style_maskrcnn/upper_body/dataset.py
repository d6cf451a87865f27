"""Photos of dressed people with voted attributes.

Layout (Clothing Attribute Dataset, Chen et al., ECCV 2012), as a folder or a zip: `images/N.jpg`
and `labels.csv`, whose column `image` holds N and whose others hold 1, 2 or 3 (see `groups.py`),
empty where the voters did not agree. Published for research; there is no licence text.

Dimension glossary
    P: photos; G: groups.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.upper_body.groups import GROUPS, VoteGroup
from training.split import split_of
from vision.archive import Archive, open_archive
from vision.errors import ErrorCode, PermanentError

LABELS = "labels.csv"
UNLABELLED = -1
# More is held out than of the larger sets: a rare value has some sixty photos in all.
FRACTIONS = {"train": 0.78, "validation": 0.06, "calibration": 0.07, "test": 0.09}


@dataclass(frozen=True)
class VotedPhoto:
    """One photo. labels: (G,) index of the value of each group, or `UNLABELLED`."""

    photo_id: str
    labels: tuple[int, ...]


@dataclass(frozen=True)
class SkippedRow:
    """A photo, row or single vote that could not be used, and why."""

    photo_id: str
    reason: str


class VotedDataset:
    """Photos that have a row, in order of their rows.

    A row without photo, a photo without row, a second row of a photo and a vote that is no value
    of its attribute are left out and listed in `skipped`; of such a vote the rest of its row stays.

    Raises `PermanentError` (`dataset_invalid`) when the layout is another.
    """

    def __init__(self, path: Path | str) -> None:
        self._archive: Archive = open_archive(path, marker=LABELS)
        self.skipped: list[SkippedRow] = []
        names = (n for n in self._archive.names() if n.startswith("images/"))
        files = {Path(n).stem: n for n in names if n.lower().endswith((".jpg", ".jpeg"))}
        found: dict[str, VotedPhoto] = {}
        for row in _read_rows(self._archive.read(LABELS), path):
            photo_id = (row["image"] or "").strip().removesuffix(".jpg")
            if photo_id in found:
                self._skip(photo_id, "a second row")
            elif photo_id not in files:
                self._skip(photo_id, "no photo of that name")
            else:
                found[photo_id] = VotedPhoto(photo_id, tuple(self._votes(photo_id, row)))
        for photo_id in sorted(files.keys() - found.keys()):
            self._skip(photo_id, "no row in labels.csv")
        if not found:
            raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} holds no photo with a row")
        self.photos: tuple[VotedPhoto, ...] = tuple(found.values())
        self._files = files

    def photo_bytes(self, photo: VotedPhoto) -> bytes:
        """The encoded JPEG. Raises `PermanentError` when it is damaged inside the archive."""
        return self._archive.read(self._files[photo.photo_id])

    def of_split(self, split: str) -> list[VotedPhoto]:
        """Photos of one split, or all of them for `all`."""
        if split != "all" and split not in FRACTIONS:
            raise ValueError(f"unknown split {split!r}; known: all, {', '.join(FRACTIONS)}")
        return [p for p in self.photos if split in ("all", split_of(p.photo_id, FRACTIONS))]

    def _votes(self, photo_id: str, row: Mapping[str, str]) -> Iterator[int]:
        for group in GROUPS:
            vote = (row[group.column] or "").strip()
            known = {str(i + 1): i for i in range(len(group.values))}
            if vote and vote not in known:
                self._skip(photo_id, f"{group.column} is {vote!r}, not one of {', '.join(known)}")
            yield known.get(vote, UNLABELLED)

    def _skip(self, photo_id: str, reason: str) -> None:
        self.skipped.append(SkippedRow(photo_id, reason))


def label_matrix(photos: Sequence[VotedPhoto]) -> NDArray[np.int64]:
    """(P, G) index of each photo's value within each group, or `UNLABELLED`."""
    return np.array([p.labels for p in photos], np.int64).reshape(-1, len(GROUPS))


def frequencies(
    labels: NDArray[np.int64], groups: Sequence[VoteGroup]
) -> list[NDArray[np.float64]]:
    """For each group how often each of its values occurs, shares of the (P, G) labelled photos.

    Every value counts at least once, so that no share is 0.
    """
    shares = []
    for column, group in enumerate(groups):
        counted = Counter(labels[:, column].tolist())
        counts = np.array([max(1, counted[i]) for i in range(len(group.values))], np.float64)
        shares.append(counts / counts.sum())
    return shares


def _read_rows(data: bytes, path: Path | str) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path}: {LABELS}: {error}") from error
    columns = ("image", *(group.column for group in GROUPS))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{path}: {LABELS} has no column {', '.join(missing)}"
        )
    return rows
