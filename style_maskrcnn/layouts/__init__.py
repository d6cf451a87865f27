"""Public layouts of photos with masks, by name; every one gives the same (`records.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from style_maskrcnn.layouts.fashionpedia import FashionpediaDataset
from style_maskrcnn.layouts.imaterialist import IMaterialistDataset
from style_maskrcnn.layouts.records import FashionDataset

# Clothing Co-Parsing, whose tags are pixels and whose instances have no attributes; `training.ccp`.
CCP_LAYOUT = "ccp"
LAYOUTS: Mapping[str, Callable[[Path], FashionDataset]] = {
    "fashionpedia": FashionpediaDataset,
    "imaterialist": IMaterialistDataset,
}


def open_dataset(layout: str, path: Path) -> FashionDataset:
    """The data set at `path`.

    Raises `ValueError` listing the known layouts, and `PermanentError` (`dataset_invalid`) when the
    path has another layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](path)
