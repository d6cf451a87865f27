"""Street photos with masks, ready to learn from: samples, augmentation, batches.

Dimension glossary
    M: instances of a photo; K: ignore regions; h, w: a resized photo; H, W: the batch's padded
    size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.config import AugmentationConfig
from style_maskrcnn.preprocess import padded_size, resize, resized_size, to_tensor
from training.ccp import CcpDataset, TagInstance
from training.split import split_of
from vision.errors import ErrorCode, PermanentError
from vision.rle import Rle
from vision.taxonomy import Taxonomy

PLAIN = AugmentationConfig()


@dataclass(frozen=True)
class LabelSet:
    """The fine tags a model knows.

    class_names: C tags. coarse_of_class: for each the garment class it belongs to.
    attribute_names: A attributes, any number of which an instance may have; often none are known.
    attributes_of_class: for each tag the indices of the attributes it is asked for.
    """

    class_names: tuple[str, ...]
    coarse_of_class: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()
    attributes_of_class: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_names) != len(self.coarse_of_class):
            raise ValueError("class_names and coarse_of_class differ in length")

    @property
    def mask_channel_of_class(self) -> tuple[int, ...]:
        """One mask channel for each garment class, in order of appearance."""
        coarse = list(dict.fromkeys(self.coarse_of_class))
        return tuple(coarse.index(name) for name in self.coarse_of_class)


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo and its ground truth, masks run-length encoded to hold hundreds in memory.

    photo: the encoded photo, or what reads it: tens of thousands are too many to hold. size_hw: of
    the annotation. ignore_boxes: (K, 4) float32 xyxy. attribute_ids: for each mask the attributes
    its instance has; empty where none are known.
    """

    photo_id: str
    photo: bytes | Callable[[], bytes]
    size_hw: tuple[int, int]
    class_ids: tuple[int, ...]
    masks: tuple[Rle, ...]
    ignore_boxes: NDArray[np.float32]
    attribute_ids: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class View:
    """One augmented photo with its ground truth in the view's own pixels.

    pixels: (h, w, 3) uint8. masks: (M, h, w) uint8. class_ids: (M,). ignore_boxes: (K, 4).
    attribute_ids: M tuples, or none.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    class_ids: NDArray[np.int64]
    ignore_boxes: NDArray[np.float32]
    attribute_ids: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """Views padded to one size. images: (B, 3, H, W) float32; the lists have B entries."""

    images: NDArray[np.float32]
    boxes: list[NDArray[np.float32]]
    class_ids: list[NDArray[np.int64]]
    masks: list[NDArray[np.uint8]]
    ignore_boxes: list[NDArray[np.float32]]
    attribute_ids: list[tuple[tuple[int, ...], ...]]


def split_ids(
    dataset: CcpDataset, split: str, fractions: Mapping[str, float], salt: str
) -> list[str]:
    """Ids of the photos in one split, or of all photos for `all`."""
    if split != "all" and split not in fractions:
        raise ValueError(f"unknown split {split!r}; known: all, {', '.join(fractions)}")
    return [i for i in dataset.photo_ids if split in ("all", split_of(i, fractions, salt))]


def known_tags(
    instances: Mapping[str, Sequence[TagInstance]], taxonomy: Taxonomy, min_instances: int
) -> LabelSet:
    """Garment tags with at least `min_instances` in the given (train) photos, by garment class.

    Raises `PermanentError` (`dataset_invalid`) when no tag has as many.
    """
    counts = Counter(i.tag for found in instances.values() for i in found)
    names = [tag for tag in taxonomy.class_of_tag if counts[tag] >= min_instances]
    if not names:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"no garment tag has {min_instances} instances"
        )
    return LabelSet(tuple(names), tuple(taxonomy.class_of_tag[tag] for tag in names))


def read_instances(
    dataset: CcpDataset, photo_ids: Sequence[str], taxonomy: Taxonomy
) -> dict[str, list[TagInstance]]:
    """Every instance that is not background, by photo."""
    background = taxonomy.background_tags
    return {i: list(dataset.instances(i, leave_out=background)) for i in photo_ids}


def make_samples(
    dataset: CcpDataset, instances: Mapping[str, Sequence[TagInstance]], labels: LabelSet
) -> list[Sample]:
    """Samples in order of photo id; instances of unknown tags become ignore regions."""
    index = {name: i for i, name in enumerate(labels.class_names)}
    samples = []
    for photo_id, found in instances.items():
        known = [i for i in found if i.tag in index]
        unknown = [i.xyxy for i in found if i.tag not in index]
        size_hw = found[0].mask.shape if found else dataset.tag_map(photo_id).shape
        samples.append(
            Sample(
                photo_id=photo_id,
                photo=dataset.photo_bytes(photo_id),
                size_hw=(size_hw[0], size_hw[1]),
                class_ids=tuple(index[i.tag] for i in known),
                masks=tuple(Rle.encode(i.mask) for i in known),
                ignore_boxes=np.array(unknown, np.float32).reshape(-1, 4),
            )
        )
    return samples


def repeat_factors(samples: Sequence[Sample], threshold: float) -> NDArray[np.float64]:
    """(S,) how often each photo is shown an epoch: max over its tags of max(1, √(t / frequency)).

    Gupta et al., "LVIS", CVPR 2019, appendix.
    """
    photos_with = Counter(c for s in samples for c in set(s.class_ids))
    factor_of = {
        c: max(1.0, math.sqrt(threshold * len(samples) / n)) for c, n in photos_with.items()
    }
    return np.array([max((factor_of[c] for c in s.class_ids), default=1.0) for s in samples])


def epoch_order(factors: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of one epoch in random order; fractions of a factor are rounded at random."""
    rng = np.random.default_rng((seed, epoch))
    whole = np.floor(factors)
    repeats = whole + (rng.random(len(factors)) < factors - whole)
    order = np.repeat(np.arange(len(factors)), repeats.astype(np.int64))
    rng.shuffle(order)
    return order


def decode_photo(sample: Sample) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB. Raises `PermanentError` (`dataset_invalid`) naming the photo."""
    encoded = sample.photo() if callable(sample.photo) else sample.photo
    data = np.frombuffer(encoded, np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if decoded is None:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"photo {sample.photo_id} cannot be decoded"
        )
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8)


def make_view(sample: Sample, long_side: int, rng: np.random.Generator | None) -> View:
    """The photo at `long_side`; with `rng` also mirrored, cropped and recoloured at random.

    The photo may be larger than its annotation (CCP publishes both sizes); both are resized to the
    same view.
    """
    pixels = decode_photo(sample)
    height, width = sample.size_hw
    masks = np.stack([m.decode() for m in sample.masks]) if sample.masks else None
    if masks is None:
        masks = np.zeros((0, height, width), np.bool_)
    size_wh = resized_size((width, height), long_side)
    scale = np.tile(np.array(size_wh) / (width, height), 2).astype(np.float32)
    view = View(
        pixels=resize(pixels, size_wh),
        masks=_resize_masks(masks, size_wh),
        class_ids=np.array(sample.class_ids, np.int64),
        ignore_boxes=sample.ignore_boxes * scale,
        attribute_ids=sample.attribute_ids,
    )
    if rng is None:
        return _drop_empty(view)
    return _drop_empty(_recolour(_crop(_mirror(view, rng), rng), rng))


def make_batch(views: Sequence[View]) -> Batch:
    """Views padded right and below to the smallest common multiple of 32."""
    height, width = padded_size(
        max(v.pixels.shape[0] for v in views), max(v.pixels.shape[1] for v in views)
    )
    masks = [
        np.pad(
            v.masks,
            ((0, 0), (0, height - v.masks.shape[1]), (0, width - v.masks.shape[2])),
        )
        for v in views
    ]
    return Batch(
        images=np.stack([to_tensor(v.pixels, (height, width)) for v in views]),
        boxes=[boxes_of_masks(v.masks) for v in views],
        class_ids=[v.class_ids for v in views],
        masks=masks,
        ignore_boxes=[v.ignore_boxes for v in views],
        attribute_ids=[v.attribute_ids for v in views],
    )


def boxes_of_masks(masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(M, 4) float32 xyxy around (M, h, w) masks, none of them empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for index, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def batches_of_epoch(
    samples: Sequence[Sample],
    order: NDArray[np.int64],
    batch_size: int,
    long_sides: Sequence[int],
    seed: tuple[int, int],
    first: int = 0,
    augmentation: AugmentationConfig = PLAIN,
) -> Iterator[Batch]:
    """Augmented batches `first`, `first + 1`, … of an epoch; the last, short one is left out.

    Each batch draws from a generator of its own, so a resumed run sees the same photos.
    """
    for index in range(first, len(order) // batch_size):
        rng = np.random.default_rng((*seed, index))
        long_side = int(rng.choice(np.array(long_sides)))
        chosen = order[index * batch_size : (index + 1) * batch_size]
        yield make_batch([varied_view(samples, i, long_side, rng, augmentation) for i in chosen])


def varied_view(
    samples: Sequence[Sample],
    index: int,
    long_side: int,
    rng: np.random.Generator,
    augmentation: AugmentationConfig,
) -> View:
    """A random view of one sample, now and then a close-up, or with garments of another sample."""
    view = _near_or_far(samples[index], long_side, rng, augmentation)
    if augmentation.copy_paste and rng.random() < augmentation.copy_paste:
        donor = samples[int(rng.integers(len(samples)))]
        source = _near_or_far(donor, long_side, rng, augmentation)
        if len(source.class_ids):
            most = min(len(source.class_ids), augmentation.max_pasted)
            count = int(rng.integers(1, most + 1))
            pasted = np.sort(rng.permutation(len(source.class_ids))[:count])
            view = paste(view, source, pasted, augmentation.min_visible)
    return view


def paste(view: View, source: View, chosen: NDArray[np.intp], min_visible: float) -> View:
    """The chosen instances of `source` laid over `view`, each where it is in its own photo.

    What lies beyond `view` is cut off. An instance that loses pixels to them keeps the rest of its
    mask, and is dropped when less than the share `min_visible` of it is left.
    """
    height, width = view.pixels.shape[:2]
    masks = np.zeros((len(chosen), height, width), np.uint8)
    inside = source.masks[chosen, :height, :width]
    masks[:, : inside.shape[1], : inside.shape[2]] = inside
    over = np.zeros_like(view.pixels)
    cut = source.pixels[:height, :width]
    over[: cut.shape[0], : cut.shape[1]] = cut
    covered = np.asarray(masks.any(axis=0))
    # A hard edge would give the pasted garment away.
    weight = cv2.blur(covered.astype(np.float32), (3, 3))[..., None]
    pixels = np.rint(view.pixels * (1 - weight) + over * weight).astype(np.uint8)
    left = view.masks * ~covered
    in_sight = left.sum(axis=(1, 2)) >= min_visible * view.masks.sum(axis=(1, 2))
    kept = np.flatnonzero(in_sight)
    attribute_ids = (
        *(view.attribute_ids[i] for i in kept if view.attribute_ids),
        *(source.attribute_ids[i] for i in chosen if source.attribute_ids),
    )
    return _drop_empty(
        replace(
            view,
            pixels=pixels,
            masks=np.concatenate([left[kept], masks]),
            class_ids=np.concatenate([view.class_ids[kept], source.class_ids[chosen]]),
            attribute_ids=attribute_ids,
        )
    )


def _near_or_far(
    sample: Sample, long_side: int, rng: np.random.Generator, augmentation: AugmentationConfig
) -> View:
    if not augmentation.close_ups or rng.random() >= augmentation.close_ups:
        return make_view(sample, long_side, rng)
    zoom = float(rng.uniform(*augmentation.close_up_zoom))
    return _drop_empty(
        _window(make_view(sample, round(long_side * zoom), rng), (1 / zoom, 1 / zoom), rng)
    )


def _mirror(view: View, rng: np.random.Generator) -> View:
    if rng.random() < 0.5:
        return view
    width = view.pixels.shape[1]
    boxes = view.ignore_boxes.copy()
    boxes[:, [0, 2]] = width - view.ignore_boxes[:, [2, 0]]
    return replace(
        view,
        pixels=np.ascontiguousarray(view.pixels[:, ::-1]),
        masks=np.ascontiguousarray(view.masks[:, :, ::-1]),
        ignore_boxes=boxes,
    )


def _crop(view: View, rng: np.random.Generator, share: float = 0.5, least: float = 0.7) -> View:
    """With chance `share` a window of at least `least` of each side."""
    if rng.random() >= share:
        return view
    return _window(view, (rng.uniform(least, 1), rng.uniform(least, 1)), rng)


def _window(view: View, shares: tuple[float, float], rng: np.random.Generator) -> View:
    """A part of the view, these shares of its height and width, at a random place."""
    height, width = view.pixels.shape[:2]
    crop_h, crop_w = int(height * shares[0]), int(width * shares[1])
    top, left = int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1))
    boxes = np.clip(
        view.ignore_boxes - np.array([left, top, left, top], np.float32),
        0,
        np.array([crop_w, crop_h, crop_w, crop_h], np.float32),
    )
    return replace(
        view,
        pixels=view.pixels[top : top + crop_h, left : left + crop_w],
        masks=view.masks[:, top : top + crop_h, left : left + crop_w],
        ignore_boxes=boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)].astype(np.float32),
    )


def _recolour(view: View, rng: np.random.Generator) -> View:
    """Brightness, contrast and saturation, each by up to 20 %."""
    gain, contrast, saturation = rng.uniform(0.8, 1.2, 3)
    pixels = view.pixels.astype(np.float32) * gain
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean()
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * saturation
    return replace(view, pixels=np.clip(pixels, 0, 255).astype(np.uint8))


def _resize_masks(masks: NDArray[np.bool_], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    resized = [
        cv2.resize(m.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) for m in masks
    ]
    return np.array(resized, np.uint8).reshape(-1, size_wh[1], size_wh[0])


def _drop_empty(view: View, min_pixels: int = 4) -> View:
    keep = view.masks.sum(axis=(1, 2)) >= min_pixels
    kept = np.flatnonzero(keep) if view.attribute_ids else ()
    return replace(
        view,
        masks=view.masks[keep],
        class_ids=view.class_ids[keep],
        attribute_ids=tuple(view.attribute_ids[i] for i in kept),
    )
