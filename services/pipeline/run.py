"""The one way through, from encoded bytes to the combined report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.pipeline.assemble import assemble
from services.pipeline.crop import crop
from services.pipeline.join import FoundGarment, belief_of, join, whole_image
from vision.garments import (
    Crop,
    Detections,
    ImageReport,
    Labels,
    ModelVersion,
    StyleInstances,
)
from vision.image import EncodedImage, RgbImage, decode
from vision.predictor import Predictor
from vision.taxonomy import Taxonomy

ALL_STAGES = frozenset({"detect", "classify", "style"})


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What the caller may choose.

    stages: which models run. min_score: detections below it are left out; None keeps the
    threshold of the detector's model card. context: known attributes, `{"gender": "Women"}`.
    """

    stages: frozenset[str] = ALL_STAGES
    min_score: float | None = None
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stages or not self.stages <= ALL_STAGES:
            raise ValueError(f"stages must be some of {sorted(ALL_STAGES)}")


DEFAULT_OPTIONS = AnalysisOptions()


class Pipeline:
    """Three predictors in their order. Safe to call from several threads."""

    def __init__(
        self,
        detector: Predictor[RgbImage, Detections],
        classifier: Predictor[Crop, Labels],
        style_model: Predictor[RgbImage, StyleInstances],
        taxonomy: Taxonomy,
        max_pixels: int,
    ) -> None:
        self.detector = detector
        self.classifier = classifier
        self.style_model = style_model
        self._taxonomy = taxonomy
        self._max_pixels = max_pixels

    @property
    def models(self) -> Mapping[str, ModelVersion]:
        """Stage → model, in the order of the stages."""
        return {
            "detect": ModelVersion(self.detector.name, self.detector.version),
            "classify": ModelVersion(self.classifier.name, self.classifier.version),
            "style": ModelVersion(self.style_model.name, self.style_model.version),
        }

    def load(self) -> None:
        """Load every model, so that the first photo waits for none."""
        self.detector.load()
        self.classifier.load()
        self.style_model.load()

    def close(self) -> None:
        self.detector.close()
        self.classifier.close()
        self.style_model.close()

    def analyze(
        self, encoded: EncodedImage, options: AnalysisOptions = DEFAULT_OPTIONS
    ) -> ImageReport:
        """The combined report of one photo.

        Raises `PermanentError` for bytes that are no usable image, and for an unknown context.
        """
        timings: dict[str, float] = {}
        with _timed(timings, "decode"):
            image = decode(encoded, max_pixels=self._max_pixels)
        with _timed(timings, "detect"):
            detections = self._detect(image, options)
        with _timed(timings, "style"):
            style = self._style(image, options)
        found = join(detections, style, self._taxonomy)
        # A photo in which nothing is found is taken for a close-up of one garment.
        classified_whole = not found and "classify" in options.stages
        if classified_whole:
            found = (whole_image(image),)
        with _timed(timings, "classify"):
            labels = self._classify(image, found, options)
        with _timed(timings, "assemble"):
            garments = assemble(image, found, labels)
        timings["total"] = sum(timings.values())
        return ImageReport(
            image_sha256=image.sha256,
            resolution_wh=image.resolution_wh,
            garments=garments,
            classified_whole=classified_whole,
            models={k: v for k, v in self.models.items() if k in options.stages},
            timings_ms=timings,
        )

    def _detect(self, image: RgbImage, options: AnalysisOptions) -> Detections:
        if "detect" not in options.stages:
            return Detections.empty(())
        detections = self.detector.predict([image])[0]
        return detections if options.min_score is None else detections.above(options.min_score)

    def _style(self, image: RgbImage, options: AnalysisOptions) -> StyleInstances:
        if "style" not in options.stages:
            return StyleInstances.empty(())
        return self.style_model.predict([image])[0]

    def _classify(
        self, image: RgbImage, found: Sequence[FoundGarment], options: AnalysisOptions
    ) -> Sequence[Labels | None]:
        if "classify" not in options.stages:
            return [None] * len(found)
        crops = [
            crop(image, garment.xyxy, options.context, belief_of(garment, self._taxonomy))
            for garment in found
        ]
        return self.classifier.predict(crops)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = (time.perf_counter() - start) * 1000
