"""From a checkpoint to a bundle: ONNX graph, parity with Detectron2, threshold, figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from detection.backbone import PIXEL_MEAN, PIXEL_STD
from detection.config import ConfigError, DetectionConfig, config_to_mapping
from detection.datasets import ids_of_split, read_photo
from detection.evaluate import best_min_score, evaluate, predict_split
from detection.fcos import GarmentFcos
from detection.home_photos import score_home_photos
from detection.network import DetectorNetwork, GraphForm, build_network, graph_form, raw_outputs
from detection.predictor import GarmentDetector, evaluation_min_score
from detection.preprocess import InputFormat, prepare
from detection.train import load_checkpoint
from training.ccp import CcpDataset
from training.citations import CCP, HOME_PHOTOS, IMAGENET_WEIGHTS, PRODUCTS
from vision.boxes import pairwise_iou
from vision.bundle import GRAPH, Bundle, update_metrics, write_bundle
from vision.garments import Detections
from vision.image import RgbImage
from vision.taxonomy import load_taxonomy

log = logging.getLogger(__name__)

OPSET = 17
INPUT_NAME = "images"

# Scores pass an exponential and a square root, boxes a stride of up to 128: rounding in another
# order of additions stays two decimal orders below these.
SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE_PIXELS = 0.5
# Detections this close to the threshold may fall on either side of it.
PARITY_MIN_SCORE = 0.1
PARITY_PHOTOS = 12


@dataclass(frozen=True)
class Parity:
    """How far the exported detector is from Detectron2's own inference on the same photos.

    detections: compared, those of Detectron2 with a score of at least `PARITY_MIN_SCORE`.
    unmatched: of them, without a box of the same class at the same place. score_difference,
    box_difference_pixels: the greatest among the matched.
    """

    photos: int
    detections: int
    unmatched: int
    score_difference: float
    box_difference_pixels: float

    @property
    def holds(self) -> bool:
        return (
            self.unmatched == 0
            and self.score_difference <= SCORE_TOLERANCE
            and self.box_difference_pixels <= BOX_TOLERANCE_PIXELS
        )


def export(
    checkpoint_path: Path,
    config: DetectionConfig,
    data: Path,
    folder: Path,
    home_photos: Path | None = None,
) -> Bundle:
    """Write the bundle at `folder` from a run's best checkpoint.

    How photos are prepared is `config.inference`, which may have changed since the training. The
    serving threshold is the one with the highest F1 on the `calibration` and `validation` photos
    at `data`; the figures are those of the `test` photos, there and at `home_photos`.

    Raises `ConfigError` when the checkpoint is of another network than `config`, and `ValueError`
    when the graph's answers differ from Detectron2's by more than the tolerance.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    if checkpoint["config"]["network"] != config_to_mapping(config)["network"]:
        raise ConfigError(f"{checkpoint_path} is of another network than {config.name}")
    network = restored_network(config, checkpoint)
    dataset = CcpDataset(data)
    folder.mkdir(parents=True, exist_ok=True)
    export_graph(network, folder / GRAPH)
    form = graph_form(network)
    draft = _write(folder, config, form, config.inference.min_score, {}, {})
    photo_ids = ids_of_split(dataset, "validation")[:PARITY_PHOTOS]
    images = [read_photo(dataset, photo_id).image for photo_id in photo_ids]
    every = GarmentDetector(draft, min_score=config.inference.min_score)
    parity = measure_parity(network, every, images, config.inference.long_side)
    if not parity.holds:
        raise ValueError(f"the exported graph differs from its network: {parity}")
    min_score, f1 = choose_min_score(draft, dataset)
    log.info("serving threshold %.2f (F1 %.3f)", min_score, f1)
    bundle = _write(
        folder,
        config,
        form,
        min_score,
        {"serving_threshold_f1": round(f1, 4)},
        {
            "against": "Detectron2 inference in PyTorch, float32",
            "photos": parity.photos,
            "detections": parity.detections,
            "unmatched": parity.unmatched,
            "score_tolerance": SCORE_TOLERANCE,
            "score_difference": parity.score_difference,
            "box_tolerance_pixels": BOX_TOLERANCE_PIXELS,
            "box_difference_pixels": parity.box_difference_pixels,
        },
    )
    figures = {"test": evaluate(bundle, data, "test")}
    if home_photos is not None:
        scores = score_home_photos(GarmentDetector(bundle), home_photos, "test")
        figures["home_photos_test"] = scores
    return update_metrics(folder, "detection", {**bundle.metrics, **figures})


def restored_network(config: DetectionConfig, checkpoint: dict[str, Any]) -> DetectorNetwork:
    """The averaged weights of a checkpoint in a network that infers as `config` says."""
    network = build_network(config.network, len(load_taxonomy().garment_classes))
    network.load_state_dict(checkpoint["average"])
    network.infer_as(config.inference)
    network.eval()
    return network


def export_graph(network: DetectorNetwork, path: Path) -> None:
    """Write the raw network as ONNX with free height and width (multiples of 32), and with a free
    batch size where the network has one stage.
    """
    names = list(graph_form(network).names)
    images, found = {2: "height", 3: "width"}, {1: "locations"}
    photos = 1
    if isinstance(network, GarmentFcos):
        images, found, photos = {0: "batch", **images}, {0: "batch", **found}, 2
    # The padding of the strided convolutions is the same for every even size, so that what
    # tracing writes down for this one holds for all multiples of 32.
    example = torch.zeros(photos, 3, 160, 96)
    torch.onnx.export(
        raw_outputs(network),
        (example,),
        str(path),
        input_names=[INPUT_NAME],
        output_names=names,
        dynamic_axes={INPUT_NAME: images, **dict.fromkeys(names, found)},
        opset_version=OPSET,
        dynamo=False,
    )
    onnx.checker.check_model(str(path))


def measure_parity(
    network: DetectorNetwork, detector: GarmentDetector, images: Sequence[RgbImage], long_side: int
) -> Parity:
    """Compare the served detector with the network's own inference."""
    pairs = [
        (found_by_detectron2(network, image, long_side), detector.predict([image])[0])
        for image in images
    ]
    differences = [_differences(expected, actual) for expected, actual in pairs]
    matched = np.concatenate(differences) if differences else np.zeros((0, 2))
    lost = np.isnan(matched[:, 0])
    greatest = matched[~lost].max(axis=0, initial=0.0)
    return Parity(
        photos=len(images),
        detections=len(matched),
        unmatched=int(lost.sum()),
        score_difference=float(f"{greatest[0]:.2g}"),
        box_difference_pixels=float(f"{greatest[1]:.2g}"),
    )


def found_by_detectron2(network: DetectorNetwork, image: RgbImage, long_side: int) -> Detections:
    """One photo through Detectron2's own normalisation, decoding and suppression.

    Of a network with one stage through its padding too. One of two stages gets the photo as
    serving pads it, since its regions are cut at the edge of what it is given.
    """
    # Scaled as serving scales; undone to the values Detectron2 normalises itself.
    photo = prepare(image.pixels, InputFormat(long_side, PIXEL_MEAN, PIXEL_STD))
    (width, height), tensor = photo.resolution_wh, photo.tensor
    if isinstance(network, GarmentFcos):
        tensor = tensor[:, : photo.scaled_wh[1], : photo.scaled_wh[0]]
    pixels = torch.from_numpy(tensor) * network.pixel_std + network.pixel_mean
    given = [{"image": pixels, "height": height, "width": width}]
    with torch.inference_mode():
        if isinstance(network, GarmentFcos):
            instances = network(given)[0]["instances"]
            xyxy = instances.pred_boxes.tensor.numpy()
        else:
            (instances,) = network.inference(given, do_postprocess=False)
            xyxy = photo.to_photo(instances.pred_boxes.tensor.numpy())
    return Detections(
        xyxy,
        instances.scores.numpy(),
        instances.pred_classes.numpy(),
        load_taxonomy().garment_classes,
    )


def choose_min_score(draft: Bundle, dataset: CcpDataset) -> tuple[float, float]:
    """(threshold, F1) that serve best on the photos set aside for choosing."""
    detector = GarmentDetector(draft, min_score=evaluation_min_score(draft))
    parts = [predict_split(detector, dataset, split) for split in ("validation", "calibration")]
    candidates = [round(0.1 + 0.02 * step, 2) for step in range(31)]
    merged = parts[0].joined(parts[1])
    return best_min_score(merged, candidates)


def _differences(expected: Detections, actual: Detections) -> np.ndarray[Any, Any]:
    """(N, 2): score and box differences of each expected detection; NaN where none matches."""
    expected = expected.above(PARITY_MIN_SCORE)
    result = np.full((len(expected), 2), np.nan)
    if not len(actual):
        return result
    overlaps = pairwise_iou(expected.xyxy, actual.xyxy)
    overlaps[expected.class_ids[:, None] != actual.class_ids[None, :]] = 0
    for row, overlap in enumerate(overlaps):
        best = int(overlap.argmax())
        if overlap[best] > 0.95:
            result[row] = (
                abs(expected.scores[row] - actual.scores[best]),
                np.abs(expected.xyxy[row] - actual.xyxy[best]).max(),
            )
    return result


def _write(
    folder: Path,
    config: DetectionConfig,
    form: GraphForm,
    min_score: float,
    metrics: dict[str, Any],
    parity: dict[str, Any],
) -> Bundle:
    inference = config.inference
    config_path = f"configs/detection/{config.name}.yaml"
    singles = " --home-photos HOME.zip" if config.mix.home_photos else ""
    singles += " --products PRODUCTS.zip" if config.mix.packshots else ""
    return write_bundle(
        folder,
        "detection",
        architecture=config.network.description,
        labels={"classes": list(load_taxonomy().garment_classes)},
        input={
            "name": INPUT_NAME,
            "layout": "NCHW, RGB, float32",
            "long_side": inference.long_side,
            "size_multiple": 32,
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
        },
        output={
            "names": list(form.names),
            "strides": list(form.strides),
            "min_score": min_score,
            "evaluation_min_score": inference.min_score,
            "nms_iou": inference.nms_iou,
            "max_detections": inference.max_detections,
            "duplicate_iou": inference.duplicate_iou,
            "fallback_min_score": inference.fallback_min_score,
            "lone_iou": inference.lone_iou,
            "lone_share": inference.lone_share,
        },
        metrics=metrics,
        data=[
            CCP,
            *([HOME_PHOTOS] if config.mix.home_photos else []),
            *([PRODUCTS] if config.mix.packshots else []),
            IMAGENET_WEIGHTS,
        ],
        licence="Apache-2.0",
        command=f"python -m detection train --config {config_path} --data CCP.zip{singles}",
        parity=parity,
    )
