"""A bundle from the `config.yaml` and checkpoint that a Detectron2 training left behind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from detection.rcnn.labels import NetworkLabels
from detection.rcnn.predictor import Detectron2Detector
from detection.rcnn.settings import class_count_of, served_settings
from detection.rcnn.weights import read_weights
from vision.bundle import DETECTRON2_CONFIG, DETECTRON2_WEIGHTS, Bundle, open_bundle, write_bundle
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import load_taxonomy

# Under it a score says nothing, so that average precision is complete without.
EVALUATION_MIN_SCORE = 0.05


@dataclass(frozen=True)
class Checkpoint:
    """What to import. min_score: the serving threshold, in [0, 1]. licence: of the weights."""

    config: Path
    weights: Path
    labels: NetworkLabels
    min_score: float
    licence: str


def import_checkpoint(checkpoint: Checkpoint, folder: Path, command: str) -> Bundle:
    """Write the bundle at `folder`: both files as they are, and what the service needs to know.

    A `.pkl` of the model zoo is written anew as tensors. The network is built and its weights are
    put in before the bundle appears.

    Raises `PermanentError`: `validation_error` when the labels are not as many as the network's
    classes or the bundle is there already, `bundle_invalid` when a file cannot be used.
    """
    if folder.exists():
        raise PermanentError(ErrorCode.VALIDATION_ERROR, f"{folder} is there already")
    for path in (checkpoint.config, checkpoint.weights):
        if not path.is_file():
            raise PermanentError(ErrorCode.VALIDATION_ERROR, f"{path} does not exist")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        Detectron2Detector(_written(checkpoint, unfinished, command)).load()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return open_bundle(folder, "detection")


def _written(checkpoint: Checkpoint, folder: Path, command: str) -> Bundle:
    cfg = served_settings(checkpoint.config)
    labels = checkpoint.labels
    if class_count_of(cfg) != len(labels.names):
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR,
            f"{len(labels.names)} labels for a network of {class_count_of(cfg)} classes",
        )
    shutil.copyfile(checkpoint.config, folder / DETECTRON2_CONFIG)
    if checkpoint.weights.suffix == ".pkl":
        torch.save({"model": read_weights(checkpoint.weights)}, folder / DETECTRON2_WEIGHTS)
    else:
        shutil.copyfile(checkpoint.weights, folder / DETECTRON2_WEIGHTS)
    return write_bundle(
        folder,
        "detection",
        runtime="detectron2",
        architecture=f"Detectron2 {cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.NAME}",
        labels={
            "classes": list(load_taxonomy().garment_classes),
            "network": list(labels.names),
            "class_ids": list(labels.class_ids),
        },
        input={
            "min_size": int(cfg.INPUT.MIN_SIZE_TEST),
            "max_size": int(cfg.INPUT.MAX_SIZE_TEST),
            "channels": str(cfg.INPUT.FORMAT),
        },
        output={
            "min_score": checkpoint.min_score,
            "evaluation_min_score": EVALUATION_MIN_SCORE,
            "nms_iou": float(cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST),
            "max_detections": int(cfg.TEST.DETECTIONS_PER_IMAGE),
        },
        metrics={},
        data=[],
        licence=checkpoint.licence,
        command=command,
        parity={},
    )
