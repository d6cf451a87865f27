"""Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist), as the IDX files it comes in.

A folder or zip with `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`, the same for
`t10k`, the official test half, or both. The files may also be unpacked, without `.gz`.

Glossary: N images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from classification.idx import parse_idx
from training.split import split_of
from vision.archive import Archive, open_archive
from vision.errors import ErrorCode, PermanentError

HEAD = "fashion_mnist"
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28
# The halves, as the files call them. Only the first is split.
TRAIN, T10K = "train", "t10k"
IMAGES = "images-idx3-ubyte"
_LABELS = "labels-idx1-ubyte"


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """images: (N, 28, 28) uint8, light on black. labels: (N,) int64 into `LABELS`. indices: (N,)
    int64, where each image stands in its file.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def _chosen(self, which: NDArray[np.bool_]) -> LabelledImages:
        return LabelledImages(self.images[which], self.labels[which], self.indices[which])


@dataclass(frozen=True, eq=False)
class FashionMnist:
    """halves: `train` and `t10k`, or the one of them that is there."""

    path: Path
    halves: Mapping[str, LabelledImages]
    layout: ClassVar[str] = HEAD

    def split(self, name: str) -> LabelledImages:
        """`train`, `validation`, `calibration` and `test` share the training half between them by a
        hash of the index; `t10k` is the official test half, and `all` is everything there is.

        Raises `PermanentError` (`dataset_invalid`) when the half is not there.
        """
        if name == "all":
            halves = self.halves.values()
            return LabelledImages(
                np.concatenate([half.images for half in halves]),
                np.concatenate([half.labels for half in halves]),
                np.concatenate([half.indices for half in halves]),
            )
        if name == T10K:
            return self._half(T10K)
        half = self._half(TRAIN)
        return half._chosen(np.array([split_of(str(i)) == name for i in half.indices], bool))

    def _half(self, name: str) -> LabelledImages:
        if name not in self.halves:
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"{self.path} holds no {name}-{IMAGES}.gz"
            )
        return self.halves[name]


def open_fashion_mnist(path: Path | str) -> FashionMnist:
    """Read a folder or zip that holds one half or both.

    Raises `PermanentError` (`dataset_invalid`) naming the file that is missing or broken.
    """
    with contextlib.closing(open_archive(path)) as archive:
        found = {half: _find(archive, f"{half}-{IMAGES}") for half in (TRAIN, T10K)}
        halves = {half: _read_half(archive, name) for half, name in found.items() if name}
    if not halves:
        raise PermanentError(
            ErrorCode.DATASET_INVALID,
            f"{path} holds neither {TRAIN}-{IMAGES}.gz nor {T10K}-{IMAGES}.gz",
        )
    return FashionMnist(Path(path), halves)


def read_images(path: Path) -> NDArray[np.uint8]:
    """(N, h, w) uint8 of one IDX file of images, gzipped or plain.

    Raises `PermanentError` (`dataset_invalid`) when it is missing or no such file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path}: {error.strerror}") from error
    return parse_idx(content, str(path), 3)


def is_idx(path: Path) -> bool:
    """Whether a path is an IDX file, by its name or its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(3)
    return "-idx" in path.name or start.startswith((b"\x1f\x8b", b"\x00\x00\x08"))


def _read_half(archive: Archive, images_name: str) -> LabelledImages:
    labels_name = images_name.replace(IMAGES, _LABELS)
    if labels_name not in archive.names():
        labels_name = _find(archive, labels_name.rsplit("/", 1)[-1].removesuffix(".gz"))
    if not labels_name:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{archive.path} holds no labels beside {images_name}"
        )
    images = parse_idx(archive.read(images_name), images_name, 3)
    labels = parse_idx(archive.read(labels_name), labels_name, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise _invalid(images_name, f"holds images of {images.shape[1:]}, not {(SIDE, SIDE)}")
    if len(images) != len(labels):
        raise _invalid(labels_name, f"holds {len(labels)} labels for {len(images)} images")
    if len(labels) and labels.max() >= len(LABELS):
        raise _invalid(labels_name, f"holds a label {labels.max()}; the last is {len(LABELS) - 1}")
    return LabelledImages(images, labels.astype(np.int64), np.arange(len(labels)))


def _find(archive: Archive, leaf: str) -> str:
    """The shallowest file of this name, gzipped or plain; empty when there is none."""
    leaves = (leaf, f"{leaf}.gz")
    found = [name for name in archive.names() if name.rsplit("/", 1)[-1] in leaves]
    return min(found, key=len, default="")


def _invalid(name: str, problem: str) -> PermanentError:
    return PermanentError(ErrorCode.DATASET_INVALID, f"{name} {problem}")
