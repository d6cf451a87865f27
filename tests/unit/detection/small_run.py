"""A detector and a data set small enough to train within a test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from detection.config import DetectionConfig, FasterRcnnConfig, load_config
from tests.drawn_ccp import ccp_files, tag_map, write_zip
from training.split import split_of

SHIPPED = Path("configs/detection/fcos_efficientnet_lite0.yaml")
TWO_STAGE = FasterRcnnConfig(
    meta_architecture="faster_rcnn",
    backbone="efficientnet_lite0",
    pretrained=False,
    frozen_stages=0,
    fpn_channels=16,
    semantic_channels=32,
    box_head_width=16,
    looks=(2, *[1] * 13),
)


def small_config(**schedule: object) -> DetectionConfig:
    """The shipped configuration with random weights, few channels and a small canvas."""
    shipped = load_config(SHIPPED)
    quick = {
        "epochs": 1,
        "batch_size": 2,
        "warmup_steps": 2,
        "checkpoint_every": 1,
        "loader_workers": 0,
        "threads": 1,
    }
    return dataclasses.replace(
        shipped,
        name="small",
        network=dataclasses.replace(
            shipped.network,
            pretrained=False,
            frozen_stages=0,
            fpn_channels=64,
            head_convs=1,
            semantic_channels=16,
        ),
        augmentation=dataclasses.replace(
            shipped.augmentation, canvas_wh=(64, 96), long_side=(80, 110)
        ),
        schedule=dataclasses.replace(shipped.schedule, **(quick | schedule)),
        inference=dataclasses.replace(shipped.inference, long_side=96),
    )


def small_two_stage_config(**schedule: object) -> DetectionConfig:
    """As `small_config`, of the network with two stages."""
    return dataclasses.replace(small_config(**schedule), network=TWO_STAGE)


def ids_of(split: str, count: int) -> list[str]:
    """The first ids that the hash puts into `split`."""
    ids = (f"{number:04d}" for number in range(10_000))
    return [next(i for i in ids if split_of(i) == split) for _ in range(count)]


def write_small_set(path: Path) -> Path:
    """Four photos to train on and one for every other split, all of a shirt above trousers."""
    rng = np.random.default_rng(0)
    splits = {"train": 4, "validation": 1, "calibration": 1, "test": 1}
    ids = [photo_id for split, count in splits.items() for photo_id in ids_of(split, count)]
    tag_maps = {}
    for photo_id in ids:
        x, y = (int(v) for v in rng.integers(2, 12, 2))
        tag_maps[photo_id] = tag_map(
            {"shirt": (x, y, x + 40, y + 30), "pants": (x + 5, y + 30, x + 35, y + 75)}
        )
    return write_zip(path, ccp_files(tag_maps))
