"""Packshots with catalogue attributes, each a product on white that needs no annotation of its box.

Layout (Kaggle `paramaggarwal/fashion-product-images-small`, MIT), as a folder or a zip:
`images/ID.jpg` and `styles.csv`. One product a photo, on white, so its box needs no annotation.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.split import split_of
from vision.archive import Archive, open_archive
from vision.errors import ErrorCode, PermanentError

# Pixels at least this light may be background; JPEG noise makes pure white rare.
LIGHT = 235
# A product that covers less of its photo was mistaken for background: white on white.
LEAST_SHARE = 0.05

UNLABELLED = -1


@dataclass(frozen=True)
class Product:
    """One row of `styles.csv`. attributes: column → value, empty values left out."""

    product_id: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class ProductView:
    """A product on a light canvas. pixels: (h, w, 3) uint8 RGB. xyxy: (4,) float32 its box."""

    pixels: NDArray[np.uint8]
    xyxy: NDArray[np.float32]


class ProductDataset:
    """Products that have a photo, in order of their rows.

    Raises `PermanentError` (`dataset_invalid`) when the layout is another.
    """

    def __init__(self, path: Path | str) -> None:
        self._archive: Archive = open_archive(path, marker="styles.csv")
        photos = set(self._archive.names())
        self.products: tuple[Product, ...] = tuple(
            product
            for product in _read_rows(self._archive.read("styles.csv"), path)
            if _photo_name(product.product_id) in photos
        )
        if not self.products:
            raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} holds no product with a photo")

    def photo_bytes(self, product: Product) -> bytes:
        """The encoded JPEG."""
        return self._archive.read(_photo_name(product.product_id))

    def photo(self, product: Product) -> NDArray[np.uint8] | None:
        """(h, w, 3) uint8 RGB, or None when the file is broken."""
        encoded = np.frombuffer(self.photo_bytes(product), np.uint8)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
        if decoded is None:
            return None
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8)

    def of_split(self, split: str, fractions: Mapping[str, float], salt: str) -> list[Product]:
        """Products of one split, or all of them for `all`."""
        if split != "all" and split not in fractions:
            raise ValueError(f"unknown split {split!r}; known: all, {', '.join(fractions)}")
        return [
            p for p in self.products if split in ("all", split_of(p.product_id, fractions, salt))
        ]


def choose_products(
    products: Sequence[Product], columns: Sequence[str], count: int, seed: int
) -> list[Product]:
    """At most `count` products at random, but of each rare value as many as there are.

    A value is rare when an even share among all values would be more products than it has.
    """
    order = np.random.default_rng(seed).permutation(len(products))
    by_value: dict[tuple[str, str], list[int]] = {}
    for index in order:
        for column in columns:
            if column in products[index].attributes:
                key = (column, products[index].attributes[column])
                by_value.setdefault(key, []).append(int(index))
    share = count // (2 * max(1, len(by_value)))
    first = [index for indices in by_value.values() for index in indices[:share]]
    chosen = list(dict.fromkeys([*first, *(int(i) for i in order)]))[:count]
    return [products[index] for index in chosen]


def attribute_labels(
    products: Sequence[Product], groups: Sequence[tuple[str, Sequence[str]]]
) -> NDArray[np.int64]:
    """(P, G) index of each product's value within each (column, values) group, or `UNLABELLED`."""
    index = [{value: i for i, value in enumerate(values)} for _, values in groups]
    rows = [
        [
            index[g].get(product.attributes.get(column, ""), UNLABELLED)
            for g, (column, _) in enumerate(groups)
        ]
        for product in products
    ]
    return np.array(rows, np.int64).reshape(-1, len(groups))


def product_mask(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(h, w) bool, True on the product: what is not joined to the border by light pixels.

    A white shirt keeps its inside that way. All True when nearly nothing would be left.
    """
    light = np.pad((pixels.min(axis=2) >= LIGHT).astype(np.uint8), 1, constant_values=1)
    _, regions = cv2.connectedComponents(light, connectivity=4)
    product = regions[1:-1, 1:-1] != regions[0, 0]
    if product.mean() < LEAST_SHARE:
        return np.ones_like(product)
    return product


def paste_product(
    pixels: NDArray[np.uint8], long_side: float, rng: np.random.Generator, multiple: int = 32
) -> ProductView:
    """The product with that long side at a random place of a light canvas just larger than it.

    The photo is multiplied onto the canvas, so that its white takes the canvas's colour and the
    product's edges stay soft.
    """
    mask = product_mask(pixels)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    scale = long_side / max(cut.shape[:2])
    width, height = (max(2, round(side * scale)) for side in (cut.shape[1], cut.shape[0]))
    cut = cv2.resize(cut, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    canvas_h, canvas_w = (-(-int(side * 1.2) // multiple) * multiple for side in (height, width))
    canvas = np.empty((canvas_h, canvas_w, 3), np.float32)
    canvas[:] = rng.uniform(190, 255) + rng.uniform(-8, 8, 3)
    left, top = int(rng.integers(canvas_w - width + 1)), int(rng.integers(canvas_h - height + 1))
    canvas[top : top + height, left : left + width] *= cut.astype(np.float32) / 255
    box = np.array([left, top, left + width, top + height], np.float32)
    return ProductView(np.clip(canvas, 0, 255).astype(np.uint8), box)


def _read_rows(data: bytes, path: Path | str) -> list[Product]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path}: styles.csv: {error}") from error
    if "id" not in (reader.fieldnames or ()):
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path}: styles.csv has no column id")
    return [
        Product(row["id"], {k: v for k, v in row.items() if isinstance(v, str) and v and k != "id"})
        for row in rows
        if row["id"]
    ]


def _photo_name(product_id: str) -> str:
    return f"images/{product_id}.jpg"
