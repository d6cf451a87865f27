"""From the network's logits to answers.

Dimension glossary
    K: regions; V: values of all groups together, group by group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.postprocess import softmax
from style_maskrcnn.upper_body.groups import PATTERN
from vision.bundle import METADATA, Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Prediction

Logits = NDArray[np.float32]
MAX_ALTERNATIVES = 3


@dataclass(frozen=True)
class GroupSpec:
    """One vote of a bundle. values: in the order of the logits.

    temperature: divides the logits, so that confidences match how often they are right when all
    values are alike often. is_pattern: it is one of those served together as `pattern`.
    """

    name: str
    values: tuple[str, ...]
    temperature: float = 1.0
    is_pattern: bool = False

    def probabilities(self, logits: Logits) -> Logits:
        """(K, values) of (K, values) logits."""
        return softmax(logits / np.float32(self.temperature))


@dataclass(frozen=True)
class AnswerSpec:
    """What a bundle's logits mean: its groups, in their order."""

    groups: tuple[GroupSpec, ...]

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> AnswerSpec:
        """Raises `PermanentError` (`bundle_invalid`) naming what the metadata lacks."""
        try:
            confidence = bundle.output["confidence"]
            return cls(tuple(_group(g, confidence[g["name"]]) for g in bundle.labels["groups"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(
                ErrorCode.BUNDLE_INVALID,
                f"{bundle.path / METADATA} is no upper-body model: {error!r}",
            ) from error

    def labels_to_bundle(self) -> dict[str, Any]:
        """`labels` of `model.yaml`."""
        return {
            "groups": [
                {"name": g.name, "values": list(g.values), "is_pattern": g.is_pattern}
                for g in self.groups
            ]
        }

    def output_to_bundle(self) -> dict[str, Any]:
        """`output` of `model.yaml`."""
        return {"confidence": {g.name: {"temperature": g.temperature} for g in self.groups}}

    def probabilities(self, logits: Logits) -> dict[str, Logits]:
        """Group → (K, values) of (K, V) logits."""
        parts, start = {}, 0
        for group in self.groups:
            stop = start + len(group.values)
            parts[group.name] = group.probabilities(logits[:, start:stop])
            start = stop
        return parts

    def answers(self, logits: Logits) -> list[dict[str, Prediction]]:
        """Attribute → answer for each of (K, V) logits; the patterns are one attribute."""
        probabilities = self.probabilities(logits)
        plain = [g for g in self.groups if not g.is_pattern]
        patterns = [g for g in self.groups if g.is_pattern]
        answers = []
        for index in range(len(logits)):
            answer = {g.name: _best(g.values, probabilities[g.name][index]) for g in plain}
            if patterns:
                yes = np.array([probabilities[g.name][index][-1] for g in patterns])
                answer[PATTERN] = _best([g.name for g in patterns], yes)
            answers.append(answer)
        return answers


def _best(values: Sequence[str], probabilities: NDArray[np.float32]) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")[:MAX_ALTERNATIVES]
    ranked = tuple((values[i], float(probabilities[i])) for i in order)
    return Prediction(label=ranked[0][0], confidence=ranked[0][1], alternatives=ranked)


def _group(labels: Mapping[str, Any], confidence: Mapping[str, Any]) -> GroupSpec:
    return GroupSpec(
        name=str(labels["name"]),
        values=tuple(labels["values"]),
        temperature=float(confidence["temperature"]),
        is_pattern=bool(labels["is_pattern"]),
    )
