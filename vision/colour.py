"""Dominant colours of a region: name, hex, share.

Names come from `configs/palette.yaml`; the nearest by CIEDE2000 wins (Sharma, Wu and Dalal, "The
CIEDE2000 Color-Difference Formula", Color Research and Application 30(1), 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from vision.garments import Colour, Prediction
from vision.taxonomy import Taxonomy

PALETTE_PATH = Path(__file__).resolve().parent.parent / "configs" / "palette.yaml"

# A region is read from at most this many pixels: more change no share by a percent.
MAX_SAMPLES = 4096
# Colours that cover less are seams, buttons and shadows.
MIN_SHARE = 0.10
MAX_COLOURS = 3
# Colours are told apart in cells of this many levels a channel: less than a name spans.
_CELL = 8
_CELLS = 256 // _CELL
# How far, in CIEDE2000, cloth is off the centre of its colour's name, in light and shade and to the
# catalogue's taste; chosen on products of the `validation` split.
_NAME_ERROR = 3.5
# Of a name that the evidence leaves out: evidence errs, too.
_LEAST_LIKELY = 0.01
# Of the weights around a picture's middle, as a share of its sides.
_CENTRE_DEVIATION = 0.22
# A border counts as plain background when its pixels differ by no more than this (0–255).
_PLAIN_BORDER_DEVIATION = 12.0
_BACKGROUND_TOLERANCE = 12


@dataclass(frozen=True, eq=False)
class Palette:
    """names: K names. lab: (M, 3) float64, centres in CIELAB, one or more a name. name_of: (M,)
    index of the name that a centre stands for, in the order of the names.
    """

    names: tuple[str, ...]
    lab: NDArray[np.float64]
    name_of: NDArray[np.intp]

    def distances(self, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, K) CIEDE2000 from (N, 3) uint8 sRGB colours to the nearest centre of each name."""
        of_centre = ciede2000(rgb_to_lab(rgb)[:, None], self.lab[None])
        first_centres = np.flatnonzero(np.diff(self.name_of, prepend=-1))
        nearest: NDArray[np.float64] = np.minimum.reduceat(of_centre, first_centres, axis=1)
        return nearest

    def name_cells(
        self, cells: NDArray[np.intp], likely: NDArray[np.float64] | None = None
    ) -> NDArray[np.intp]:
        """(N,) index of the name of the middle of each cell; cells as `_cells_of` says.

        The nearest name; with `likely`, (K,) the probability of each name, the most probable one of
        a colour that is off its name's centre by an exponential error of mean `_NAME_ERROR`. That
        moves a colour by some 16 units at most: evidence of red makes no white pixel pink.
        """
        distances = self._cell_distances_of(cells)
        if likely is not None:
            distances = distances / _NAME_ERROR - np.log(likely + _LEAST_LIKELY)
        names: NDArray[np.intp] = distances.argmin(axis=1)
        return names

    def _cell_distances_of(self, cells: NDArray[np.intp]) -> NDArray[np.float32]:
        """(N, K) `distances` of the middle of each cell.

        A cell is measured when it is first seen and remembered: photos share most of their colours.
        """
        known = self._cell_distances
        new = np.unique(cells[np.isnan(known[cells, 0])])
        if len(new):
            corners = np.stack(np.unravel_index(new, (_CELLS, _CELLS, _CELLS)), axis=1) * _CELL
            # Threads that measure the same cell at a time write the same answer.
            known[new] = self.distances((corners + _CELL // 2).astype(np.uint8))
        return known[cells]

    @cached_property
    def _cell_distances(self) -> NDArray[np.float32]:
        return np.full((_CELLS**3, len(self.names)), np.nan, np.float32)


@cache
def load_palette(path: Path = PALETTE_PATH) -> Palette:
    """The palette in `path`; read once per process."""
    entries: dict[str, str | list[str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    codes = [[code] if isinstance(code, str) else code for code in entries.values()]
    centres = [list(bytes.fromhex(code[1:])) for of_name in codes for code in of_name]
    return Palette(
        names=tuple(entries),
        lab=rgb_to_lab(np.array(centres, np.uint8)),
        name_of=np.repeat(np.arange(len(codes)), [len(of_name) for of_name in codes]),
    )


def dominant_colours(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None = None,
    palette: Palette | None = None,
    *,
    centred: bool = False,
    likely: NDArray[np.float64] | None = None,
) -> tuple[Colour, ...]:
    """Up to three colours that cover at least a tenth of the region, largest share first.

    pixels: (H, W, 3) uint8 RGB. mask: (H, W) bool, the region; None for all of it. An empty
    region has no colour. The hex of a colour is the median of the pixels that took its name.
    centred: pixels count the more the nearer they are to the picture's middle, where the garment of
    a packshot is: a model's skin, hair and other clothes are around it. likely: (K,) what else is
    known of the names' probabilities (`likely_names`): cloth in the sun may be black or charcoal,
    and a checked shirt red or white, which its pixels do not tell. Names are then chosen with it,
    and colours stand in the order of share times probability.
    """
    palette = palette or load_palette()
    region = np.arange(pixels.shape[0] * pixels.shape[1]) if mask is None else np.flatnonzero(mask)
    # Evenly spread samples keep the answer the same from run to run.
    region = region[:: max(1, len(region) // MAX_SAMPLES)]
    samples = pixels.reshape(-1, 3)[region]
    if not len(samples):
        return ()
    cells, cell_of_sample = np.unique(_cells_of(samples), return_inverse=True)
    names = palette.name_cells(cells, likely)[cell_of_sample]
    weights = _closeness(region, pixels.shape[:2]) if centred else None
    counts = np.bincount(names, weights, minlength=len(palette.names))
    shares = counts / counts.sum()
    largest = np.argsort(-shares, kind="stable")[:MAX_COLOURS]
    # The largest stands even when no colour covers a tenth.
    kept = [index for index in largest if shares[index] >= MIN_SHARE] or [largest[0]]
    if likely is not None:
        kept.sort(key=lambda index: -shares[index] * (likely[index] + _LEAST_LIKELY))
    return tuple(
        Colour(
            name=palette.names[index],
            hex=_hex(_median(samples[names == index])),
            share=round(float(shares[index]), 4),
        )
        for index in kept
    )


def likely_names(
    answer: Prediction, taxonomy: Taxonomy, palette: Palette | None = None
) -> NDArray[np.float64]:
    """(K,) probability of the palette's names, given a classifier's base colour.

    Names and base colours meet in the taxonomy's colour groups: every name of a group is as likely
    as the group. What the answer's alternatives leave over is spread over all groups alike.
    """
    palette = palette or load_palette()
    groups = tuple(taxonomy.colour_groups)
    left_over = max(0.0, 1.0 - sum(p for _, p in answer.alternatives))
    of_group = dict.fromkeys(groups, left_over / len(groups))
    for group, colours in taxonomy.colour_groups.items():
        of_group[group] += sum(p for label, p in answer.alternatives if label in colours)
    group_of = {name: g for g, names in taxonomy.palette_groups.items() for name in names}
    return np.array([of_group.get(group_of.get(name, ""), 0.0) for name in palette.names])


def _closeness(region: NDArray[np.intp], size_hw: tuple[int, ...]) -> NDArray[np.float64]:
    """(N,) weights of flat pixel indices: 1 in the picture's middle, a Gaussian around it."""
    height, width = size_hw
    rows, columns = np.divmod(region, width)
    offsets = (rows + 0.5) / height - 0.5, (columns + 0.5) / width - 0.5
    squared = offsets[0] ** 2 + offsets[1] ** 2
    return np.asarray(np.exp(-squared / (2 * _CENTRE_DEVIATION**2)))


def _cells_of(rgb: NDArray[np.uint8]) -> NDArray[np.intp]:
    """(N,) number of the cell that each of (N, 3) uint8 colours lies in."""
    red, green, blue = (rgb // _CELL).astype(np.intp).T
    return (red * _CELLS + green) * _CELLS + blue


def foreground(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) bool: what stands out from a plain background, as in a packshot.

    pixels: (H, W, 3) uint8 RGB. Background is what is connected to the border through similar
    pixels. Where the border is not plain, or nothing stands out, all of the picture is foreground.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    everything = np.ones(pixels.shape[:2], bool)
    colour = np.median(border, axis=0)
    if np.abs(border - colour).mean() > _PLAIN_BORDER_DEVIATION:
        return everything
    similar = (np.abs(pixels.astype(np.int16) - colour) <= _BACKGROUND_TOLERANCE).all(axis=2)
    # One frame of background around the picture joins all its background that touches the border.
    framed = np.pad(similar.astype(np.uint8), 1, constant_values=1)
    _, labels = cv2.connectedComponents(framed, connectivity=4)
    mask: NDArray[np.bool_] = (labels != labels[0, 0])[1:-1, 1:-1]
    return mask if mask.any() else everything


def rgb_to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(..., 3) uint8 sRGB to CIELAB under D65: L in [0, 100], a and b about [-128, 127]."""
    flat = rgb.reshape(-1, 1, 3).astype(np.float32) / 255
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(rgb.shape).astype(np.float64)


def ciede2000(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colour difference of (..., 3) CIELAB arrays that broadcast; 1 is about just noticeable.

    The names are those of Sharma et al.; kL = kC = kH = 1.
    """
    lightness1, a1, b1 = np.moveaxis(first, -1, 0)
    lightness2, a2, b2 = np.moveaxis(second, -1, 0)
    mean_c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7)))
    c1, h1 = _chroma_hue((1 + g) * a1, b1)
    c2, h2 = _chroma_hue((1 + g) * a2, b2)

    grey = c1 * c2 == 0
    delta_hue = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    delta_l = lightness2 - lightness1
    delta_c = c2 - c1
    delta_h = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(delta_hue / 2))

    mean_l = (lightness1 + lightness2) / 2
    mean_c = (c1 + c2) / 2
    mean_h = np.where(grey, h1 + h2, (h1 + delta_hue / 2) % 360)
    t = (
        1
        - 0.17 * np.cos(np.radians(mean_h - 30))
        + 0.24 * np.cos(np.radians(2 * mean_h))
        + 0.32 * np.cos(np.radians(3 * mean_h + 6))
        - 0.20 * np.cos(np.radians(4 * mean_h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c = 1 + 0.045 * mean_c
    s_h = 1 + 0.015 * mean_c * t
    rotation = 30 * np.exp(-(((mean_h - 275) / 25) ** 2))
    r_t = -np.sin(np.radians(2 * rotation)) * 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    squared = (
        (delta_l / s_l) ** 2
        + (delta_c / s_c) ** 2
        + (delta_h / s_h) ** 2
        + r_t * (delta_c / s_c) * (delta_h / s_h)
    )
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _chroma_hue(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360


def _median(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(3,) of (N, 3), N > 0. `np.median` takes four times as long for so few."""
    low, high = (len(rgb) - 1) // 2, len(rgb) // 2
    ordered = np.partition(rgb, (low, high), axis=0)
    middle: NDArray[np.float64] = (ordered[low].astype(np.float64) + ordered[high]) / 2
    return middle


def _hex(rgb: NDArray[np.float64]) -> str:
    return "#" + bytes(np.round(rgb).astype(np.uint8).tolist()).hex()
