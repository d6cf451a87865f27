"""Labelled photos in three public layouts, as a folder or a zip, recognised by their marker file.

Products (https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-small):
`images/ID.jpg` and `styles.csv`, one row a product with all seven attributes. Home photos
(https://github.com/alexeygrigorev/clothing-dataset): `images/UUID.jpg` and `images.csv` with one
coarse garment label each, which stands for a set of acceptable article types. Street photos
(Clothing Co-Parsing, `training.ccp`): each garment that a tag marks is a photo of its own, cut out
like the service cuts out what the detector finds; its tag, too, stands for a set of article types.

A row that cannot be used is listed in `skipped` with its reason; none is dropped in silence.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classification.config import HOME_PHOTOS, PRODUCTS, STREET_PHOTOS
from classification.heads import head_of
from training.ccp import CcpDataset
from training.split import split_of
from vision.archive import Archive, open_archive
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES
from vision.image import EncodedImage, decode
from vision.taxonomy import Taxonomy, load_taxonomy

MARKERS = {PRODUCTS: "styles.csv", HOME_PHOTOS: "images.csv", STREET_PHOTOS: "label_list.mat"}
# Head → (N, C) of zeros and ones.
Targets = dict[str, NDArray[np.float32]]

# A garment with a shorter side than this many pixels shows nothing that could be learnt.
_MIN_SIDE = 16
# Share of a garment's longer side that is cut out around it, as the service does.
_AIR = 0.04

# How the catalogue writes "not known".
MISSING = ("", "NA")

_PRODUCT_COLUMNS = {
    "gender": "gender",
    "master_category": "masterCategory",
    "sub_category": "subCategory",
    "article_type": "articleType",
    "base_colour": "baseColour",
    "season": "season",
    "usage": "usage",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo and what is known of it.

    file: its name in the archive. item_id: what splits hash. label: the data set's own name of the
    garment. accepted: attribute → the labels that are right answers; an attribute that nobody
    labelled is absent. xyxy: the part of the photo that counts, pixels; None for all of it.
    """

    file: str
    item_id: str
    label: str
    accepted: Mapping[str, tuple[str, ...]]
    xyxy: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row, or one label of a row, that cannot be used, and why."""

    item_id: str
    reason: str


@dataclass(frozen=True, eq=False)
class PhotoDataset:
    """An opened data set. layout: `products`, `home_photos` or `street_photos`."""

    layout: str
    archive: Archive
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def split(self, name: str) -> tuple[Sample, ...]:
        """Samples of one split of `training.split`, or of all when the name is `all`."""
        if name == "all":
            return self.samples
        return tuple(s for s in self.samples if split_of(s.item_id) == name)

    def pixels(self, sample: Sample) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB. Raises `PermanentError` for a broken image."""
        pixels = decode(EncodedImage(self.archive.read(sample.file))).pixels
        if sample.xyxy is None:
            return pixels
        left, top, right, bottom = sample.xyxy
        return pixels[top:bottom, left:right]

    def skipped_by_reason(self) -> dict[str, int]:
        """Reason → how many, most frequent first."""
        return dict(Counter(entry.reason for entry in self.skipped).most_common())


def open_dataset(path: Path | str, taxonomy: Taxonomy | None = None) -> PhotoDataset:
    """Open a folder or zip in any of the layouts.

    Raises `PermanentError` (`dataset_invalid`) when no marker file is there, or no row of it can
    be used.
    """
    taxonomy = taxonomy or load_taxonomy()
    layout, archive = _open_marked(path)
    if layout == STREET_PHOTOS:
        samples, skipped = _read_street_photos(CcpDataset(path), taxonomy)
    else:
        rows = _read_rows(archive, MARKERS[layout])
        read = _read_products if layout == PRODUCTS else _read_home_photos
        samples, skipped = read(rows, frozenset(archive.names()), taxonomy)
    if not samples:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{path}: no row of {MARKERS[layout]} can be used"
        )
    return PhotoDataset(layout, archive, tuple(samples), tuple(skipped))


def encode(samples: Sequence[Sample], heads: Sequence[str], taxonomy: Taxonomy) -> Targets:
    """Accepted labels as head → (N, C) float32: 1 for a right answer, rows of zeros where nobody
    labelled the head. heads: names that `heads.head_of` knows.
    """
    encoded = {}
    for name in heads:
        head = head_of(name, taxonomy)
        index = {label: i for i, label in enumerate(head.labels)}
        rows = np.zeros((len(samples), len(index)), np.float32)
        for row, sample in zip(rows, samples, strict=True):
            row[[index[label] for label in head.accepted(sample.accepted)]] = 1.0
        encoded[name] = rows
    return encoded


def _open_marked(path: Path | str) -> tuple[str, Archive]:
    with contextlib.closing(open_archive(path)) as archive:
        leaves = {name.rsplit("/", 1)[-1] for name in archive.names()}
    for layout, marker in MARKERS.items():
        if marker in leaves:
            return layout, open_archive(path, marker=marker)
    raise PermanentError(
        ErrorCode.DATASET_INVALID, f"{path} holds none of {', '.join(MARKERS.values())}"
    )


def _read_rows(archive: Archive, name: str) -> list[dict[str, str]]:
    text = io.StringIO(archive.read(name).decode("utf-8-sig", errors="replace"), newline="")
    return list(csv.DictReader(text, restval=""))


def _read_products(
    rows: list[dict[str, str]], names: frozenset[str], taxonomy: Taxonomy
) -> tuple[list[Sample], list[Skipped]]:
    _require_columns(rows, "styles.csv", ("id", *_PRODUCT_COLUMNS.values()))
    known = {name: frozenset(taxonomy.labels_of(name)) for name in ATTRIBUTES}
    samples, skipped = [], []
    for row in rows:
        file = f"images/{row['id']}.jpg"
        if file not in names:
            skipped.append(Skipped(row["id"], "image is missing"))
            continue
        accepted = {}
        for attribute, column in _PRODUCT_COLUMNS.items():
            label = row[column].strip()
            if label in known[attribute]:
                accepted[attribute] = (label,)
            elif label not in MISSING:
                skipped.append(Skipped(row["id"], f"unknown {column} label {label!r}"))
        samples.append(Sample(file, row["id"], row["articleType"].strip(), accepted))
    return samples, skipped


def _read_home_photos(
    rows: list[dict[str, str]], names: frozenset[str], taxonomy: Taxonomy
) -> tuple[list[Sample], list[Skipped]]:
    _require_columns(rows, "images.csv", ("image", "label", "kids"))
    samples, skipped = [], []
    for row in rows:
        file = f"images/{row['image']}.jpg"
        label = row["label"].strip()
        if file not in names:
            skipped.append(Skipped(row["image"], "image is missing"))
        elif label not in taxonomy.home_photo_article_types:
            skipped.append(Skipped(row["image"], f"label {label!r} stands for no article type"))
        else:
            article_types = taxonomy.home_photo_article_types[label]
            accepted = _with_parents(article_types, taxonomy)
            samples.append(Sample(file, row["image"], label, accepted))
    return samples, skipped


def _read_street_photos(
    photos: CcpDataset, taxonomy: Taxonomy
) -> tuple[list[Sample], list[Skipped]]:
    samples: list[Sample] = []
    skipped = [Skipped(entry.photo_id, entry.reason) for entry in photos.skipped]
    for photo_id in photos.photo_ids:
        try:
            instances = list(photos.instances(photo_id, leave_out=taxonomy.background_tags))
        except PermanentError as error:
            skipped.append(Skipped(photo_id, error.message))
            continue
        for instance in instances:
            x1, y1, x2, y2 = instance.xyxy
            if instance.tag not in taxonomy.street_tag_article_types:
                problem = f"tag {instance.tag!r} stands for no article type"
                skipped.append(Skipped(photo_id, problem))
            elif min(x2 - x1, y2 - y1) < _MIN_SIDE:
                skipped.append(Skipped(photo_id, f"garment is under {_MIN_SIDE} pixels"))
            else:
                accepted = _with_parents(taxonomy.street_tag_article_types[instance.tag], taxonomy)
                xyxy = _with_air(instance.xyxy, instance.mask.shape)
                file = f"photos/{photo_id}.jpg"
                samples.append(Sample(file, photo_id, instance.tag, accepted, xyxy))
    return samples, skipped


def _with_air(
    xyxy: tuple[int, int, int, int], shape_hw: tuple[int, ...]
) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = xyxy
    air = round(_AIR * max(x2 - x1, y2 - y1))
    height, width = shape_hw
    return max(0, x1 - air), max(0, y1 - air), min(width, x2 + air), min(height, y2 + air)


def _with_parents(article_types: tuple[str, ...], taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    """What a set of article types says of all three levels of the tree."""
    subs = dict.fromkeys(taxonomy.sub_category_of[a] for a in article_types)
    masters = dict.fromkeys(taxonomy.master_category_of[s] for s in subs)
    return {
        "master_category": tuple(masters),
        "sub_category": tuple(subs),
        "article_type": article_types,
    }


def _require_columns(rows: list[dict[str, str]], name: str, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{name} has no rows with {', '.join(missing)}"
        )
