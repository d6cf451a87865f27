"""Any labelled data set as photos: what evaluating, exporting and quantising read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from classification import fashion_mnist
from classification.datasets import Sample, Skipped, open_dataset
from classification.fashion_mnist import FashionMnist, LabelledImages, open_fashion_mnist
from classification.preprocess import WHITE
from vision.archive import open_archive


class Photos(Protocol):
    """Labelled photos; `PhotoDataset` and `FashionMnistPhotos` are."""

    @property
    def layout(self) -> str: ...

    @property
    def skipped(self) -> tuple[Skipped, ...]: ...

    def split(self, name: str) -> tuple[Sample, ...]: ...

    def pixels(self, sample: Sample) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB. Raises `PermanentError` for a broken image."""
        ...


@dataclass(frozen=True, eq=False)
class FashionMnistPhotos:
    """Fashion-MNIST as photos of dark garments on white, as every other data set has them."""

    data: FashionMnist
    skipped: tuple[Skipped, ...] = ()

    @property
    def layout(self) -> str:
        return self.data.layout

    def split(self, name: str) -> tuple[Sample, ...]:
        """As `FashionMnist.split`. A sample's file is the half it is in, its id the index there."""
        if name == "all":
            return tuple(
                sample
                for half, all_of_it in self.data.halves.items()
                for sample in _samples(half, all_of_it)
            )
        half = fashion_mnist.T10K if name == fashion_mnist.T10K else fashion_mnist.TRAIN
        return _samples(half, self.data.split(name))

    def pixels(self, sample: Sample) -> NDArray[np.uint8]:
        """(28, 28, 3) uint8."""
        return as_photo(self.data.halves[sample.file].images[int(sample.item_id)])


def open_photos(path: Path | str) -> Photos:
    """Open a data set of any layout. Raises as `open_dataset` and `open_fashion_mnist`."""
    with contextlib.closing(open_archive(path)) as archive:
        grey = any(fashion_mnist.IMAGES in name for name in archive.names())
    return FashionMnistPhotos(open_fashion_mnist(path)) if grey else open_dataset(path)


def as_photo(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) grey, light on black → (h, w, 3) RGB, dark on white."""
    return np.repeat((WHITE - image)[..., None], 3, axis=2)


def _samples(half: str, images: LabelledImages) -> tuple[Sample, ...]:
    labels = [fashion_mnist.LABELS[number] for number in images.labels]
    return tuple(
        Sample(half, str(index), label, {fashion_mnist.HEAD: (label,)})
        for index, label in zip(images.indices, labels, strict=True)
    )
