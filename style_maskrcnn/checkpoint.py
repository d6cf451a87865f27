"""Trained weights on disk, with all that is needed to build their network again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from style_maskrcnn.config import AttributeGroup, Config, parse
from style_maskrcnn.datasets import LabelSet
from style_maskrcnn.network import StyleNetwork
from vision.errors import ErrorCode, PermanentError


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network, in evaluation mode, and what it knows."""

    network: StyleNetwork
    config: Config
    labels: LabelSet
    groups: tuple[AttributeGroup, ...]
    facts: dict[str, Any]


def build(
    config: Config,
    labels: LabelSet,
    groups: Sequence[AttributeGroup] = (),
    *,
    pretrained: bool = False,
) -> StyleNetwork:
    """The network of a run."""
    return StyleNetwork(
        config.network,
        len(labels.class_names),
        labels.mask_channel_of_class,
        groups,
        attribute_count=len(labels.attribute_names),
        attributes_of_class=labels.attributes_of_class,
        pretrained=pretrained,
    )


def save_checkpoint(
    path: Path,
    network: StyleNetwork,
    config: Config,
    labels: LabelSet,
    groups: Sequence[AttributeGroup] = (),
    **facts: Any,
) -> None:
    """Weights with all that is needed to build their network again."""
    write_atomically(
        path,
        {
            "weights": network.state_dict(),
            "config": dataclasses.asdict(config),
            "labels": dataclasses.asdict(labels),
            "groups": [dataclasses.asdict(group) for group in groups],
            "facts": facts,
        },
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """The network of a checkpoint.

    Raises `PermanentError` (`model_unavailable`) when there is none.
    """
    if not path.is_file():
        raise PermanentError(ErrorCode.MODEL_UNAVAILABLE, f"{path} does not exist")
    state = torch.load(path, map_location="cpu", weights_only=True)
    config = parse(Config, state["config"])
    labels = LabelSet(**{key: tuple(value) for key, value in state["labels"].items()})
    groups = tuple(parse(AttributeGroup, group) for group in state["groups"])
    network = build(config, labels, groups)
    network.load_state_dict(state["weights"])
    return Checkpoint(network.eval(), config, labels, groups, state["facts"])


def write_atomically(path: Path, state: Mapping[str, Any]) -> None:
    """Save so that a crash leaves the old file or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    torch.save(dict(state), temporary)
    temporary.replace(path)
