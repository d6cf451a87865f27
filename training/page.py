"""What the pages of `evaluate --report` share: templates, style, and pictures inside the page.

A page needs no network, no script and no other file.
"""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

# `page.css`, which a template includes, lies here.
SHARED_TEMPLATES = Path(__file__).resolve().parent / "templates"
THUMBNAIL_WH = (120, 160)
_JPEG_QUALITY = 85


def page_environment(templates: Path) -> Environment:
    """Jinja templates of a folder, beside the shared ones, with the filter `percent`."""
    environment = Environment(
        loader=FileSystemLoader([templates, SHARED_TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def percent(share: float | None, digits: int = 1) -> str:
    """0.845 → `84.5 %`, which does not break; None → a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def data_uri(pixels: NDArray[np.uint8], fit_wh: tuple[int, int] = THUMBNAIL_WH) -> str:
    """(h, w, 3) uint8 RGB → a small JPEG as a data URI, its proportions kept."""
    height, width = pixels.shape[:2]
    scale = min(1.0, fit_wh[0] / width, fit_wh[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
