"""Figures of a bundle on data in a public layout, computed from what the bundle really answers.

Two layouts: Clothing Co-Parsing (tags, boxes, masks) and the Myntra catalogue (attributes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from style_maskrcnn.attribute_scoring import group_scores
from style_maskrcnn.datasets import read_instances, split_ids
from style_maskrcnn.postprocess import GroupSpec
from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.preprocess import resize
from style_maskrcnn.products import UNLABELLED, ProductDataset, attribute_labels
from style_maskrcnn.scoring import all_scores
from training.ccp import CcpDataset, Skipped, TagInstance
from training.split import DEFAULT_FRACTIONS
from vision.archive import open_archive
from vision.bundle import Bundle
from vision.errors import PermanentError
from vision.garments import StyleInstances
from vision.image import EncodedImage, RgbImage, decode
from vision.taxonomy import load_taxonomy


def evaluate(
    bundle: Bundle, data_path: Path, split: str = "all", threads: int = 0
) -> dict[str, Any]:
    """Every figure of the bundle on one split of the data, ready for JSON.

    Raises `PermanentError` (`dataset_invalid`) when the path has neither layout.
    """
    is_catalogue = any(name.rsplit("/", 1)[-1] == "styles.csv" for name in _names(data_path))
    model = StyleModel(bundle, threads, believed_only=False)
    scored = evaluate_attributes if is_catalogue else evaluate_masks
    return {
        "model": bundle.name,
        "version": bundle.version,
        "data": data_path.name,
        "split": split,
        **scored(model, data_path, split),
    }


@dataclass(frozen=True)
class Answers:
    """Annotated and predicted instances by photo id, and the photos that could not be used."""

    truth: dict[str, list[TagInstance]]
    found: dict[str, StyleInstances]
    skipped: list[Skipped]


def evaluate_masks(model: StyleModel, data_path: Path, split: str) -> dict[str, Any]:
    """Fine tags, garment classes and foreground on Clothing Co-Parsing."""
    dataset, taxonomy = CcpDataset(data_path), load_taxonomy()
    photo_ids = split_ids(dataset, split, DEFAULT_FRACTIONS, "")
    answers = predict_photos(model, dataset, photo_ids)
    skipped = [*dataset.skipped, *answers.skipped]
    return {
        "photos": len(answers.truth),
        "skipped": [{"photo": s.photo_id, "reason": s.reason} for s in skipped],
        **all_scores(
            answers.truth,
            answers.found,
            model.output.class_names,
            taxonomy,
            model.output.serving_score,
        ),
    }


def predict_photos(model: StyleModel, dataset: CcpDataset, photo_ids: Sequence[str]) -> Answers:
    """What is annotated in each photo and what the model finds, in the annotation's pixels."""
    taxonomy = load_taxonomy()
    answers = Answers({}, {}, [])
    for photo_id in _watched(photo_ids):
        try:
            truth = read_instances(dataset, [photo_id], taxonomy)[photo_id]
            height, width = dataset.tag_map(photo_id).shape
            photo = decode(EncodedImage(dataset.photo_bytes(photo_id)))
        except PermanentError as error:
            answers.skipped.append(Skipped(photo_id, error.message))
            continue
        answers.truth[photo_id] = truth
        answers.found[photo_id] = model.predict([_at_size(photo, (width, height))])[0]
    return answers


def evaluate_attributes(model: StyleModel, data_path: Path, split: str) -> dict[str, Any]:
    """Attribute groups on packshots, read off the largest instance the bundle finds in each.

    A photo in which nothing is found has no answer; `answered` says of how many it had one, and
    the figures are over those.
    """
    dataset = ProductDataset(data_path)
    groups = model.output.groups
    products, rows, skipped = [], [], []
    chosen = dataset.of_split(split, DEFAULT_FRACTIONS, "")
    for product in _watched(chosen):
        try:
            photo = decode(EncodedImage(dataset.photo_bytes(product)))
        except PermanentError as error:
            skipped.append({"photo": product.product_id, "reason": error.message})
            continue
        found = model.predict([photo])[0]
        if len(found):
            products.append(product)
            rows.append([_scores_of_group(found, group) for group in groups])
    labels = attribute_labels(products, [(g.name, g.values) for g in groups])
    scores = {}
    for index, group in enumerate(groups):
        known = np.flatnonzero(labels[:, index] != UNLABELLED)
        values = np.array([rows[i][index] for i in known], np.float32)
        scores[group.name] = group_scores(values, labels[known, index], group.values)
    return {
        "photos": len(chosen) - len(skipped),
        "answered": len(products),
        "skipped": skipped,
        "attributes": scores,
    }


def _scores_of_group(found: StyleInstances, group: GroupSpec) -> NDArray[np.float32]:
    """(values,) probabilities of the instance with the most pixels; 0 where not among its best."""
    largest = int(np.argmax([mask.area for mask in found.masks]))
    answer = found.attributes[largest].get(group.name)
    probabilities = dict(answer.alternatives) if answer else {}
    return np.array([probabilities.get(value, 0.0) for value in group.values], np.float32)


def _at_size(photo: RgbImage, size_wh: tuple[int, int]) -> RgbImage:
    """The photo at its annotation's size: CCP is published with photos of more than one size."""
    return RgbImage(resize(photo.pixels, size_wh), photo.sha256)


def _names(data_path: Path) -> Sequence[str]:
    archive = open_archive(data_path)
    try:
        return archive.names()
    finally:
        archive.close()


def _watched(items: Sequence[Any]) -> Iterable[Any]:
    """The items with a bar on stderr, when somebody watches."""
    console = Console(stderr=True)
    return track(
        items, "evaluating", console=console, disable=not console.is_terminal, transient=True
    )
