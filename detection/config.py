"""Everything a training run of the detector depends on, read from one YAML file.

Lengths are pixels, learning rates are per step, shares and probabilities lie in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

BACKBONES = ("efficientnet_lite0",)
HEAD_NORMS = ("", "GN")

Section = TypeVar("Section")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and what is known."""


@dataclass(frozen=True)
class NetworkConfig:
    """What any detector's network is.

    pretrained: start from ImageNet weights; their batch norm is then folded into the convolutions
    and stays fixed. frozen_stages: how many of the backbone's seven stages keep their weights (the
    stem with the first of them). semantic_channels: of a head that learns in training which class
    each pixel is of, and does not ship; 0 for none.
    """

    meta_architecture: str
    backbone: str
    pretrained: bool
    frozen_stages: int
    fpn_channels: int
    semantic_channels: int

    def __post_init__(self) -> None:
        _check_choice("network.backbone", self.backbone, BACKBONES)
        _check_range("network.frozen_stages", self.frozen_stages, 0, 7)
        _check_range("network.fpn_channels", self.fpn_channels, 8, 1024)
        _check_range("network.semantic_channels", self.semantic_channels, 0, 1024)


@dataclass(frozen=True)
class FcosConfig(NetworkConfig):
    """One stage. head_convs: 3×3 convolutions of each of the head's two towers. head_norm:
    Detectron2's name of the towers' normalisation, "" for none.
    """

    head_convs: int
    head_norm: str
    center_sampling_radius: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("network.head_norm", self.head_norm, HEAD_NORMS)
        _check_range("network.head_convs", self.head_convs, 1, 8)
        # GroupNorm's 32 groups need more than one value each, also on a map of one cell.
        if self.head_norm == "GN" and (self.fpn_channels < 64 or self.fpn_channels % 32):
            raise ConfigError("network.fpn_channels must be a multiple of 32 from 64 on with GN")

    @property
    def description(self) -> str:
        return f"Detectron2 FCOS, {_trunk(self)}, {self.head_convs} head convolutions"


@dataclass(frozen=True)
class FasterRcnnConfig(NetworkConfig):
    """Two stages. box_head_width: of the second stage's two hidden layers. looks: for each class in
    how many ways it may look (`two_stage.LooksLinear`).
    """

    box_head_width: int
    looks: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("network.box_head_width", self.box_head_width, 8, 4096)
        for count in self.looks:
            _check_range("network.looks", count, 1, 1000)

    @property
    def description(self) -> str:
        return f"Detectron2 Faster R-CNN, {_trunk(self)}, box head of {self.box_head_width}"


META_ARCHITECTURES: Mapping[str, type[FcosConfig | FasterRcnnConfig]] = {
    "fcos": FcosConfig,
    "faster_rcnn": FasterRcnnConfig,
}


@dataclass(frozen=True)
class AugmentationConfig:
    """How a training photo is varied.

    canvas_wh: size of every training input. long_side: least and greatest length the photo's long
    side is scaled to before it is cut or padded to the canvas. close_ups: share of photos that are
    scaled within close_up_long_side instead, so that the cut leaves a portrait or a detail of a
    full-length photo. aspect_jitter: greatest relative
    stretch of one side. flip: probability of mirroring. brightness, contrast, saturation: greatest
    relative change. min_visible: an instance of which the cut leaves less is dropped.
    """

    canvas_wh: tuple[int, int]
    long_side: tuple[int, int]
    close_ups: float
    close_up_long_side: tuple[int, int]
    aspect_jitter: float
    flip: float
    brightness: float
    contrast: float
    saturation: float
    min_visible: float
    copy_paste: float
    max_pasted: int
    single_long_side: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("canvas_wh", "long_side", "close_up_long_side", "single_long_side"):
            pair = tuple(getattr(self, name))
            if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
                raise ConfigError(f"augmentation.{name} must be two positive integers, not {pair}")
            object.__setattr__(self, name, pair)
        if any(side % 32 for side in self.canvas_wh):
            raise ConfigError("augmentation.canvas_wh must be multiples of 32")
        for name in ("long_side", "close_up_long_side", "single_long_side"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ConfigError(f"augmentation.{name} must be [least, greatest]")
        for name in (
            "close_ups",
            "aspect_jitter",
            "flip",
            "brightness",
            "contrast",
            "saturation",
            "min_visible",
            "copy_paste",
        ):
            _check_range(f"augmentation.{name}", getattr(self, name), 0.0, 1.0)
        _check_range("augmentation.max_pasted", self.max_pasted, 1, 100)


@dataclass(frozen=True)
class MixConfig:
    """Shares of the training photos that are not street photos: of one garment each, and nobody."""

    home_photos: float
    packshots: float

    def __post_init__(self) -> None:
        for name in ("home_photos", "packshots"):
            _check_range(f"mix.{name}", getattr(self, name), 0.0, 0.9)
        _check_range("mix.home_photos + mix.packshots", self.home_photos + self.packshots, 0, 0.9)


@dataclass(frozen=True)
class ScheduleConfig:
    """How the weights are fitted.

    backbone_learning_rate, learning_rate: peaks for the backbone and for the rest (AdamW). The rate
    rises over `warmup_steps` and then falls along a half cosine to zero. ema_decay: of the moving
    average of the weights that is evaluated and shipped. repeat_threshold: photos with a class that
    fewer than this share of photos has are repeated (LVIS, https://arxiv.org/abs/1908.03195).
    bf16: pyramid and head in bfloat16. evaluate_every, checkpoint_every: in epochs and in steps.
    threads: of PyTorch, 0 for its choice.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    backbone_learning_rate: float
    weight_decay: float
    warmup_steps: int
    gradient_clip: float
    ema_decay: float
    repeat_threshold: float
    bf16: bool
    evaluate_every: int
    checkpoint_every: int
    threads: int
    loader_workers: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every", "checkpoint_every"):
            _check_range(f"schedule.{name}", getattr(self, name), 1, 10**9)
        for name in ("ema_decay", "repeat_threshold"):
            _check_range(f"schedule.{name}", getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True)
class InferenceConfig:
    """How a photo is prepared and boxes are chosen, in evaluation and in serving.

    long_side: length the photo's long side is scaled to. min_score: candidates under it are
    dropped. nms_iou: overlap above which the weaker box of the same class is dropped.
    max_detections: per photo. duplicate_iou, fallback_min_score, lone_iou, lone_share: of the
    serving rule (`postprocess.ServingRule`).
    """

    long_side: int
    min_score: float
    nms_iou: float
    max_detections: int
    duplicate_iou: float
    fallback_min_score: float
    lone_iou: float
    lone_share: float

    def __post_init__(self) -> None:
        for name in ("duplicate_iou", "fallback_min_score", "lone_iou", "lone_share"):
            _check_range(f"inference.{name}", getattr(self, name), 0.0, 1.0)
        _check_range("inference.long_side", self.long_side, 64, 4096)
        _check_range("inference.min_score", self.min_score, 0.0, 1.0)
        _check_range("inference.nms_iou", self.nms_iou, 0.0, 1.0)
        _check_range("inference.max_detections", self.max_detections, 1, 10_000)


@dataclass(frozen=True)
class DetectionConfig:
    """One training run.

    name: of the run's folder. start_from: the run whose best weights this one starts from or, where
    that is not at hand, the bundle of that name; None to start from ImageNet or, without
    `network.pretrained`, from nothing.
    """

    name: str
    start_from: str | None
    network: FcosConfig | FasterRcnnConfig
    mix: MixConfig
    augmentation: AugmentationConfig
    schedule: ScheduleConfig
    inference: InferenceConfig


def load_config(path: Path) -> DetectionConfig:
    """Read a configuration; every key must be present.

    Raises `ConfigError` naming the key that is missing, unknown (with the known ones) or out of
    range, or saying that the file is missing or is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return config_from_mapping(content)


def config_from_mapping(content: object) -> DetectionConfig:
    """A configuration from nested mappings; raises `ConfigError` as `load_config` does."""
    known = tuple(field.name for field in dataclasses.fields(DetectionConfig))
    top = _checked_keys("the configuration", content, known)
    return DetectionConfig(
        name=str(top["name"]),
        start_from=None if top["start_from"] is None else str(top["start_from"]),
        network=_network(top["network"]),
        mix=_section("mix", MixConfig, top["mix"]),
        augmentation=_section("augmentation", AugmentationConfig, top["augmentation"]),
        schedule=_section("schedule", ScheduleConfig, top["schedule"]),
        inference=_section("inference", InferenceConfig, top["inference"]),
    )


def config_to_mapping(config: DetectionConfig) -> dict[str, Any]:
    """Nested mappings of plain values, the inverse of `config_from_mapping`."""
    return dataclasses.asdict(config)


def _network(content: object) -> FcosConfig | FasterRcnnConfig:
    """The section of the architecture that it names."""
    if not isinstance(content, Mapping):
        raise ConfigError("network must be a mapping")
    name = content.get("meta_architecture", "fcos")
    _check_choice("network.meta_architecture", name, tuple(META_ARCHITECTURES))
    return _section("network", META_ARCHITECTURES[name], content)


def _trunk(config: NetworkConfig) -> str:
    return f"{config.backbone} with FPN of {config.fpn_channels} channels"


def _section(name: str, kind: type[Section], content: object) -> Section:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    values = _checked_keys(name, content, tuple(field.name for field in fields))
    converted = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**converted)
    except TypeError as error:
        raise ConfigError(f"{name} holds a value of the wrong type: {error}") from error


def _checked_keys(where: str, content: object, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} must be a mapping")
    unknown = sorted(str(key) for key in set(content) - set(known))
    if unknown:
        raise ConfigError(
            f"{where} has unknown keys {', '.join(unknown)}; known: {', '.join(known)}"
        )
    missing = [key for key in known if key not in content]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    return content


def _check_choice(key: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} is {value!r}; known: {', '.join(repr(k) for k in known)}")


def _check_range(key: str, value: float, least: float, greatest: float) -> None:
    if not least <= value <= greatest:
        raise ConfigError(f"{key} is {value}, must be in [{least}, {greatest}]")
