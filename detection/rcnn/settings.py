"""Detectron2's configuration object, from a run's file or from a `config.yaml` of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from detection.config import ConfigError
from detection.rcnn.config import RcnnConfig
from vision.errors import ErrorCode, PermanentError


def training_settings(config: RcnnConfig, class_count: int, folder: Path) -> CfgNode:
    """Everything `DefaultTrainer` needs. Raises `ConfigError` for unknown keys and networks."""
    cfg = get_cfg()
    try:
        cfg.merge_from_other_cfg(CfgNode(config.detectron2))
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"detectron2: {_text(error)}") from error
    set_class_count(cfg, class_count)
    cfg.MODEL.DEVICE = device()
    cfg.OUTPUT_DIR = str(folder)
    cfg.DATASETS.TRAIN = (f"{config.name}_train",)
    cfg.DATASETS.TEST = (f"{config.name}_validation",)
    if not config.pretrained:
        cfg.MODEL.WEIGHTS = ""
        # Fixed statistics and stages are for weights that were trained with them.
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        cfg.MODEL.RESNETS.NORM = "BN"
    check_known(cfg)
    return cfg


def served_settings(path: Path) -> CfgNode:
    """A `config.yaml` that Detectron2 wrote, as data: no code in it is run, no file is followed.

    Raises `PermanentError` (`bundle_invalid`) when it is none or names an unknown network.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, Mapping) or "_BASE_" in content:
            raise ValueError("it is no mapping, or builds on another file (_BASE_)")
        cfg = get_cfg()
        cfg.merge_from_other_cfg(_upgraded(content, cfg))
        check_known(cfg)
    except (OSError, yaml.YAMLError, KeyError, ValueError, AssertionError) as error:
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID, f"{path} is no configuration of Detectron2: {_text(error)}"
        ) from error
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = device()
    return cfg


def class_count_of(cfg: CfgNode) -> int:
    """How many classes the network of a configuration has."""
    single_stage = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    return int(cfg.MODEL.RETINANET.NUM_CLASSES if single_stage else cfg.MODEL.ROI_HEADS.NUM_CLASSES)


def set_class_count(cfg: CfgNode, count: int) -> None:
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = count
    cfg.MODEL.RETINANET.NUM_CLASSES = count


def set_min_score(cfg: CfgNode, min_score: float) -> None:
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min_score
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = min_score


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_known(cfg: CfgNode) -> None:
    """Raises `ConfigError` listing the known ones for an unknown backbone or architecture."""
    for key, name, registry in (
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
    ):
        known = sorted(entry for entry, _ in registry)
        if name not in known:
            raise ConfigError(f"{key} is {name!r}; known: {', '.join(known)}")


def _upgraded(content: Mapping[str, Any], cfg: CfgNode) -> CfgNode:
    version = content.get("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise ValueError(f"it is of version {version}, this Detectron2 reads {cfg.VERSION}")
    return CfgNode(dict(content))


def _text(error: Exception) -> str:
    # A KeyError's text is its message in quotes.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())
