"""Figures of a bundle on data in a public layout, computed from what the bundle really answers.

Layouts: Clothing Co-Parsing (tags, boxes, masks), the Myntra catalogue (usage, season), the
Clothing Attribute Dataset (the upper body's attributes), Fashionpedia and iMaterialist (masks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.attribute_scoring import group_scores
from style_maskrcnn.colour_scoring import colour_scores
from style_maskrcnn.datasets import read_instances, split_ids
from style_maskrcnn.fashion_data import FashionTruth
from style_maskrcnn.layouts import open_dataset
from style_maskrcnn.layouts.records import FashionDataset
from style_maskrcnn.postprocess import GroupSpec
from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.preprocess import resize
from style_maskrcnn.progress import progress_bar
from style_maskrcnn.scoring import all_scores, fine_scores
from style_maskrcnn.upper_body.dataset import LABELS
from style_maskrcnn.upper_body.evaluate import evaluate_upper_body
from style_maskrcnn.upper_body.predictor import UpperBodyModel
from training.ccp import CcpDataset, Skipped, TagInstance
from training.products import UNLABELLED, Product, ProductDataset, attribute_labels
from training.split import DEFAULT_FRACTIONS
from vision.archive import open_archive
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import StyleInstances
from vision.image import EncodedImage, RgbImage, decode
from vision.taxonomy import load_taxonomy


def evaluate(
    bundle: Bundle,
    data_path: Path,
    split: str = "all",
    threads: int = 0,
    upper_body: UpperBodyModel | None = None,
) -> dict[str, Any]:
    """Every figure of the bundle on one split of the data, ready for JSON.

    upper_body: its figures are printed where the data are its.

    Raises `PermanentError` (`dataset_invalid`) when the path has none of the layouts, or has that
    of the upper body's attributes and there is no `upper_body`.
    """
    model = StyleModel(bundle, threads, believed_only=False)
    return {
        "model": bundle.name,
        "version": bundle.version,
        "data": data_path.name,
        "split": split,
        **_figures(model, upper_body, data_path, split),
    }


def _figures(
    model: StyleModel, upper_body: UpperBodyModel | None, data_path: Path, split: str
) -> dict[str, Any]:
    files = {name.rsplit("/", 1)[-1] for name in _names(data_path)}
    if LABELS in files:
        if upper_body is None:
            raise PermanentError(
                ErrorCode.DATASET_INVALID,
                f"{data_path} asks for the upper body's attributes, and no bundle of them is named",
            )
        return evaluate_upper_body(model, upper_body, data_path, split)
    if "styles.csv" in files:
        return evaluate_attributes(model, data_path, split)
    if any(name.endswith(".json") for name in files):
        layout = "imaterialist" if "label_descriptions.json" in files else "fashionpedia"
        return evaluate_fashion(model, open_dataset(layout, data_path), split)
    return evaluate_masks(model, data_path, split)


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
    with progress_bar() as bar:
        for photo_id in bar.track(photo_ids, description="photos"):
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


def evaluate_fashion(model: StyleModel, dataset: FashionDataset, split: str) -> dict[str, Any]:
    """Mask and box AP over the categories, on a layout of `style_maskrcnn.layouts`."""
    found: dict[str, StyleInstances] = {}
    skipped = [Skipped(s.photo_id, s.reason) for s in dataset.skipped]
    with progress_bar() as bar:
        for photo_id in bar.track(dataset.of_split(split), description="photos"):
            try:
                photo = decode(EncodedImage(dataset.photo_bytes(photo_id)))
            except PermanentError as error:
                skipped.append(Skipped(photo_id, error.message))
                continue
            height, width = dataset.size_hw(photo_id)
            found[photo_id] = model.predict([_at_size(photo, (width, height))])[0]
    truth = FashionTruth(dataset, list(found))
    return {
        "photos": len(found),
        "skipped": [{"photo": s.photo_id, "reason": s.reason} for s in skipped],
        "categories": fine_scores(truth, found, model.output.class_names),
    }


def evaluate_attributes(model: StyleModel, data_path: Path, split: str) -> dict[str, Any]:
    """Attribute groups on packshots, read off the largest instance the bundle finds in each, and
    the names of their colours (`colour_scores`).

    A photo in which nothing is found has no answer; `answered` says of how many it had one, and
    the attributes' figures are over those.
    """
    dataset = ProductDataset(data_path)
    chosen = dataset.of_split(split, DEFAULT_FRACTIONS, "")
    answered: list[tuple[Product, StyleInstances]] = []
    photos = _Photos(dataset)
    with progress_bar() as bar:
        for product in bar.track(chosen, description="products"):
            photo = photos.read(product)
            found = StyleInstances.empty(()) if photo is None else model.predict([photo])[0]
            if len(found):
                answered.append((product, found))
    return {
        "photos": len(chosen) - len(photos.skipped),
        "answered": len(answered),
        "skipped": [{"photo": s.photo_id, "reason": s.reason} for s in photos.skipped],
        "attributes": {
            group.name: _scores_of_group(answered, group) for group in model.output.groups
        },
        "colours": evaluate_colours(dataset, chosen),
    }


def evaluate_colours(dataset: ProductDataset, chosen: Sequence[Product]) -> dict[str, Any]:
    """The names of the products' colours; no network takes part."""
    photos = _Photos(dataset)
    pairs = ((product, photo) for product in chosen if (photo := photos.read(product)) is not None)
    return colour_scores(pairs, load_taxonomy())


class _Photos:
    """Reads products' photos, and remembers which are broken."""

    def __init__(self, dataset: ProductDataset) -> None:
        self._dataset = dataset
        self.skipped: list[Skipped] = []

    def read(self, product: Product) -> RgbImage | None:
        try:
            return decode(EncodedImage(self._dataset.photo_bytes(product)))
        except PermanentError as error:
            self.skipped.append(Skipped(product.product_id, error.message))
            return None


def _scores_of_group(
    answered: Sequence[tuple[Product, StyleInstances]], group: GroupSpec
) -> dict[str, Any]:
    """Figures of one group over the products that are labelled with it."""
    labels = attribute_labels([product for product, _ in answered], [(group.name, group.values)])
    known = np.flatnonzero(labels[:, 0] != UNLABELLED)
    probabilities = [_probabilities(answered[int(index)][1], group) for index in known]
    return group_scores(np.array(probabilities, np.float32), labels[known, 0], group.values)


def _probabilities(found: StyleInstances, group: GroupSpec) -> NDArray[np.float32]:
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
