"""The training run's settings, read from one YAML file in `configs/classification/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from classification.heads import known_heads
from vision.errors import ErrorCode, PermanentError

# Layouts of data sets, as `datasets` and `fashion_mnist` read them.
PRODUCTS = "products"
HOME_PHOTOS = "home_photos"
STREET_PHOTOS = "street_photos"
FASHION_MNIST = "fashion_mnist"
LAYOUTS = (PRODUCTS, HOME_PHOTOS, STREET_PHOTOS, FASHION_MNIST)
PRECISIONS = ("float32", "bfloat16")
# Of `backbones.BACKBONES`, named here so that a config is checked without a training framework.
BACKBONE_NAMES = (
    "convnext_tiny",
    "efficientnet_lite0",
    "fashion_mnist_cnn",
    "fashion_mnist_mlp",
    "fashion_mnist_small",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg19",
    "vgg19_bn",
)
CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs" / "classification"


@dataclass(frozen=True)
class TrainConfig:
    """What decides a network's weights, but for the data.

    name: of the run and of the bundle. backbone: a key of `backbones.BACKBONES`. pretrained: start
    from ImageNet. start_from: start instead from the finished weights of the run of this name or,
    where that is not at hand, from the bundle of this name (see `unfold`), a warm restart
    (https://arxiv.org/abs/1608.03983). input_hw: size served and trained last.
    first_hw: size of the first `first_share` of training; a smaller one costs less and costs no
    accuracy (https://arxiv.org/abs/2104.00298). heads: attribute → weight of its loss.
    photos_per_batch: layout of a data set → how many of its photos are in every batch; the first
    one is what epochs are counted in.
    teacher: bundle whose answers are learnt besides the labels, and teacher_share how much of the
    target they are (see `distil`).
    precision: what the network computes in, `float32` or `bfloat16`; its weights are float32.
    epochs: passes over the first data set, parts of one too. rounds_per_epoch: how often an epoch
    is checkpointed.
    augment: share of the photos that are changed at random; the others are as they come.
    class_balance: how much of the labels' log-frequencies the loss itself explains, so that the
    network need not learn them: 0 as the data come, 1 every label alike (logit-adjusted softmax,
    Menon et al., https://arxiv.org/abs/2007.07314). Without training, `balance` does the like.
    learning_rate: the peak of one cycle. ema: decay of the weights' moving average, which is what
    ships. embedding: length of the exported embedding.
    """

    name: str
    backbone: str
    heads: Mapping[str, float]
    input_hw: tuple[int, int] = (128, 96)
    first_hw: tuple[int, int] = (128, 96)
    first_share: float = 0.0
    pretrained: bool = False
    teacher: str | None = None
    teacher_share: float = 0.5
    precision: str = "float32"
    start_from: str | None = None
    freeze_until: str | None = None
    photos_per_batch: Mapping[str, int] = field(default_factory=lambda: {PRODUCTS: 64})
    epochs: float = 4
    rounds_per_epoch: int = 4
    augment: float = 1.0
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up: float = 0.15
    label_smoothing: float = 0.05
    class_balance: float = 0.0
    dropout: float = 0.2
    ema: float = 0.998
    embedding: int = 256
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        _check_known("head", self.heads, known_heads())
        _check_known("layout", self.photos_per_batch, LAYOUTS)
        _check_known("backbone", [self.backbone], BACKBONE_NAMES)
        _check_known("precision", [self.precision], PRECISIONS)
        if not self.heads:
            raise _invalid("heads is empty")
        for name in ("augment", "teacher_share", "class_balance"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise _invalid(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0.0 <= self.first_share < 1.0:
            raise _invalid(f"first_share must be in [0, 1), not {self.first_share}")
        if not self.photos_per_batch or min(self.photos_per_batch.values()) < 1:
            raise _invalid("photos_per_batch must name data sets with at least 1 photo each")
        for name in ("rounds", "rounds_per_epoch", "embedding"):
            if getattr(self, name) < 1:
                raise _invalid(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def rounds(self) -> int:
        """Rounds in all."""
        return round(self.epochs * self.rounds_per_epoch)


def load_config(path: Path | str) -> TrainConfig:
    """Read a run's settings.

    Raises `PermanentError` (`validation_error`) for a file that is missing or not a mapping, and
    for an unknown key or head, listing the known ones.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _invalid(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise _invalid(f"{path} is not a mapping")
    known = tuple(f.name for f in fields(TrainConfig))
    _check_known("key", content, known)
    for name in ("input_hw", "first_hw"):
        if name in content:
            content[name] = tuple(content[name])
    try:
        return TrainConfig(**content)
    except TypeError as error:
        raise _invalid(f"{path}: {error}") from error


def _check_known(kind: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise _invalid(f"unknown {kind} {unknown[0]!r}; known: {', '.join(known)}")


def _invalid(problem: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, problem)
