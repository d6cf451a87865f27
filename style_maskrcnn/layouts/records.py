"""What every data set of masks gives, whatever its layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vision.rle import Rle


@dataclass(frozen=True)
class FashionInstance:
    """One annotated instance.

    category: the data set's name. mask: of the annotation's size. attributes: the data set's names
    of what the annotators saw. is_crowd: the mask covers many of a kind; an ignore region.
    """

    category: str
    mask: Rle
    attributes: tuple[str, ...] = ()
    is_crowd: bool = False


@dataclass(frozen=True)
class SkippedAnnotation:
    """A photo, an instance or one attribute of one that could not be used, and why."""

    photo_id: str
    reason: str


class FashionDataset(Protocol):
    """Photos with instances by photo id, read once and checked when opened.

    categories, attributes: names in the order of the data set's ids. skipped: what was left out.
    """

    categories: tuple[str, ...]
    attributes: tuple[str, ...]

    @property
    def skipped(self) -> Sequence[SkippedAnnotation]: ...

    def of_split(self, split: str) -> list[str]:
        """Ids of the photos in one split, or of all photos for `all`.

        Raises `ValueError` listing the known splits.
        """
        ...

    def photo_bytes(self, photo_id: str) -> bytes:
        """The encoded photo."""
        ...

    def size_hw(self, photo_id: str) -> tuple[int, int]:
        """(height, width) of the annotation; the photo may have another."""
        ...

    def instances(self, photo_id: str) -> tuple[FashionInstance, ...]:
        """Its usable instances; none is an empty answer."""
        ...
