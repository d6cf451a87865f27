"""The attribute classifier as the service runs it: an ONNX graph between NumPy functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classification.postprocess import Decoder, parents_of
from classification.preprocess import batch_of
from vision.bundle import METADATA, Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES, Crop, Labels
from vision.session import OnnxSession

# Crops in one run of the graph: enough to keep the cores busy, few enough to stay in their cache.
MAX_BATCH = 16
LOGITS_PREFIX = "logits_"
EMBEDDING = "embedding"
IMAGES = "images"


@dataclass(frozen=True, eq=False)
class RawOutputs:
    """What the graph says of N crops. logits: attribute → (N, C). embedding: (N, E) unit length."""

    logits: dict[str, NDArray[np.float32]]
    embedding: NDArray[np.float32]


class AttributeClassifier:
    """Answers the seven attributes of garment crops; implements `Predictor[Crop, Labels]`.

    bundle: an opened classification bundle. threads: cores one run may use, 0 for ONNX Runtime's
    choice. allow_unknown: whether a doubtful answer becomes `unknown`.

    Raises `PermanentError` (`bundle_invalid`) when the bundle's metadata lack what is needed.
    """

    def __init__(self, bundle: Bundle, threads: int = 0, *, allow_unknown: bool = True) -> None:
        self._bundle = bundle
        self._session = OnnxSession(bundle.graph_path, threads)
        self._allow_unknown = allow_unknown
        try:
            self._size_hw = (int(bundle.input["height"]), int(bundle.input["width"]))
            self._embedding_size = int(bundle.output["embedding"])
            self._decoder = decoder_of(bundle)
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(
                ErrorCode.BUNDLE_INVALID,
                f"{bundle.path / METADATA} does not describe an attribute classifier: {error!r}",
            ) from error

    @property
    def name(self) -> str:
        return self._bundle.name

    @property
    def version(self) -> str:
        return self._bundle.version

    @property
    def decoder(self) -> Decoder:
        return self._decoder

    def load(self) -> None:
        self._session.load()

    def predict(self, batch: Sequence[Crop]) -> list[Labels]:
        """One `Labels` a crop, in the order of `batch`, given the crop's hints and belief.

        Raises `PermanentError` (`validation_error`) for an unknown or contradictory hint.
        """
        if not batch:
            return []
        raw = self.raw([crop.pixels for crop in batch])
        answers = self._decoder.decode(
            raw.logits,
            [crop.hints for crop in batch],
            [crop.belief for crop in batch],
            allow_unknown=self._allow_unknown,
        )
        return [
            Labels(answer, vector) for answer, vector in zip(answers, raw.embedding, strict=True)
        ]

    def raw(self, crops: Sequence[NDArray[np.uint8]]) -> RawOutputs:
        """The graph's outputs for crops of (h, w, 3) uint8 RGB, before any decoding."""
        parts = [
            self._session.run({IMAGES: batch_of(crops[start : start + MAX_BATCH], self._size_hw)})
            for start in range(0, len(crops), MAX_BATCH)
        ]
        if not parts:
            sizes = {attribute: len(self._decoder.labels[attribute]) for attribute in ATTRIBUTES}
            empty = {
                attribute: np.zeros((0, size), np.float32) for attribute, size in sizes.items()
            }
            return RawOutputs(empty, np.zeros((0, self._embedding_size), np.float32))
        together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        logits = {attribute: together[LOGITS_PREFIX + attribute] for attribute in ATTRIBUTES}
        return RawOutputs(logits, together[EMBEDDING])

    def close(self) -> None:
        self._session.close()


def decoder_of(bundle: Bundle) -> Decoder:
    """The decoder that a bundle's metadata describe.

    Raises `KeyError`, `TypeError` or `ValueError` when they do not.
    """
    labels = {name: tuple(bundle.labels["attributes"][name]) for name in ATTRIBUTES}
    return Decoder(
        labels=labels,
        parents=parents_of(
            labels, bundle.labels["sub_category_of"], bundle.labels["master_category_of"]
        ),
        temperatures={name: float(bundle.output["temperatures"][name]) for name in ATTRIBUTES},
        thresholds={name: float(bundle.output["thresholds"][name]) for name in ATTRIBUTES},
    )
