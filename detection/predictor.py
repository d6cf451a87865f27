"""The garment detector as the service runs it: an ONNX graph between NumPy functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detection.postprocess import TWO_STAGE_OUTPUT, BoxSelection, ServingRule, boxes_of
from detection.preprocess import InputFormat, PreparedPhoto, prepare
from vision.bundle import METADATA, Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Detections
from vision.image import RgbImage
from vision.session import OnnxSession

# Photos in one run of the graph: more would cost memory and, on a CPU, save no time. A graph of two
# stages, which finds another number of regions in every photo, takes one.
MAX_BATCH = 8


class GarmentDetector:
    """Finds garments in photos; implements `Predictor[RgbImage, Detections]`.

    bundle: an opened detection bundle. threads: cores one run may use, 0 for ONNX Runtime's choice.
    min_score: all boxes from this score on in place of the bundle's serving rule; 0.01 makes
    average precision complete.

    Raises `PermanentError` (`bundle_invalid`) when the bundle's metadata lack what is needed.
    """

    def __init__(self, bundle: Bundle, threads: int = 0, min_score: float | None = None) -> None:
        self._bundle = bundle
        self._session = OnnxSession(bundle.graph_path, threads)
        try:
            self._class_names = tuple(bundle.labels["classes"])
            self._input_format = InputFormat(
                long_side=int(bundle.input["long_side"]),
                mean=_rgb(bundle.input["mean"]),
                std=_rgb(bundle.input["std"]),
            )
            self._strides = tuple(int(stride) for stride in bundle.output["strides"])
            two_stages = TWO_STAGE_OUTPUT in bundle.output.get("names", ())
            self._max_batch = 1 if two_stages else MAX_BATCH
            self._rule = serving_rule(bundle) if min_score is None else ServingRule(min_score)
            self._selection = BoxSelection(
                min_score=self._rule.weakest,
                nms_iou=float(bundle.output["nms_iou"]),
                max_detections=int(bundle.output["max_detections"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(
                ErrorCode.BUNDLE_INVALID,
                f"{bundle.path / METADATA} does not describe a garment detector: {error!r}",
            ) from error

    @property
    def name(self) -> str:
        return self._bundle.name

    @property
    def version(self) -> str:
        return self._bundle.version

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    def load(self) -> None:
        self._session.load()

    def predict(self, batch: Sequence[RgbImage]) -> list[Detections]:
        """One `Detections` a photo, in the photo's own pixels, in the order of `batch`."""
        photos = [prepare(image.pixels, self._input_format) for image in batch]
        found: list[Detections] = [Detections.empty(self._class_names)] * len(photos)
        for indices in same_size_groups([photo.padded_wh for photo in photos], self._max_batch):
            outputs = self._session.run(
                {"images": np.stack([photos[index].tensor for index in indices])}
            )
            for row, index in enumerate(indices):
                found[index] = self._to_detections(photos[index], outputs, row)
        return found

    def close(self) -> None:
        self._session.close()

    def _to_detections(
        self, photo: PreparedPhoto, outputs: Mapping[str, NDArray[np.float32]], row: int
    ) -> Detections:
        boxes = boxes_of(outputs, row, photo.padded_wh, self._strides, self._selection)
        boxes = self._rule.apply(boxes)
        xyxy = photo.to_photo(boxes.xyxy)
        # A box that lay wholly in the padding has no area left.
        visible = np.flatnonzero((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1))
        return Detections(
            xyxy[visible], boxes.scores[visible], boxes.class_ids[visible], self._class_names
        )


def serving_rule(bundle: Bundle) -> ServingRule:
    """The bundle's; what it does not name changes nothing."""
    return ServingRule(
        min_score=float(bundle.output["min_score"]),
        duplicate_iou=float(bundle.output.get("duplicate_iou", 1.0)),
        fallback=float(bundle.output.get("fallback_min_score", 1.0)),
        lone_iou=float(bundle.output.get("lone_iou", 1.0)),
        lone_share=float(bundle.output.get("lone_share", 1.0)),
    )


def evaluation_min_score(bundle: Bundle) -> float:
    """The threshold under which a score says nothing; average precision needs all above it."""
    return float(bundle.output["evaluation_min_score"])


def same_size_groups(sizes: Sequence[tuple[int, int]], greatest: int) -> list[list[int]]:
    """Indices of equal sizes together, at most `greatest` a group, groups by first appearance."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        by_size.setdefault(size, []).append(index)
    return [
        indices[start : start + greatest]
        for indices in by_size.values()
        for start in range(0, len(indices), greatest)
    ]


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
