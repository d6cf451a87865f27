"""The style model with a second look at upper bodies, as the service runs it.

Dimension glossary
    K: regions; N: instances of a photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.upper_body.answers import AnswerSpec, Logits
from style_maskrcnn.upper_body.region import (
    RegionSpec,
    cut,
    region_of,
    to_input,
    upper_body_indices,
)
from vision.boxes import pairwise_iou
from vision.bundle import METADATA, Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Prediction, StyleInstances
from vision.image import RgbImage
from vision.session import OnnxSession

INPUT, OUTPUT = "regions", "logits"
# Regions that overlap so much show the same: the surer instance's answer serves both.
SAME_REGION_IOU = 0.7


class UpperBodyModel:
    """Attributes of the upper-body instances of a photo, from a bundle.

    threads: cores one photo may use, 0 for ONNX Runtime's choice.

    Raises `PermanentError` (`bundle_invalid`) when the bundle's metadata is no upper-body model's.
    """

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self._bundle = bundle
        try:
            self._region = RegionSpec.from_bundle(bundle.input)
        except (KeyError, TypeError) as error:
            raise PermanentError(
                ErrorCode.BUNDLE_INVALID,
                f"{bundle.path / METADATA} is no upper-body model: its input lacks {error}",
            ) from error
        self.output = AnswerSpec.from_bundle(bundle)
        self._session = OnnxSession(bundle.graph_path, threads)

    @property
    def name(self) -> str:
        return self._bundle.name

    @property
    def version(self) -> str:
        return self._bundle.version

    def load(self) -> None:
        self._session.load()

    def close(self) -> None:
        self._session.close()

    def answers(
        self, photo: RgbImage, found: StyleInstances, coarse_of_class: Sequence[str]
    ) -> dict[int, Mapping[str, Prediction]]:
        """Index of each upper-body instance → attribute → answer."""
        indices = upper_body_indices(found, coarse_of_class)
        if not indices:
            return {}
        regions = np.stack([region_of(found.xyxy[i], self._region) for i in indices])
        seen_as = _representatives(regions)
        looked_at = sorted(set(seen_as))
        answers = dict(
            zip(looked_at, self.output.answers(self._run(photo, regions[looked_at])), strict=True)
        )
        return {index: answers[seen] for index, seen in zip(indices, seen_as, strict=True)}

    def logits(self, photo: RgbImage, found: StyleInstances, index: int) -> Logits:
        """(1, V) of one instance."""
        return self._run(photo, region_of(found.xyxy[index], self._region)[None])

    def _run(self, photo: RgbImage, regions: Logits) -> Logits:
        size_wh = (self._region.width, self._region.height)
        crops = np.stack([cut(photo.pixels, region, size_wh) for region in regions])
        return self._session.run({INPUT: to_input(crops)})[OUTPUT].astype(np.float32, copy=False)


class AttributedStyleModel:
    """`Predictor[RgbImage, StyleInstances]`: the style model's instances, and for those of upper
    bodies the attributes of both models.
    """

    def __init__(self, style: StyleModel, upper_body: UpperBodyModel) -> None:
        self._style, self._upper_body = style, upper_body

    @property
    def name(self) -> str:
        return f"{self._style.name}+{self._upper_body.name}"

    @property
    def version(self) -> str:
        """Digest of both bundles' versions: either decides answers."""
        both = f"{self._style.version}+{self._upper_body.version}"
        return hashlib.sha256(both.encode()).hexdigest()[:16]

    def load(self) -> None:
        self._style.load()
        self._upper_body.load()

    def predict(self, batch: Sequence[RgbImage]) -> list[StyleInstances]:
        """Instances of each photo, best first, in its own pixels; none is an empty answer."""
        found = self._style.predict(batch)
        return [self._attributed(*pair) for pair in zip(batch, found, strict=True)]

    def close(self) -> None:
        self._style.close()
        self._upper_body.close()

    def _attributed(self, photo: RgbImage, found: StyleInstances) -> StyleInstances:
        answers = self._upper_body.answers(photo, found, self._style.output.coarse_of_class)
        return replace(
            found,
            attributes=tuple(
                {**known, **answers.get(index, {})} for index, known in enumerate(found.attributes)
            ),
        )


def _representatives(regions: Logits) -> list[int]:
    """For each of (K, 4) regions, surest first, the surest one that shows the same."""
    overlaps = pairwise_iou(regions, regions)
    chosen: list[int] = []
    for index in range(len(regions)):
        same = (k for k in dict.fromkeys(chosen) if overlaps[index, k] >= SAME_REGION_IOU)
        chosen.append(next(same, index))
    return chosen
