"""The nouns of the one way through: what each stage hands to the next.

Glossary: N detections or instances, H and W the height and width of the upright photo in pixels,
E the embedding's length. Boxes are `xyxy`: [x1, y1, x2, y2] in pixels of the upright photo, far
edges exclusive. "Nothing found" is an empty array, never None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vision.rle import Rle

# The attributes every garment gets, in the order they are reported.
ATTRIBUTES = (
    "gender",
    "master_category",
    "sub_category",
    "article_type",
    "base_colour",
    "season",
    "usage",
)
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: a label, how sure, and the runners-up.

    label: the answer, or `unknown` where the confidence is under the threshold of its model card.
    confidence: calibrated probability in [0, 1] of the best label, also when `label` is `unknown`.
    alternatives: up to three (label, probability), best first, the best label among them.
    """

    label: str
    confidence: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Garments found in one photo, highest score first.

    xyxy: (N, 4) float32. scores: (N,) float32 in [0, 1]. class_ids: (N,) int64 into `class_names`.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_aligned(self.xyxy, self.scores, self.class_ids, self.class_names)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> Detections:
        return cls(*_no_boxes(), class_names)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.class_names[i] for i in self.class_ids)

    def above(self, min_score: float) -> Detections:
        """Those with a score of at least `min_score`."""
        keep = self.scores >= min_score
        return Detections(
            self.xyxy[keep], self.scores[keep], self.class_ids[keep], self.class_names
        )


@dataclass(frozen=True, slots=True)
class Belief:
    """What finding a garment says of it before it is classified.

    It is one of `article_types` with a probability of at least `confidence`, in [0, 1].
    """

    article_types: tuple[str, ...]
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """The pixels of one garment.

    pixels: (h, w, 3) uint8 RGB. xyxy: where it was cut, clipped to the photo. hints: what the
    caller already knows, attribute → label (`{"gender": "Women"}`); answers are conditioned on it.
    belief: what the detector made of it, None when nothing is known.
    """

    pixels: NDArray[np.uint8]
    xyxy: tuple[int, int, int, int]
    hints: Mapping[str, str] = field(default_factory=dict)
    belief: Belief | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The attribute classifier's answer for one crop.

    attributes: attribute → answer, no two of which contradict each other in the label tree.
    embedding: (E,) float32 of unit length; the dot product of two is their cosine similarity.
    """

    attributes: Mapping[str, Prediction]
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class StyleInstances:
    """Instances of the style model in one photo, highest score first.

    xyxy, scores, class_ids, class_names: as in `Detections`. masks: N run-length masks of size
    (H, W). attributes: for each instance its style attributes, attribute → answer.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    class_names: tuple[str, ...]
    masks: tuple[Rle, ...]
    attributes: tuple[Mapping[str, Prediction], ...]

    def __post_init__(self) -> None:
        _check_aligned(self.xyxy, self.scores, self.class_ids, self.class_names)
        if not len(self.masks) == len(self.attributes) == len(self.scores):
            raise ValueError(
                f"{len(self.scores)} instances, {len(self.masks)} masks, "
                f"{len(self.attributes)} attribute sets"
            )

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> StyleInstances:
        return cls(*_no_boxes(), class_names, (), ())

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.class_names[i] for i in self.class_ids)


@dataclass(frozen=True, slots=True)
class Colour:
    """A dominant colour. name: of the palette. hex: `#rrggbb`. share: of the region, in (0, 1]."""

    name: str
    hex: str
    share: float


@dataclass(frozen=True, slots=True)
class Style:
    """What the style model says of one garment.

    label: its fine-grained name. score: in [0, 1]. attributes: style attribute → answer.
    """

    label: str
    score: float
    attributes: Mapping[str, Prediction]


@dataclass(frozen=True, slots=True, eq=False)
class Garment:
    """Everything known of one garment in a photo.

    xyxy: its box. category: the detector's class, None when no detector named it (the photo was
    classified whole, or only the style model saw it). score: of the detection or, without one, of
    the style instance; None when the photo was classified whole. source: which stage found it.
    mask: of the style instance or, of a garment alone in its photo, cut out of what is around it.
    style: None when no style instance matches. labels: None when not classified.
    """

    xyxy: tuple[float, float, float, float]
    category: str | None
    score: float | None
    source: str  # "detection", "style" or "whole_image"
    labels: Labels | None
    mask: Rle | None
    style: Style | None
    colours: tuple[Colour, ...]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model that took part. version: digest of what decides its answers."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class ImageReport:
    """The combined record of one photo.

    image_sha256: hex digest of the encoded bytes. resolution_wh: (W, H) of the upright photo.
    classified_whole: True when nothing was detected, so the whole photo was classified.
    models: stage → model. timings_ms: stage → wall time in milliseconds.
    """

    image_sha256: str
    resolution_wh: tuple[int, int]
    garments: tuple[Garment, ...]
    classified_whole: bool
    models: Mapping[str, ModelVersion]
    timings_ms: Mapping[str, float]


def _no_boxes() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)


def _check_aligned(
    xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    class_names: tuple[str, ...],
) -> None:
    count = len(scores)
    if xyxy.shape != (count, 4) or class_ids.shape != (count,):
        raise ValueError(
            f"xyxy {xyxy.shape}, scores {scores.shape} and class_ids {class_ids.shape} differ in N"
        )
    if count and not 0 <= class_ids.min() <= class_ids.max() < len(class_names):
        raise ValueError(f"class_ids must be below {len(class_names)}")
