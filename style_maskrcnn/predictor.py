"""The style model as the service runs it: a bundle, one photo at a time, no training framework.

Dimension glossary
    N: instances; H', W': padded input size; V: attribute values of all groups together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from style_maskrcnn.postprocess import OutputSpec, RawOutput, postprocess
from style_maskrcnn.preprocess import InputSpec, NetworkInput, preprocess
from vision.bundle import Bundle
from vision.garments import StyleInstances
from vision.image import RgbImage
from vision.session import OnnxSession


class StyleModel:
    """`Predictor[RgbImage, StyleInstances]` of one bundle.

    threads: cores one photo may use, 0 for ONNX Runtime's choice. believed_only: give only what
    the service would report; otherwise every candidate down to the bundle's lowest score, as
    average precision wants it (see `postprocess`).

    Raises `PermanentError` (`bundle_invalid`) when the bundle's metadata is no style model's.
    """

    def __init__(self, bundle: Bundle, threads: int = 0, *, believed_only: bool = True) -> None:
        self._bundle = bundle
        self._input = InputSpec.from_bundle(bundle.input)
        self.output = OutputSpec.from_bundle(bundle)
        self._session = OnnxSession(bundle.graph_path, threads)
        self._believed_only = believed_only

    @property
    def name(self) -> str:
        return self._bundle.name

    @property
    def version(self) -> str:
        return self._bundle.version

    def load(self) -> None:
        self._session.load()

    def predict(self, batch: Sequence[RgbImage]) -> list[StyleInstances]:
        """Instances of each photo, best first, in its own pixels; none is an empty answer."""
        return [self._predict_one(photo) for photo in batch]

    def close(self) -> None:
        self._session.close()

    def _predict_one(self, photo: RgbImage) -> StyleInstances:
        source = preprocess(photo.pixels, self._input)
        raw = self._run(source)
        return postprocess(raw, source, self.output, believed_only=self._believed_only)

    def _run(self, source: NetworkInput) -> RawOutput:
        values = self._session.run({"image": source.tensor})
        return RawOutput(
            boxes=values["boxes"].astype(np.float32, copy=False),
            scores=values["scores"].astype(np.float32, copy=False),
            class_ids=values["class_ids"].astype(np.int64, copy=False),
            masks=values["masks"].astype(np.float32, copy=False),
            attributes=values["attributes"].astype(np.float32, copy=False),
        )
