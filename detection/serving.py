"""The detector a bundle asks for: ONNX Runtime's, or Detectron2's own where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Protocol

from detection.predictor import GarmentDetector
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Detections
from vision.image import RgbImage
from vision.predictor import Predictor

INSTALL_DETECTRON2 = (
    "detectron2 is not installed. Install it from its repository, beside torch: "
    "pip install 'setuptools<81' && pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'"
)


class Detector(Predictor[RgbImage, Detections], Protocol):
    """A predictor that says what it can find."""

    @property
    def class_names(self) -> tuple[str, ...]: ...


def open_detector(
    bundle: Bundle, threads: int = 0, min_score: float | None = None, native: bool = False
) -> Detector:
    """The detector of a bundle, not loaded yet.

    threads: cores one run may use, 0 for the runtime's choice. min_score: in place of the bundle's
    serving threshold. native: in the classes the network was trained with, where they are others
    than the garment classes.

    Raises `PermanentError`: `bundle_invalid` for metadata that lack something, `model_unavailable`
    when the bundle needs Detectron2 and it is not installed.
    """
    if bundle.runtime != "detectron2":
        return GarmentDetector(bundle, threads, min_score)
    require_detectron2()
    # By name, since serving must not depend on a training framework unless a bundle asks for it.
    module = importlib.import_module("detection.rcnn.predictor")
    detector: Detector = module.Detectron2Detector(bundle, threads, min_score, native)
    return detector


def require_detectron2() -> None:
    """Raises `PermanentError` (`model_unavailable`), saying how to install it, where it is not."""
    if importlib.util.find_spec("detectron2") is None:
        raise PermanentError(ErrorCode.MODEL_UNAVAILABLE, INSTALL_DETECTRON2)
