"""Small predictors for tests of what stands around the models: real ones by contract, and exact.

Their answers are a function of the picture, so a test can say what must come out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from services.pipeline.run import Pipeline
from vision.garments import (
    UNKNOWN,
    Crop,
    Detections,
    Labels,
    Prediction,
    StyleInstances,
)
from vision.image import MAX_PIXELS, RgbImage
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

CLASSES = ("top", "trousers")
STYLE_CLASSES = ("shirt", "jeans")


class FakeModel:
    """Name, version and life cycle; counts the pictures it was asked about."""

    def __init__(self, name: str, version: str = "1", delay_s: float = 0.0) -> None:
        self.name = name
        self.version = version
        self.loaded = False
        self.seen = 0
        self._delay_s = delay_s
        self._lock = threading.Lock()

    def load(self) -> None:
        self.loaded = True

    def close(self) -> None:
        self.loaded = False

    def _count(self, batch: Sequence[object]) -> None:
        self.load()
        with self._lock:
            self.seen += len(batch)
        time.sleep(self._delay_s)


class FakeDetector(FakeModel):
    """A top in the upper half and trousers in the lower, 0.9 and 0.6 sure.

    A picture without a dark pixel is empty.
    """

    def predict(self, batch: Sequence[RgbImage]) -> list[Detections]:
        self._count(batch)
        return [self._one(image) for image in batch]

    def _one(self, image: RgbImage) -> Detections:
        if image.pixels.min() > 200:
            return Detections.empty(CLASSES)
        return Detections(
            halves(image), np.float32([0.9, 0.6]), np.array([0, 1], np.int64), CLASSES
        )


class FakeClassifier(FakeModel):
    """Article type `Shirts` when the crop is mostly red, else `Jeans`; a hint is believed."""

    def predict(self, batch: Sequence[Crop]) -> list[Labels]:
        self._count(batch)
        return [self._one(crop) for crop in batch]

    def _one(self, crop: Crop) -> Labels:
        red, _, blue = crop.pixels.reshape(-1, 3).mean(axis=0)
        path = (
            ("Apparel", "Topwear", "Shirts") if red > blue else ("Apparel", "Bottomwear", "Jeans")
        )
        answers = {
            "gender": crop.hints.get("gender", "Men"),
            "master_category": path[0],
            "sub_category": path[1],
            "article_type": path[2],
            "base_colour": "Red" if red > blue else "Blue",
            "season": UNKNOWN,
            "usage": "Casual",
        }
        embedding = np.zeros(256, np.float32)
        embedding[0 if red > blue else 1] = 1.0
        return Labels(
            attributes={
                name: Prediction(label, 0.75, ((label, 0.75), ("Other", 0.125)))
                for name, label in answers.items()
            },
            embedding=embedding,
        )


class FakeStyleModel(FakeModel):
    """A shirt where the detector sees a top, with its mask; nothing on an empty picture."""

    def predict(self, batch: Sequence[RgbImage]) -> list[StyleInstances]:
        self._count(batch)
        return [self._one(image) for image in batch]

    def _one(self, image: RgbImage) -> StyleInstances:
        if image.pixels.min() > 200:
            return StyleInstances.empty(STYLE_CLASSES)
        width, height = image.resolution_wh
        mask = np.zeros((height, width), np.bool_)
        mask[: height // 2] = True
        return StyleInstances(
            xyxy=halves(image)[:1],
            scores=np.float32([0.8]),
            class_ids=np.array([0], np.int64),
            class_names=STYLE_CLASSES,
            masks=(Rle.encode(mask),),
            attributes=({"sleeve_length": Prediction("long", 0.5)},),
        )


def halves(image: RgbImage) -> np.ndarray:
    """Boxes of the picture's upper and lower half."""
    width, height = image.resolution_wh
    return np.float32([[0, 0, width, height // 2], [0, height // 2, width, height]])


def fake_pipeline(version: str = "1", delay_s: float = 0.0) -> Pipeline:
    """The real pipeline around the three fakes; `delay_s` is how long a detection takes."""
    return Pipeline(
        detector=FakeDetector("fake-detector", version, delay_s),
        classifier=FakeClassifier("fake-classifier", version),
        style_model=FakeStyleModel("fake-style", version),
        taxonomy=load_taxonomy(),
        max_pixels=MAX_PIXELS,
    )
