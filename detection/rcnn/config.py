"""A training run of one of Detectron2's own networks, read from one YAML file.

Under `detectron2` stand Detectron2's own keys, laid over its defaults
(https://detectron2.readthedocs.io/en/latest/modules/config.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detection.config import ConfigError
from detection.layouts import LAYOUTS

MARKER = "detectron2"
_KEYS = ("name", "layout", "train_split", "validation_split", "pretrained", "min_score", MARKER)


@dataclass(frozen=True)
class RcnnConfig:
    """What a run is.

    layout: of the data set, one of `detection.layouts.LAYOUTS`. train_split, validation_split: of
    it. pretrained: start from `MODEL.WEIGHTS`; else from random weights, with batch norm that
    learns and no frozen stage. min_score: the serving threshold, in [0, 1]. detectron2: its keys.
    """

    name: str
    layout: str
    train_split: str
    validation_split: str
    pretrained: bool
    min_score: float
    detectron2: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}; known: {', '.join(LAYOUTS)}")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score is {self.min_score}, must be in [0, 1]")


def is_rcnn_config(path: Path) -> bool:
    """Whether a file of configs/detection is for one of Detectron2's own networks."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return False  # what is wrong with it is said by whoever reads it next
    return isinstance(content, Mapping) and MARKER in content


def load_rcnn_config(path: Path) -> RcnnConfig:
    """Raises `ConfigError` for an unknown or missing key and for a value out of range."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    unknown = sorted(str(key) for key in set(content) - set(_KEYS))
    if unknown:
        known = ", ".join(_KEYS)
        raise ConfigError(f"{path} has unknown keys {', '.join(unknown)}; known: {known}")
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}")
    if not isinstance(content[MARKER], Mapping):
        raise ConfigError(f"{path}: {MARKER} must be a mapping of Detectron2's keys")
    try:
        return RcnnConfig(**content)
    except TypeError as error:
        raise ConfigError(f"{path} holds a value of the wrong type: {error}") from error
