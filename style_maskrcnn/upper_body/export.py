"""From a checkpoint to a bundle: one ONNX graph, calibrated, compared with its network.

Dimension glossary
    K: regions; h, w: input size; V: values of all groups together.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.upper_body.answers import AnswerSpec, GroupSpec
from style_maskrcnn.upper_body.config import UpperBodyConfig
from style_maskrcnn.upper_body.dataset import UNLABELLED, VotedDataset
from style_maskrcnn.upper_body.evaluate import evaluate_upper_body
from style_maskrcnn.upper_body.network import UpperBodyNetwork
from style_maskrcnn.upper_body.predictor import INPUT, OUTPUT, UpperBodyModel
from style_maskrcnn.upper_body.region import cut, region_of, to_input
from style_maskrcnn.upper_body.train import Sample, load_checkpoint, make_samples, plain_spec
from training.citations import CLOTHING_ATTRIBUTES, IMAGENET_WEIGHTS
from vision.bundle import GRAPH, Bundle, update_metrics, write_bundle
from vision.errors import ErrorCode, PermanentError
from vision.session import OnnxSession

OPSET = 17
# Largest difference of a logit that may come of another order of additions.
TOLERANCE = 1e-3
TERMS = (
    "research only: learnt from the Clothing Attribute Dataset, published for research without a "
    "licence text; code and ImageNet weights are Apache-2.0"
)
log = logging.getLogger(__name__)


def export_upper_body(
    checkpoint: Path, data_path: Path, style: StyleModel, folder: Path, run: Path
) -> Bundle:
    """Write the bundle in `folder`: graph, calibration on the `calibration` photos, figures on
    those of `test`.

    style: lists every candidate. run: folder with the upper bodies that training found.

    Raises `PermanentError` (`bundle_invalid`) when the graph does not answer as its network does.
    """
    network, config = load_checkpoint(checkpoint)
    dataset = VotedDataset(data_path)
    samples = make_samples(dataset, dataset.of_split("calibration"), style, config, run)
    inputs = sample_inputs(samples, config)
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(network, folder / GRAPH, config)
    parity = compare(network, folder / GRAPH, inputs)
    with torch.no_grad():
        logits = network(torch.from_numpy(inputs)).numpy()
    spec = calibrated(plain_spec(), logits, np.stack([s.labels for s in samples]))
    bundle = write_bundle(
        folder,
        "style_attributes",
        architecture="EfficientNet-Lite0 with attention pooling and a linear head an attribute",
        labels=spec.labels_to_bundle(),
        input=config.region.to_bundle(),
        output=spec.output_to_bundle(),
        metrics={},
        data=[CLOTHING_ATTRIBUTES, IMAGENET_WEIGHTS],
        licence=TERMS,
        command=(
            "python -m style_maskrcnn train-upper-body "
            "--config configs/style_maskrcnn/style_attributes.yaml --data clothing-attributes.zip"
        ),
        parity=parity,
    )
    model = UpperBodyModel(bundle)
    figures = evaluate_upper_body(style, model, data_path, "test")
    return update_metrics(folder, "style_attributes", {"test": figures})


def sample_inputs(samples: list[Sample], config: UpperBodyConfig) -> NDArray[np.float32]:
    """(P, 3, h, w): the surest upper body of each sample."""
    region = config.region
    size_wh = (region.width, region.height)
    return to_input(
        np.stack([cut(s.pixels, region_of(s.boxes[0], region), size_wh) for s in samples])
    )


def export_onnx(network: UpperBodyNetwork, path: Path, config: UpperBodyConfig) -> None:
    """Write the graph of an evaluation-mode network. Its input is (K, 3, h, w), K dynamic."""
    example = torch.zeros(2, 3, config.region.height, config.region.width)
    with warnings.catch_warnings():
        # Tracing warns of every constant; whether one matters is what `compare` finds out.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "K"}, OUTPUT: {0: "K"}},
        )


def compare(network: UpperBodyNetwork, path: Path, inputs: NDArray[np.float32]) -> dict[str, Any]:
    """How far graph and network differ over (K, 3, h, w) inputs.

    Raises `PermanentError` (`bundle_invalid`) when by more than `TOLERANCE`.
    """
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(inputs)).numpy()
    session = OnnxSession(path, 1)
    largest = float(np.abs(session.run({INPUT: inputs})[OUTPUT] - expected).max(initial=0.0))
    session.close()
    if largest > TOLERANCE:
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID, f"{path} differs from its network by {largest:.3g}"
        )
    return {
        "tolerance": {OUTPUT: TOLERANCE},
        "measured": {OUTPUT: float(f"{largest:.3g}")},
        "inputs": len(inputs),
    }


def calibrated(
    spec: AnswerSpec, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> AnswerSpec:
    """The spec with a temperature for each group.

    Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, here on
    photos weighted so that all values of a group are alike often, as its answers assume.
    """
    groups, start = [], 0
    for column, group in enumerate(spec.groups):
        stop = start + len(group.values)
        known = labels[:, column] != UNLABELLED
        temperature = _temperature(logits[known, start:stop], labels[known, column], group)
        groups.append(replace(group, temperature=temperature))
        start = stop
    return AnswerSpec(tuple(groups))


def _temperature(logits: NDArray[np.float32], labels: NDArray[np.int64], group: GroupSpec) -> float:
    """The one with the least balanced cross-entropy; 1 when nothing is labelled."""
    if not len(labels):
        return 1.0
    counts = np.bincount(labels, minlength=len(group.values))
    weights = torch.from_numpy(1 / np.maximum(counts, 1)).float()
    temperatures = np.geomspace(0.25, 4, 65)
    losses = [
        float(
            nn.functional.cross_entropy(
                torch.from_numpy(logits / np.float32(t)), torch.from_numpy(labels), weight=weights
            )
        )
        for t in temperatures
    ]
    return round(float(temperatures[int(np.argmin(losses))]), 4)
