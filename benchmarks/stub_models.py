"""Models that answer at once, for what is around them: one garment a photo, as in a packshot.

Everything before and behind their boundary is real: decoding, joining, cropping, colours, storing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import cache

import numpy as np

from services.pipeline.run import Pipeline
from vision.garments import ATTRIBUTES, Crop, Detections, Labels, Prediction, StyleInstances
from vision.image import MAX_PIXELS, RgbImage
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

CLASSES = ("top",)
STYLES = ("shirt",)
EMBEDDING = 256
_BURNT = bytes(500_000)


class Stub:
    """Name, version and life cycle. burn_s: of processor time for each photo or crop."""

    version = "1"

    def __init__(self, name: str, burn_s: float = 0.0) -> None:
        self.name = name
        self._burn_s = burn_s

    def load(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def _burn(self) -> None:
        until = time.thread_time() + self._burn_s
        while time.thread_time() < until:
            hashlib.sha256(_BURNT)  # Outside the interpreter, as inference is, and in one thread.


class StubDetector(Stub):
    def predict(self, batch: Sequence[RgbImage]) -> list[Detections]:
        return [self._one(image) for image in batch]

    def _one(self, image: RgbImage) -> Detections:
        self._burn()
        return Detections(_box(image), np.float32([0.9]), np.array([0], np.int64), CLASSES)


class StubStyleModel(Stub):
    def predict(self, batch: Sequence[RgbImage]) -> list[StyleInstances]:
        return [
            StyleInstances(
                xyxy=_box(image),
                scores=np.float32([0.8]),
                class_ids=np.array([0], np.int64),
                class_names=STYLES,
                masks=(_mask(*image.resolution_wh),),
                attributes=({"sleeve_length": Prediction("long", 0.5)},),
            )
            for image in batch
        ]


class StubClassifier(Stub):
    """Embeddings at random: nothing is harder for the index of the store."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._random = np.random.default_rng(0)

    def predict(self, batch: Sequence[Crop]) -> list[Labels]:
        return [self._one() for _ in batch]

    def _one(self) -> Labels:
        embedding = self._random.normal(size=EMBEDDING).astype(np.float32)
        answers = {
            name: Prediction("Shirts", 0.75, (("Shirts", 0.75), ("Tops", 0.125)))
            for name in ATTRIBUTES
        }
        return Labels(answers, embedding / np.linalg.norm(embedding))


def stub_pipeline(burn_s: float = 0.0) -> Pipeline:
    """The real pipeline around the stubs. burn_s: of processor time that a photo takes."""
    return Pipeline(
        detector=StubDetector("stub-detector", burn_s),
        classifier=StubClassifier("stub-classifier"),
        style_model=StubStyleModel("stub-style"),
        taxonomy=load_taxonomy(),
        max_pixels=MAX_PIXELS,
    )


def _box(image: RgbImage) -> np.ndarray:
    width, height = image.resolution_wh
    return np.float32([[0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height]])


@cache
def _mask(width: int, height: int) -> Rle:
    mask = np.zeros((height, width), np.bool_)
    mask[height // 8 : -height // 8, width // 4 : -width // 4] = True
    return Rle.encode(mask)
