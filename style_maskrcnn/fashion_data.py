"""Samples of the layouts whose instances carry attributes (`style_maskrcnn.layouts`).

Dimension glossary
    C: categories; A: attributes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from pycocotools import mask as coco_mask

from style_maskrcnn.datasets import LabelSet, Sample
from style_maskrcnn.layouts.records import FashionDataset, FashionInstance
from training.ccp import TagInstance
from vision.errors import ErrorCode, PermanentError
from vision.rle import Rle
from vision.taxonomy import Taxonomy


def known_labels(
    dataset: FashionDataset,
    photo_ids: Sequence[str],
    taxonomy: Taxonomy,
    min_instances: int,
    min_attributes: int,
) -> LabelSet:
    """Categories with at least `min_instances` in the given (train) photos, and their attributes.

    A category may have the attributes that `min_attributes` of its instances have. Categories that
    are tags of the taxonomy share their garment class's mask channel; others are their own class.

    Raises `PermanentError` (`dataset_invalid`) when no category has as many.
    """
    counts: Counter[str] = Counter()
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for photo_id in photo_ids:
        for instance in dataset.instances(photo_id):
            if not instance.is_crowd:
                counts[instance.category] += 1
                seen[instance.category].update(instance.attributes)
    names = tuple(name for name in dataset.categories if counts[name] >= min_instances)
    if not names:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"no category has {min_instances} training instances"
        )
    index = {name: i for i, name in enumerate(dataset.attributes)}
    return LabelSet(
        class_names=names,
        coarse_of_class=tuple(taxonomy.class_of_tag.get(name, name) for name in names),
        attribute_names=dataset.attributes,
        attributes_of_class=tuple(
            tuple(sorted(index[a] for a, n in seen[name].items() if n >= min_attributes))
            for name in names
        ),
    )


def make_fashion_samples(
    dataset: FashionDataset, photo_ids: Sequence[str], labels: LabelSet
) -> list[Sample]:
    """Samples in order of photo id; crowds and unknown categories become ignore regions.

    Photos are read when they are drawn: tens of thousands are too many to hold.
    """
    classes = {name: i for i, name in enumerate(labels.class_names)}
    attributes = {name: i for i, name in enumerate(labels.attribute_names)}
    samples = []
    for photo_id in photo_ids:
        instances = dataset.instances(photo_id)
        known = [i for i in instances if not i.is_crowd and i.category in classes]
        ignored = [i for i in instances if i.is_crowd or i.category not in classes]
        samples.append(
            Sample(
                photo_id=photo_id,
                photo=partial(dataset.photo_bytes, photo_id),
                size_hw=dataset.size_hw(photo_id),
                class_ids=tuple(classes[i.category] for i in known),
                masks=tuple(i.mask for i in known),
                ignore_boxes=np.array([box_of(i.mask) for i in ignored], np.float32).reshape(-1, 4),
                attribute_ids=tuple(tuple(attributes[a] for a in i.attributes) for i in known),
            )
        )
    return samples


class FashionTruth(Mapping[str, Sequence[TagInstance]]):
    """Annotated instances by photo id, their masks decoded when asked for: all are too many."""

    def __init__(self, dataset: FashionDataset, photo_ids: Sequence[str]) -> None:
        self._dataset, self._photo_ids = dataset, tuple(photo_ids)

    def __getitem__(self, photo_id: str) -> Sequence[TagInstance]:
        return [_decoded(i) for i in self._dataset.instances(photo_id) if not i.is_crowd]

    def __iter__(self) -> Iterator[str]:
        return iter(self._photo_ids)

    def __len__(self) -> int:
        return len(self._photo_ids)


def box_of(mask: Rle) -> tuple[int, int, int, int]:
    """Box around a mask that is not empty, xyxy with far edges exclusive."""
    x, y, width, height = (int(v) for v in coco_mask.toBbox(mask.as_coco()))
    return x, y, x + width, y + height


def _decoded(instance: FashionInstance) -> TagInstance:
    return TagInstance(instance.category, instance.mask.decode(), box_of(instance.mask))
