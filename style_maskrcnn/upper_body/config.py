"""Everything a training run of the upper-body network is told, read from its YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from style_maskrcnn.config import parse
from style_maskrcnn.upper_body.region import RegionSpec


@dataclass(frozen=True)
class NetworkConfig:
    """The network. frozen_stages: of the backbone's four, from the photo on, that never learn."""

    pretrained: bool = True
    frozen_stages: int = 2
    dropout: float = 0.3


@dataclass(frozen=True)
class DataConfig:
    """What to learn from. regions: at most so many instances a photo are learnt from: the surest
    and those that overlap it by `same_person_iou`.
    """

    regions: int = 3
    same_person_iou: float = 0.4


@dataclass(frozen=True)
class AugmentationConfig:
    """How views differ. shift, stretch: of the region's sides. colour: gain, contrast, saturation.

    erase: chance that a rectangle of the view is hidden.
    """

    shift: float = 0.06
    stretch: float = 0.15
    colour: float = 0.2
    erase: float = 0.25


@dataclass(frozen=True)
class ScheduleConfig:
    """The optimisation: AdamW, linear warm-up, cosine to zero, averaged weights.

    backbone_rate: the backbone's share of the learning rate. averaging: decay a step of the
    exponential moving average that is evaluated and shipped. prior: how far the loss allows for
    rare values, 0 not at all, 1 wholly (`adjusted_loss`). max_minutes: on a busy machine the
    schedule runs by the clock where that is further along (as in `style_maskrcnn.config`); 0 for no
    limit.
    """

    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 1e-3
    backbone_rate: float = 0.25
    weight_decay: float = 0.05
    warmup_steps: int = 40
    gradient_norm: float = 5.0
    averaging: float = 0.99
    smoothing: float = 0.05
    prior: float = 1.0
    evaluate_every: int = 5
    checkpoint_minutes: float = 2.0
    max_minutes: float = 0.0
    seed: int = 17


@dataclass(frozen=True)
class UpperBodyConfig:
    """One training run."""

    region: RegionSpec = field(default_factory=RegionSpec)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


def load_config(path: Path) -> UpperBodyConfig:
    """The run described in `path`. Raises `ValueError` naming the file, the key and the known."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    try:
        return parse(UpperBodyConfig, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
