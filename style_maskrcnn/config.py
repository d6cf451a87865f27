"""Everything a training run is told, read from its YAML in `configs/style_maskrcnn/`.

Every field has a default, every section is a frozen dataclass, and an unknown key is an error that
lists the known ones. Sizes in pixels are pixels of the network's input, not of the photo.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from training.split import DEFAULT_FRACTIONS

T = TypeVar("T")


@dataclass(frozen=True)
class AttributeGroup:
    """Values that exclude each other, such as the four seasons.

    categories: class names the group is asked of; empty means all of them.
    """

    name: str
    values: tuple[str, ...]
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) != len(self.values):
            raise ValueError(f"group {self.name!r} needs at least two different values")


@dataclass(frozen=True)
class ProposalConfig:
    """The region proposal network. anchor_sizes: a tuple for each pyramid level, fine to coarse."""

    anchor_sizes: tuple[tuple[float, ...], ...] = ((12, 20), (28, 44), (64, 96), (144, 224))
    anchor_ratios: tuple[float, ...] = (0.4, 1.0, 2.5)
    positive_iou: float = 0.6
    negative_iou: float = 0.3
    sample: int = 128
    before_nms: int = 600
    nms_iou: float = 0.7
    min_size: float = 2.0
    keep_train: int = 200
    keep_test: int = 100


@dataclass(frozen=True)
class BoxHeadConfig:
    """The box head. sample: proposals a photo to learn from."""

    width: int = 384
    dropout: float = 0.2
    positive_iou: float = 0.5
    sample: int = 64
    positive_share: float = 0.35
    min_score: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100


@dataclass(frozen=True)
class MaskHeadConfig:
    """The mask head."""

    width: int = 64
    depth: int = 4


@dataclass(frozen=True)
class SemanticHeadConfig:
    """The semantic head, which sharpens the masks. width: its channels; 0 is a network without."""

    width: int = 0


@dataclass(frozen=True)
class AttributeHeadConfig:
    """The attribute head."""

    width: int = 256
    dropout: float = 0.3


@dataclass(frozen=True)
class NetworkConfig:
    """The network. canonical_size: boxes of this size are pooled from the pyramid's level 2."""

    pretrained: bool = True
    frozen_stages: int = 2
    channels: int = 64
    canonical_size: float = 96.0
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask_head: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    semantic_head: SemanticHeadConfig = field(default_factory=SemanticHeadConfig)
    attribute_head: AttributeHeadConfig = field(default_factory=AttributeHeadConfig)


@dataclass(frozen=True)
class InputConfig:
    """How a photo becomes the network's input, in training (a list to draw from) and in serving."""

    long_side: int = 448
    train_long_sides: tuple[int, ...] = (384, 448, 512)


@dataclass(frozen=True)
class AugmentationConfig:
    """Training photos varied beyond mirror, cut and colour.

    copy_paste: share of photos that get garments of another one (Ghiasi et al., "Simple Copy-Paste
    is a Strong Data Augmentation Method", CVPR 2021). max_pasted: at most so many. min_visible: a
    garment of which less than this share is left in sight is dropped. close_ups: share of photos of
    which only a window is shown, enlarged by a factor from close_up_zoom.
    """

    copy_paste: float = 0.0
    max_pasted: int = 3
    min_visible: float = 0.3
    close_ups: float = 0.0
    close_up_zoom: tuple[float, float] = (1.4, 2.2)

    def __post_init__(self) -> None:
        for name in ("copy_paste", "min_visible", "close_ups"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} must be in [0, 1]")
        if self.max_pasted < 1:
            raise ValueError("augmentation.max_pasted must be at least 1")
        least, greatest = self.close_up_zoom
        if not 1 <= least <= greatest:
            raise ValueError("augmentation.close_up_zoom must be [least, greatest], from 1 on")


@dataclass(frozen=True)
class OutputConfig:
    """How answers are read. mask_threshold: probability from which a pixel is inside.

    duplicate_iou: two instances whose masks overlap by at least this are one garment.
    """

    mask_threshold: float = 0.5
    duplicate_iou: float = 0.6


@dataclass(frozen=True)
class DataConfig:
    """What to learn from. min_instances: tags with fewer in the train split are ignore regions.

    layout: of the photos: `ccp`, or one of `style_maskrcnn.layouts`, whose instances carry
    attributes that are learnt with the masks. min_attributes: a category may have the attributes
    that so many of its training instances have.
    repeat_threshold: photos with a tag rarer than this share of photos are shown more often
    (repeat-factor sampling, Gupta et al., "LVIS", CVPR 2019). fractions, salt: the split.
    """

    layout: str = "ccp"
    min_instances: int = 10
    min_attributes: int = 5
    repeat_threshold: float = 0.06
    fractions: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_FRACTIONS))
    salt: str = ""


@dataclass(frozen=True)
class ScheduleConfig:
    """The optimisation: AdamW, linear warm-up, cosine to zero, averaged weights.

    backbone_rate: the backbone's share of the learning rate. attribute_weight: of the attributes'
    loss beside the others. averaging: decay a step of the
    exponential moving average that is evaluated and shipped. max_minutes: on a busy machine the
    schedule runs by the clock where that is further along, so that the rate still falls to zero
    when the time is up (Li et al., "Budgeted Training", ICLR 2020); 0 for no limit.
    """

    epochs: int = 12
    batch_size: int = 4
    learning_rate: float = 6e-4
    backbone_rate: float = 0.25
    weight_decay: float = 0.02
    attribute_weight: float = 1.0
    warmup_steps: int = 100
    gradient_norm: float = 5.0
    averaging: float = 0.998
    evaluations: int = 6
    checkpoint_minutes: float = 3.0
    max_minutes: float = 0.0
    bf16: bool = True
    seed: int = 17


@dataclass(frozen=True)
class AttributeTrainingConfig:
    """Phase two: the attribute head alone, on products cut out of packshots.

    groups: columns of `styles.csv` to learn. products: at most so many of the train split, rare
    values first. held_out_products: at most so many of the calibration and of the test split.
    views: how often each is pasted, at another size and place. canvas: side in pixels.
    object_sizes: longest side of the pasted product, drawn between the two. balance: power of the
    class weights, 0 as the data come, 1 every value alike.
    """

    groups: tuple[str, ...] = ("usage", "season")
    products: int = 6000
    held_out_products: int = 1500
    views: int = 1
    canvas: int = 256
    object_sizes: tuple[float, float] = (60.0, 200.0)
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    balance: float = 0.5
    seed: int = 17


@dataclass(frozen=True)
class Config:
    """One training run.

    start_from: the run beside this one, or else the bundle, whose weights it starts from; empty for
    none. Heads that those lack start afresh.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    input: InputConfig = field(default_factory=InputConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    attributes: AttributeTrainingConfig = field(default_factory=AttributeTrainingConfig)
    start_from: str = ""


def load_config(path: Path) -> Config:
    """The run described in `path`.

    Raises `ValueError` naming the file, the key and the known keys.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    try:
        return parse(Config, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(kind: type[T], content: Any, where: str = "") -> T:
    """A frozen dataclass from plain YAML, sections and tuples included.

    Raises `ValueError` for an unknown key, a section that is no mapping, or a value of another
    type.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{where or 'the file'} must be a mapping, not {content!r}")
    types = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise ValueError(
            f"unknown key {', '.join(unknown)} in {where or 'the file'}; known: {', '.join(known)}"
        )
    return kind(
        **{key: _value(types[key], value, f"{where}{key}") for key, value in content.items()}
    )


def _value(expected: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if dataclasses.is_dataclass(expected):
        return parse(typing.cast(type, expected), value, f"{where}.")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, not {value!r}")
        inner = arguments[0]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(f"{where} must have {len(arguments)} values")
        return tuple(_value(inner, item, where) for item in value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or expected
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ValueError(f"{where} must be {getattr(plain, '__name__', plain)}, not {value!r}")
    return value
