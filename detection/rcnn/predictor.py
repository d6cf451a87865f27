"""A Detectron2 network as the service runs it, from its own `config.yaml` and checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms
from detectron2.modeling import build_model
from numpy.typing import NDArray

from detection.postprocess import Candidates, suppress
from detection.rcnn.settings import class_count_of, served_settings, set_min_score
from detection.rcnn.weights import load_weights, read_weights
from vision.bundle import DETECTRON2_CONFIG, DETECTRON2_WEIGHTS, METADATA, Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Detections
from vision.image import RgbImage


@dataclass(frozen=True, eq=False)
class _Loaded:
    network: Any
    resize: Any
    channels: str


class Detectron2Detector:
    """Finds garments in photos; implements `Predictor[RgbImage, Detections]`.

    Photos are scaled and fed as Detectron2's `DefaultPredictor` does. threads: cores of PyTorch,
    for the whole process; 0 for its choice. min_score: in place of the bundle's threshold. native:
    answer in the network's own classes instead of the garment classes they stand for.

    Raises `PermanentError` (`bundle_invalid`) when the bundle's metadata lack what is needed.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 0,
        min_score: float | None = None,
        native: bool = False,
    ) -> None:
        self._bundle = bundle
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        try:
            names = tuple(str(name) for name in bundle.labels["network"])
            own = range(len(names))
            self._class_ids = np.array(own if native else bundle.labels["class_ids"], np.int64)
            self._class_names = names if native else tuple(bundle.labels["classes"])
            self._min_score = float(bundle.output["min_score"] if min_score is None else min_score)
            self._nms_iou = float(bundle.output["nms_iou"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._invalid(f"does not describe a Detectron2 detector: {error!r}") from error
        if len(self._class_ids) != len(names) or self._class_ids.max() >= len(self._class_names):
            raise self._invalid("has labels that do not fit each other")

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
        self._load()

    def predict(self, batch: Sequence[RgbImage]) -> list[Detections]:
        """One `Detections` a photo, in the photo's own pixels, in the order of `batch`."""
        return [self._found(self._load(), image) for image in batch]

    def close(self) -> None:
        with self._lock:
            self._loaded = None

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._opened()
            return self._loaded

    def _opened(self) -> _Loaded:
        if self._threads:
            torch.set_num_threads(self._threads)
        path = self._bundle.path / DETECTRON2_WEIGHTS
        cfg = served_settings(self._bundle.path / DETECTRON2_CONFIG)
        if class_count_of(cfg) != len(self._class_ids):
            raise self._invalid(
                f"names {len(self._class_ids)} classes, the network has {class_count_of(cfg)}"
            )
        set_min_score(cfg, self._min_score)
        network = build_model(cfg).eval()
        load_weights(network, read_weights(path), path)
        sizes = [cfg.INPUT.MIN_SIZE_TEST] * 2
        resize = transforms.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TEST)
        return _Loaded(network, resize, cfg.INPUT.FORMAT)

    def _found(self, loaded: _Loaded, image: RgbImage) -> Detections:
        width, height = image.resolution_wh
        pixels = image.pixels if loaded.channels == "RGB" else image.pixels[:, :, ::-1]
        scaled = loaded.resize.get_transform(pixels).apply_image(np.ascontiguousarray(pixels))
        tensor = torch.from_numpy(scaled.astype(np.float32).transpose(2, 0, 1).copy())
        with torch.inference_mode():
            (result,) = loaded.network([{"image": tensor, "height": height, "width": width}])
        instances = result["instances"].to("cpu")
        return self._detections(
            instances.pred_boxes.tensor.numpy(),
            instances.scores.numpy(),
            instances.pred_classes.numpy(),
        )

    def _detections(
        self, xyxy: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64]
    ) -> Detections:
        candidates = Candidates(xyxy, scores, self._class_ids[classes])
        # Two of the network's names for one class, at one place, are one garment.
        kept = candidates[suppress(candidates, self._nms_iou)]
        return Detections(kept.xyxy, kept.scores, kept.class_ids, self._class_names)

    def _invalid(self, problem: str) -> PermanentError:
        path = self._bundle.path / METADATA
        return PermanentError(ErrorCode.BUNDLE_INVALID, f"{path} {problem}")
