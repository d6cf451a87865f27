"""The attribute classifier as the service runs it: an ONNX graph between NumPy functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classification.balance import read_balance
from classification.hints import read_hints
from classification.postprocess import Decoder, parents_of
from classification.preprocess import InputForm, batch_of
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
    """What the graph says of N crops. logits: head → (N, C). embedding: (N, E) unit length."""

    logits: dict[str, NDArray[np.float32]]
    embedding: NDArray[np.float32]


class AttributeClassifier:
    """Answers the heads of a bundle for garment crops; implements `Predictor[Crop, Labels]`.

    The heads may be the seven attributes, some of them, or any other question to one picture.

    bundle: an opened classification bundle. threads: cores one run may use, 0 for ONNX Runtime's
    choice. allow_unknown: whether a doubtful answer becomes `unknown`.

    Raises `PermanentError` (`bundle_invalid`) when the bundle's metadata lack what is needed.
    """

    def __init__(self, bundle: Bundle, threads: int = 0, *, allow_unknown: bool = True) -> None:
        self._bundle = bundle
        self._session = OnnxSession(bundle.graph_path, threads)
        self._allow_unknown = allow_unknown
        try:
            self._form = InputForm.from_metadata(bundle.input)
            self._embedding_size = int(bundle.output["embedding"])
            self._decoder = decoder_of(bundle)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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

    @property
    def heads(self) -> tuple[str, ...]:
        """What it answers, in the order of the answers."""
        return tuple(self._decoder.labels)

    @property
    def embedding_size(self) -> int:
        return self._embedding_size

    def load(self) -> None:
        self._session.load()

    def predict(self, batch: Sequence[Crop]) -> list[Labels]:
        """One `Labels` a crop, in the order of `batch`, given the crop's hints and belief.

        A hint about an attribute that the bundle does not answer changes nothing.

        Raises `PermanentError` (`validation_error`) for an unknown or contradictory hint.
        """
        if not batch:
            return []
        raw = self.raw([crop.pixels for crop in batch])
        answers = self._decoder.decode(
            raw.logits,
            [self._answerable(crop.hints) for crop in batch],
            [crop.belief for crop in batch],
            allow_unknown=self._allow_unknown,
        )
        return [
            Labels(answer, vector) for answer, vector in zip(answers, raw.embedding, strict=True)
        ]

    def raw(self, crops: Sequence[NDArray[np.uint8]]) -> RawOutputs:
        """The graph's outputs for crops of (h, w, 3) uint8 RGB, before any decoding."""
        parts = [
            self._session.run({IMAGES: batch_of(crops[start : start + MAX_BATCH], self._form)})
            for start in range(0, len(crops), MAX_BATCH)
        ]
        labels = self._decoder.labels
        if not parts:
            empty = {head: np.zeros((0, len(names)), np.float32) for head, names in labels.items()}
            return RawOutputs(empty, np.zeros((0, self._embedding_size), np.float32))
        together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        logits = {head: together[LOGITS_PREFIX + head] for head in labels}
        return RawOutputs(logits, together[EMBEDDING])

    def close(self) -> None:
        self._session.close()

    def _answerable(self, hints: Mapping[str, str]) -> dict[str, str]:
        unanswered = set(ATTRIBUTES) - set(self._decoder.labels)
        return {name: label for name, label in hints.items() if name not in unanswered}


def decoder_of(bundle: Bundle) -> Decoder:
    """The decoder that a bundle's metadata describe.

    Raises `AttributeError`, `KeyError`, `TypeError` or `ValueError` when they do not.
    """
    labels = {str(head): tuple(names) for head, names in bundle.labels["attributes"].items()}
    if not labels:
        raise ValueError("no heads")
    return Decoder(
        labels=labels,
        parents=parents_of(
            labels,
            bundle.labels.get("sub_category_of", {}),
            bundle.labels.get("master_category_of", {}),
        ),
        temperatures={head: float(bundle.output["temperatures"][head]) for head in labels},
        thresholds={head: float(bundle.output["thresholds"][head]) for head in labels},
        evidence=read_hints(bundle.output.get("hints", {}), labels),
        balance=read_balance(bundle.output.get("balance", {}), labels),
    )
