"""The one way through, from encoded bytes to the combined report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice

from services.pipeline.assemble import assemble
from services.pipeline.crop import crop
from services.pipeline.cutting import with_cut_out
from services.pipeline.join import FoundGarment, belief_of, join, whole_image
from services.pipeline.lanes import Lanes, attempt, usable_cores
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

# What `analyze_many` has decoded at a time, and a photo a lane: a hundred megabytes and a little.
GROUP_PHOTOS = 16
GROUP_PIXELS = 32_000_000
# Crops of many photos in one run of the classifier: what it takes at once itself.
CROPS_AT_ONCE = 16


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


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture to analyse, and how."""

    encoded: EncodedImage
    options: AnalysisOptions = DEFAULT_OPTIONS


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A photo on its way: decoded, its garments found and cut out, their labels not yet known."""

    image: RgbImage
    options: AnalysisOptions
    found: Sequence[FoundGarment]
    classified_whole: bool
    crops: Sequence[Crop]
    timings_ms: dict[str, float]

    @property
    def pixels(self) -> int:
        width, height = self.image.resolution_wh
        return width * height


class Pipeline:
    """Three predictors in their order. Safe to call from several threads.

    lanes: photos that `analyze_many` works on at a time; 0 for one a core.
    """

    def __init__(
        self,
        detector: Predictor[RgbImage, Detections],
        classifier: Predictor[Crop, Labels],
        style_model: Predictor[RgbImage, StyleInstances],
        taxonomy: Taxonomy,
        max_pixels: int,
        lanes: int = 0,
    ) -> None:
        self.detector = detector
        self.classifier = classifier
        self.style_model = style_model
        self._taxonomy = taxonomy
        self._max_pixels = max_pixels
        self._lanes = Lanes(lanes or usable_cores())

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
        self._lanes.close()
        self.detector.close()
        self.classifier.close()
        self.style_model.close()

    def analyze(
        self, encoded: EncodedImage, options: AnalysisOptions = DEFAULT_OPTIONS
    ) -> ImageReport:
        """The combined report of one photo.

        Raises `PermanentError` for bytes that are no usable image, and for an unknown context.
        """
        view = self._look(Photo(encoded, options))
        with _timed(view.timings_ms, "classify"):
            labels = self.classifier.predict(view.crops) if view.crops else []
        return self._report(view, labels)

    def analyze_many(self, photos: Sequence[Photo]) -> list[ImageReport | Exception]:
        """For each photo what `analyze` returns for it, or what it raises.

        One photo that fails fails no other. Photos are looked at side by side, one in each lane,
        and the crops of many are classified together, a part of that time falling to each.
        """
        reports: list[ImageReport | Exception] = []
        group: list[_View | Exception] = []
        for view in self._lanes.stream(attempt(self._look), photos):
            group.append(view)
            pixels = sum(view.pixels for view in group if isinstance(view, _View))
            if len(group) == GROUP_PHOTOS or pixels > GROUP_PIXELS:
                reports += self._reports(group)
                group = []
        return reports + self._reports(group)

    def _reports(self, views: Sequence[_View | Exception]) -> list[ImageReport | Exception]:
        good = [view for view in views if isinstance(view, _View)]
        labelled = zip(good, self._label(good), strict=True)
        reports = iter(self._lanes.map(attempt(self._report_labelled), labelled))
        return [next(reports) if isinstance(view, _View) else view for view in views]

    def _label(self, views: Sequence[_View]) -> list[list[Labels] | Exception]:
        """The labels of each photo's crops, or why it has none."""
        crops = [crop for view in views for crop in view.crops]
        batches = [crops[i : i + CROPS_AT_ONCE] for i in range(0, len(crops), CROPS_AT_ONCE)]
        answers = chain.from_iterable(self._lanes.map(self._label_batch, batches))
        labelled: list[list[Labels] | Exception] = []
        for view in views:
            mine = list(islice(answers, len(view.crops)))
            view.timings_ms["classify"] = sum(time_ms for _, time_ms in mine)
            errors = (answer for answer, _ in mine if isinstance(answer, Exception))
            labels = [answer for answer, _ in mine if isinstance(answer, Labels)]
            labelled.append(next(errors, labels))
        return labelled

    def _label_batch(self, crops: Sequence[Crop]) -> list[tuple[Labels | Exception, float]]:
        """For each crop its answer and its part of the time in milliseconds."""
        start = time.perf_counter()
        together = attempt(self.classifier.predict)(crops)
        if isinstance(together, Exception):  # Of one crop: a hint that is unknown, say.
            answers = [attempt(self._label_one)(crop) for crop in crops]
        else:
            answers = list(together)
        part_ms = (time.perf_counter() - start) * 1000 / len(crops)
        return [(answer, part_ms) for answer in answers]

    def _label_one(self, crop: Crop) -> Labels:
        return self.classifier.predict([crop])[0]

    def _report_labelled(self, labelled: tuple[_View, list[Labels] | Exception]) -> ImageReport:
        view, labels = labelled
        if isinstance(labels, Exception):
            raise labels
        return self._report(view, labels)

    def _look(self, photo: Photo) -> _View:
        """Everything up to the crops."""
        options, timings = photo.options, dict[str, float]()
        with _timed(timings, "decode"):
            image = decode(photo.encoded, max_pixels=self._max_pixels)
        with _timed(timings, "detect"):
            detections = self._detect(image, options)
        with _timed(timings, "style"):
            style = self._style(image, options)
            found = join(detections, style, self._taxonomy)
            if "style" in options.stages:
                found = with_cut_out(image, found)
        classifies = "classify" in options.stages
        # A photo in which nothing is found is taken for a close-up of one garment.
        classified_whole = not found and classifies
        if classified_whole:
            found = (whole_image(image),)
        crops = [
            crop(image, garment.xyxy, options.context, belief_of(garment, self._taxonomy))
            for garment in found
            if classifies
        ]
        return _View(image, options, found, classified_whole, crops, timings)

    def _detect(self, image: RgbImage, options: AnalysisOptions) -> Detections:
        if "detect" not in options.stages:
            return Detections.empty(())
        detections = self.detector.predict([image])[0]
        return detections if options.min_score is None else detections.above(options.min_score)

    def _style(self, image: RgbImage, options: AnalysisOptions) -> StyleInstances:
        if "style" not in options.stages:
            return StyleInstances.empty(())
        return self.style_model.predict([image])[0]

    def _report(self, view: _View, labels: Sequence[Labels]) -> ImageReport:
        """labels: one a crop."""
        image, timings = view.image, view.timings_ms
        with _timed(timings, "assemble"):
            garments = assemble(
                image, view.found, labels if view.crops else [None] * len(view.found)
            )
        timings["total"] = sum(timings.values())
        return ImageReport(
            image_sha256=image.sha256,
            resolution_wh=image.resolution_wh,
            garments=garments,
            classified_whole=view.classified_whole,
            models={k: v for k, v in self.models.items() if k in view.options.stages},
            timings_ms=timings,
        )


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = (time.perf_counter() - start) * 1000
