"""What a network may answer: an attribute, a few of its labels, groups of them, or several joined.

A head's labels are read off the attributes of a sample, so that any labelled catalogue can train
any head. The label sets of earlier classifiers are in `configs/classification/label_sets.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from classification import fashion_mnist
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES
from vision.taxonomy import Taxonomy

LABEL_SETS = (
    Path(__file__).resolve().parent.parent / "configs" / "classification" / "label_sets.yaml"
)
JOINT = "+"
"""Stands between the labels of a joined head: `Men+Apparel`."""
COLOUR_GROUP = "colour_group"


@dataclass(frozen=True)
class Head:
    """One softmax over `labels`.

    attributes: what the labels are made of, joined in this order. label_of: joined labels of the
    attributes → label of the head; what is not there is not labelled.
    """

    name: str
    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    label_of: Mapping[str, str]

    def accepted(self, sample: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """The right labels of a sample with these accepted labels (attribute → labels).

        None unless all that the sample accepts is among them: a photo that may as well be of
        something that the head has no label for says nothing to it.
        """
        choices = [sample.get(attribute, ()) for attribute in self.attributes]
        joined = [JOINT.join(labels) for labels in product(*choices)]
        if not all(name in self.label_of for name in joined):
            return ()
        return tuple(dict.fromkeys(self.label_of[name] for name in joined))


def head_of(name: str, taxonomy: Taxonomy) -> Head:
    """The head of this name.

    Raises `PermanentError` (`validation_error`) listing the known heads.
    """
    if name in ATTRIBUTES:
        return _plain(name, (name,), taxonomy.labels_of(name))
    if name == fashion_mnist.HEAD:
        return _plain(name, (name,), fashion_mnist.LABELS)
    if name == COLOUR_GROUP:
        groups = taxonomy.colour_groups
        group_of = {colour: group for group, colours in groups.items() for colour in colours}
        return Head(name, tuple(groups), ("base_colour",), group_of)
    if name in label_sets():
        ((joined, labels),) = label_sets()[name].items()
        return _plain(name, tuple(joined.split(JOINT)), tuple(labels))
    known = ", ".join(known_heads())
    raise PermanentError(ErrorCode.VALIDATION_ERROR, f"unknown head {name!r}; known: {known}")


def known_heads() -> tuple[str, ...]:
    return (*ATTRIBUTES, COLOUR_GROUP, *label_sets(), fashion_mnist.HEAD)


@cache
def label_sets() -> dict[str, dict[str, list[str]]]:
    """Name → {attributes joined by `+`: labels}."""
    content: Any = yaml.safe_load(LABEL_SETS.read_text(encoding="utf-8"))
    return dict(content)


def _plain(name: str, attributes: tuple[str, ...], labels: tuple[str, ...]) -> Head:
    return Head(name, labels, attributes, {label: label for label in labels})
