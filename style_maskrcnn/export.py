"""From a checkpoint to a bundle: one ONNX graph of all between photo and raw answers.

The graph is run with ONNX Runtime and compared with the network before the bundle is written.

Dimension glossary
    H, W: padded input size, multiples of 32; N: detections; V: attribute values.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from style_maskrcnn.checkpoint import Checkpoint, load_checkpoint
from style_maskrcnn.config import Config
from style_maskrcnn.datasets import split_ids
from style_maskrcnn.evaluate import evaluate_fashion, evaluate_masks, predict_photos
from style_maskrcnn.layouts import CCP_LAYOUT, open_dataset
from style_maskrcnn.network import StyleNetwork
from style_maskrcnn.postprocess import GroupSpec, OutputSpec
from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.preprocess import InputSpec, preprocess
from style_maskrcnn.scoring import best_score_threshold
from training.ccp import CcpDataset
from training.citations import (
    CCP,
    FASHIONPEDIA,
    IMAGENET_WEIGHTS,
    IMATERIALIST,
    PRODUCTS,
    Citation,
)
from training.split import DEFAULT_FRACTIONS
from vision.bundle import GRAPH, Bundle, update_metrics, write_bundle
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage, decode
from vision.session import OnnxSession
from vision.taxonomy import load_taxonomy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a bundle learnt from: its citation, the weights' terms, and the command's last words."""

    citation: Citation
    licence: str
    data: str


ORIGINS: Mapping[str, Origin] = {
    CCP_LAYOUT: Origin(
        CCP, "Apache-2.0", "ccp_efficientnet_lite0.yaml --data clothing-co-parsing.zip"
    ),
    "fashionpedia": Origin(FASHIONPEDIA, FASHIONPEDIA["licence"], "fashionpedia.yaml --data ..."),
    "imaterialist": Origin(IMATERIALIST, IMATERIALIST["licence"], "imaterialist.yaml --data ..."),
}
# Where there is too little to choose from.
DEFAULT_SERVING_SCORE = 0.5
# Nothing is to be found in it.
EMPTY = np.full((600, 400, 3), 127, np.uint8)
OPSET = 17
INPUT = "image"
OUTPUTS = ("boxes", "scores", "class_ids", "masks", "attributes")
# Largest difference of a box edge in pixels, and of a score, mask probability or attribute
# logit, that may come of another order of additions.
TOLERANCE: Mapping[str, float] = {
    "boxes": 0.05,
    "scores": 1e-3,
    "masks": 5e-3,
    "attributes": 1e-2,
}
# Photos of the validation split that network and graph are compared on, besides an empty one.
PARITY_PHOTOS = 12


def export(
    checkpoint_path: Path, config: Config, data: Path, folder: Path, threads: int = 0
) -> Bundle:
    """Write the bundle in `folder` from a checkpoint.

    config: its `input` and `output` say how the bundle sees photos and reads answers; the network
    is the checkpoint's.
    The serving score is the one with the best F1 on the `validation` and `calibration` photos at
    `data`; the figures are those of the `test` photos.

    Raises `PermanentError` (`bundle_invalid`) when the graph does not answer as its network does.
    """
    trained = load_checkpoint(checkpoint_path)
    checkpoint = replace(
        trained, config=replace(trained.config, input=config.input, output=config.output)
    )
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.config.data.layout != CCP_LAYOUT:
        return export_fashion(checkpoint, data, folder, threads)
    dataset = CcpDataset(data)
    export_onnx(checkpoint.network, folder / GRAPH)
    parity = compare(
        checkpoint.network, folder / GRAPH, parity_inputs(dataset, checkpoint), threads
    )
    log.info("parity: %s", parity)
    draft = write(folder, checkpoint, serving_score=0.5, parity=parity)
    score, f1 = choose_serving_score(draft, dataset, threads)
    log.info("serving score %.2f, F1 %.3f", score, f1)
    bundle = write(folder, checkpoint, serving_score=score, parity=parity)
    figures = evaluate_masks(StyleModel(bundle, threads, believed_only=False), data, "test")
    return update_metrics(
        folder,
        "style",
        {
            "serving_score_f1": f1,
            "test": figures,
            "attributes_test": checkpoint.facts.get("attribute_scores", {}),
        },
    )


def export_fashion(checkpoint: Checkpoint, data: Path, folder: Path, threads: int) -> Bundle:
    """As `export`, of a layout with attributes: figures and score are of its validation photos."""
    dataset = open_dataset(checkpoint.config.data.layout, data)
    photo_ids = dataset.of_split("validation")
    spec = InputSpec(checkpoint.config.input.long_side)
    photos = [decode(EncodedImage(dataset.photo_bytes(i))).pixels for i in photo_ids]
    photos = [*photos[:PARITY_PHOTOS], EMPTY]
    export_onnx(checkpoint.network, folder / GRAPH)
    inputs = [preprocess(pixels, spec).tensor for pixels in photos]
    parity = compare(checkpoint.network, folder / GRAPH, inputs, threads)
    bundle = write(folder, checkpoint, DEFAULT_SERVING_SCORE, parity)
    model = StyleModel(bundle, threads, believed_only=False)
    return update_metrics(
        folder, "style", {"validation": evaluate_fashion(model, dataset, "validation")}
    )


def write(folder: Path, checkpoint: Checkpoint, serving_score: float, parity: Parity) -> Bundle:
    """`model.yaml` beside the graph that already lies in `folder`."""
    confidence = checkpoint.facts.get("confidence", {})
    spec = OutputSpec(
        checkpoint.labels.class_names,
        checkpoint.labels.coarse_of_class,
        tuple(
            GroupSpec(g.name, g.values, categories=g.categories, **confidence.get(g.name, {}))
            for g in checkpoint.groups
        ),
        serving_score,
        mask_threshold=checkpoint.config.output.mask_threshold,
        duplicate_iou=checkpoint.config.output.duplicate_iou,
        attribute_names=checkpoint.labels.attribute_names,
        attributes_of_class=checkpoint.labels.attributes_of_class,
    )
    network = checkpoint.config.network
    origin = ORIGINS[checkpoint.config.data.layout]
    return write_bundle(
        folder,
        "style",
        architecture=(
            f"Mask R-CNN with an attribute head, EfficientNet-Lite0 and a feature pyramid of "
            f"{network.channels} channels"
        ),
        labels=spec.labels_to_bundle(),
        input=InputSpec(checkpoint.config.input.long_side).to_bundle(),
        output=spec.output_to_bundle(),
        metrics={},
        data=[origin.citation, *([PRODUCTS] if checkpoint.groups else []), IMAGENET_WEIGHTS],
        licence=origin.licence,
        command=f"python -m style_maskrcnn train --config configs/style_maskrcnn/{origin.data}",
        parity=parity.to_bundle(),
    )


def parity_inputs(dataset: CcpDataset, checkpoint: Checkpoint) -> list[NDArray[np.float32]]:
    """Validation photos as inputs, and an empty grey one in which nothing is to be found."""
    spec = InputSpec(checkpoint.config.input.long_side)
    data = checkpoint.config.data
    chosen = split_ids(dataset, "validation", data.fractions, data.salt)[:PARITY_PHOTOS]
    photos = [decode(EncodedImage(dataset.photo_bytes(i))).pixels for i in chosen]
    photos.append(EMPTY)
    return [preprocess(pixels, spec).tensor for pixels in photos]


def choose_serving_score(draft: Bundle, dataset: CcpDataset, threads: int) -> tuple[float, float]:
    """(score, F1) that serve best on the photos set aside for choosing."""
    model = StyleModel(draft, threads, believed_only=False)
    photo_ids = [
        photo
        for split in ("validation", "calibration")
        for photo in split_ids(dataset, split, DEFAULT_FRACTIONS, "")
    ]
    answers = predict_photos(model, dataset, photo_ids)
    return best_score_threshold(answers.truth, answers.found, load_taxonomy())


class _Traced(nn.Module):
    """The network with a plain tuple as its answer, as tracing wants it."""

    def __init__(self, network: StyleNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        output = self.network(image)
        return tuple(getattr(output, name) for name in OUTPUTS)


def export_onnx(
    network: StyleNetwork, path: Path, example_hw: tuple[int, int] = (480, 320)
) -> None:
    """Write the graph of an evaluation-mode network. Its input is (1, 3, H, W), H and W dynamic."""
    example = torch.zeros(1, 3, *example_hw)
    with warnings.catch_warnings():
        # Tracing warns of every constant; whether one matters is what `compare` finds out.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Traced(network.eval()),
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={INPUT: {2: "H", 3: "W"}, **{name: {0: "N"} for name in OUTPUTS}},
        )


@dataclass(frozen=True)
class Parity:
    """How far graph and network differ over some inputs.

    largest: output → largest absolute difference over matched detections. inputs: how many.
    detections: how many were compared.
    """

    largest: Mapping[str, float]
    inputs: int
    detections: int

    def to_bundle(self) -> dict[str, Any]:
        return {
            "tolerance": dict(TOLERANCE),
            "measured": {name: float(f"{value:.3g}") for name, value in self.largest.items()},
            "inputs": self.inputs,
            "detections": self.detections,
        }


def compare(
    network: StyleNetwork, path: Path, inputs: Iterable[NDArray[np.float32]], threads: int = 1
) -> Parity:
    """Run network and graph on (1, 3, H, W) inputs.

    Raises `PermanentError` (`bundle_invalid`) when they find another number of detections or
    classes, or differ by more than `TOLERANCE`.
    """
    session = OnnxSession(path, threads)
    largest = dict.fromkeys(TOLERANCE, 0.0)
    count = detections = 0
    for image in inputs:
        with torch.no_grad():
            output = network.eval()(torch.from_numpy(image))
        expected = {name: getattr(output, name).numpy() for name in OUTPUTS}
        actual = session.run({INPUT: image})
        order = _same_order(expected, actual, path)
        for name in TOLERANCE:
            difference = np.abs(expected[name] - actual[name][order])
            largest[name] = max(largest[name], float(difference.max(initial=0.0)))
        count += 1
        detections += len(order)
    session.close()
    beyond = [name for name, value in largest.items() if value > TOLERANCE[name]]
    if beyond:
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID,
            f"{path} differs from its network: "
            + ", ".join(f"{name} by {largest[name]:.3g}" for name in beyond),
        )
    return Parity(largest, count, detections)


def _same_order(
    expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]], path: Path
) -> NDArray[np.int64]:
    """For each expected detection the index of the same one in `actual`.

    Scores that tie to the last digits may come in another order, so detections are paired by class
    and nearest box.
    """
    if len(expected["scores"]) != len(actual["scores"]):
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID,
            f"{path} finds {len(actual['scores'])} instances, "
            f"its network {len(expected['scores'])}",
        )
    other_class = expected["class_ids"][:, None] != actual["class_ids"][None]
    distance = np.abs(expected["boxes"][:, None] - actual["boxes"][None]).max(axis=2)
    order = np.argmin(np.where(other_class, np.inf, distance), axis=1) if len(distance) else []
    if len(set(order)) != len(expected["scores"]):
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID, f"{path} finds other instances than its network"
        )
    return np.asarray(order, np.int64)
