"""Varied training photos: scale, cut, mirror, colour, and garments of one photo put on another.

Scale jitter on a fixed canvas and copy-paste are Ghiasi et al. 2021, https://arxiv.org/abs/2012.07177.
NumPy and OpenCV only. Glossary: H and W the photo's size, N its instances.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.config import AugmentationConfig

# What lies beside the photo: the grey that the network's normalisation maps to about 0.
PADDING_VALUE = 127
# The class of an ignore region.
IGNORED = -1
# Of a pixel of which nobody knows what it shows.
UNKNOWN_PIXEL = 255


@dataclass(frozen=True, eq=False)
class View:
    """A photo with what is in it.

    pixels: (H, W, 3) uint8 RGB. xyxy: (N, 4) float32 pixels. class_ids: (N,) int64, `IGNORED` for
    an ignore region. owners: (H, W) uint8, k + 1 on the pixels of instance k and 0 elsewhere; None
    where only boxes are known.
    """

    pixels: NDArray[np.uint8]
    xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    owners: NDArray[np.uint8] | None = None

    def only(self, kept: NDArray[np.intp]) -> View:
        """The instances with these indices, in this order."""
        owners = self.owners
        if owners is not None:
            numbers = np.zeros(256, np.uint8)
            numbers[kept + 1] = np.arange(1, len(kept) + 1)
            owners = numbers[owners]
        return dataclasses.replace(
            self, xyxy=self.xyxy[kept], class_ids=self.class_ids[kept], owners=owners
        )


def augment(
    view: View,
    config: AugmentationConfig,
    rng: np.random.Generator,
    long_side: tuple[int, int] | None = None,
) -> View:
    """A variant of one photo of the canvas' size.

    long_side: range that takes the place of the config's. An instance is dropped when less than
    `config.min_visible` of its box lies on the canvas.
    """
    placed = _place_on_canvas(_rescale(view, config, rng, long_side), config.canvas_wh, rng)
    if rng.random() < config.flip:
        placed = mirror(placed)
    clipped = np.clip(placed.xyxy, 0, np.array(config.canvas_wh * 2)).astype(np.float32)
    kept = np.flatnonzero(_areas(clipped) > config.min_visible * _areas(placed.xyxy))
    varied = vary_colour(placed.pixels, config, rng)
    return dataclasses.replace(placed, pixels=varied, xyxy=clipped).only(kept)


def pixel_classes(view: View, class_count: int) -> NDArray[np.int64]:
    """(H, W) the class of each pixel, `class_count` on background.

    `UNKNOWN_PIXEL` in ignore regions that no garment covers, and everywhere without `owners`.
    """
    height, width = view.pixels.shape[:2]
    if view.owners is None:
        return np.full((height, width), UNKNOWN_PIXEL, np.int64)
    of_owner = np.append(np.int64(class_count), view.class_ids)
    classes: NDArray[np.int64] = of_owner[view.owners]
    classes[classes == IGNORED] = UNKNOWN_PIXEL
    background = classes == class_count
    for x1, y1, x2, y2 in view.xyxy[view.class_ids == IGNORED].round().astype(int):
        region = classes[y1:y2, x1:x2]
        region[background[y1:y2, x1:x2]] = UNKNOWN_PIXEL
    return classes


def paste(onto: View, source: View, chosen: NDArray[np.intp], min_visible: float) -> View:
    """The chosen instances of `source` laid over `onto`, each where it is in its own photo.

    Both views have one size and know their owners. What is covered up loses those pixels: its box
    shrinks to what is left, and below the share `min_visible` of its pixels it is dropped.
    """
    assert onto.owners is not None
    assert source.owners is not None
    cut = source.only(chosen)
    assert cut.owners is not None
    covered = cut.owners > 0
    # A hard edge would give the pasted garment away.
    weight = cv2.blur(covered.astype(np.float32), (3, 3))[..., None]
    pixels = onto.pixels * (1 - weight) + source.pixels * weight
    count = len(onto.class_ids)
    owners = np.where(covered, cut.owners + count, onto.owners).astype(np.uint8)
    before = np.bincount(onto.owners.ravel(), minlength=count + 1)[1 : count + 1]
    total = count + len(chosen)
    after = np.bincount(owners.ravel(), minlength=total + 1)[1 : total + 1]
    boxes = np.concatenate((onto.xyxy, cut.xyxy))
    for index in np.flatnonzero(after[:count] < before):
        if after[index]:
            boxes[index] = _box_around(owners == index + 1)
    visible = np.concatenate((after[:count] > min_visible * before, after[count:] > 0))
    together = View(
        np.rint(pixels).astype(np.uint8),
        boxes.astype(np.float32),
        np.concatenate((onto.class_ids, cut.class_ids)),
        owners,
    )
    return together.only(np.flatnonzero(visible))


def mirror(view: View) -> View:
    """Left and right exchanged."""
    width = view.pixels.shape[1]
    x1, y1, x2, y2 = view.xyxy.T
    return dataclasses.replace(
        view,
        pixels=np.ascontiguousarray(view.pixels[:, ::-1]),
        xyxy=np.stack((width - x2, y1, width - x1, y2), axis=1),
        owners=None if view.owners is None else np.ascontiguousarray(view.owners[:, ::-1]),
    )


def vary_colour(
    pixels: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Brightness, contrast around the mean, and saturation around grey, each changed at random."""
    brightness, contrast, saturation = (
        1 + rng.uniform(-span, span)
        for span in (config.brightness, config.contrast, config.saturation)
    )
    values = pixels.astype(np.float32) * brightness
    mean = values.mean()
    values = (values - mean) * contrast + mean
    grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
    values = (values - grey) * saturation + grey
    varied: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return varied


def _rescale(
    view: View,
    config: AugmentationConfig,
    rng: np.random.Generator,
    long_side: tuple[int, int] | None,
) -> View:
    height, width = view.pixels.shape[:2]
    close_up = rng.random() < config.close_ups
    usual = config.close_up_long_side if close_up else config.long_side
    ratio = rng.uniform(*(long_side or usual)) / max(height, width)
    stretch = 1 + rng.uniform(-config.aspect_jitter, config.aspect_jitter)
    scaled_wh = max(1, round(width * ratio * stretch)), max(1, round(height * ratio / stretch))
    interpolation = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    factors = np.divide(scaled_wh, (width, height)).astype(np.float32)
    owners = view.owners
    if owners is not None:
        owners = cv2.resize(owners, scaled_wh, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return dataclasses.replace(
        view,
        pixels=cv2.resize(view.pixels, scaled_wh, interpolation=interpolation).astype(np.uint8),
        xyxy=view.xyxy * np.concatenate((factors, factors)),
        owners=owners,
    )


def _place_on_canvas(view: View, canvas_wh: tuple[int, int], rng: np.random.Generator) -> View:
    """Cut what is longer than the canvas and pad what is shorter, both at a random place."""
    # Where the photo's corner lands on the canvas; negative along a side that is cut.
    x, y = (
        int(rng.integers(min(0, room), max(0, room) + 1))
        for room in (canvas_wh[0] - view.pixels.shape[1], canvas_wh[1] - view.pixels.shape[0])
    )

    def placed(values: NDArray[np.uint8], padding: int) -> NDArray[np.uint8]:
        canvas = np.full((canvas_wh[1], canvas_wh[0], *values.shape[2:]), padding, np.uint8)
        visible = values[max(0, -y) : canvas_wh[1] - y, max(0, -x) : canvas_wh[0] - x]
        top, left = max(0, y), max(0, x)
        canvas[top : top + visible.shape[0], left : left + visible.shape[1]] = visible
        return canvas

    return dataclasses.replace(
        view,
        pixels=placed(view.pixels, PADDING_VALUE),
        xyxy=view.xyxy + np.array([x, y, x, y], np.float32),
        owners=None if view.owners is None else placed(view.owners, 0),
    )


def _box_around(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _areas(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    areas: NDArray[np.float32] = np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    return areas
