"""Where a run's weights start from: another run, a detector that ships, or our own Mask R-CNN.

The style model (`style_maskrcnn/network.py`) and the two-stage detector have the same backbone,
pyramid and two stages under other names, so the detector can take over what that one has learnt.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from detection.config import ConfigError
from detection.network import DetectorNetwork
from detection.two_stage import GarmentRcnn
from training.graph_weights import graph_weights, load_graph_weights
from vision.bundle import METADATA, WEIGHTS_DIR, bundle_task, open_bundle
from vision.taxonomy import load_taxonomy

log = logging.getLogger(__name__)

BEST_CHECKPOINT = "best.pt"
# What the exported modules call their networks.
GRAPH_PREFIX = "detector."
STYLE_PREFIX = "network."

# Of the style model's four groups of stages the first ones' numbers among the backbone's seven.
_FIRST_STAGES = (0, 2, 3, 5)
# The style model's names → the detector's; the pyramid's levels count from 2 there.
_RENAMED = (
    (r"backbone\.stem\.(.*)", r"backbone.bottom_up.stem.\1"),
    (r"rpn\.conv\.(.*)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn\.objectness\.(.*)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn\.deltas\.(.*)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"box_head\.trunk\.1\.(.*)", r"roi_heads.box_head.fc1.\1"),
    (r"box_head\.trunk\.4\.(.*)", r"roi_heads.box_head.fc2.\1"),
    (r"box_head\.deltas\.(.*)", r"roi_heads.box_predictor.bbox_pred.\1"),
)
_STAGE = re.compile(r"backbone\.stages\.(\d)\.(\d)\.(.*)")
_PYRAMID = re.compile(r"pyramid\.(lateral|output)\.(\d)\.(.*)")
_CLASSES = re.compile(r"box_head\.classes\.(weight|bias)")


def start_from(network: DetectorNetwork, name: str, runs: Path) -> None:
    """Fill the network from the best weights of the run `name` in folder `runs`.

    Without that run, from the bundle of this name: a detector's, or for two stages the style
    model's.

    A semantic head that the other network has not starts afresh; one that only it has is left.

    Raises `ConfigError` when there is neither or the run is of another network, and
    `PermanentError` (`bundle_invalid`) when the bundle is.
    """
    path = runs / name / BEST_CHECKPOINT
    folder = WEIGHTS_DIR / name
    if path.is_file():
        _from_run(network, path)
    elif not (folder / METADATA).is_file():
        raise ConfigError(
            f"start_from: {path} is missing, and there is no bundle {name}; finish that run first"
        )
    elif isinstance(network, GarmentRcnn) and bundle_task(folder) == "style":
        bundle = open_bundle(folder, "style")
        load_style_weights(network, bundle.graph_path, list(bundle.labels["classes"]))
    else:
        load_graph_weights(network, open_bundle(folder, "detection").graph_path, GRAPH_PREFIX)


def _from_run(network: DetectorNetwork, path: Path) -> None:
    weights = torch.load(path, map_location="cpu", weights_only=True)["average"]
    own = network.state_dict()
    differing = set(weights) ^ set(own)
    differing |= {k for k in set(weights) & set(own) if weights[k].shape != own[k].shape}
    if {key.split(".")[0] for key in differing} - {"semantic_head"}:
        raise ConfigError(f"start_from: {path} is of another network")
    shared = {k: v for k, v in weights.items() if k not in differing}
    network.load_state_dict(shared, strict=False)


def load_style_weights(network: GarmentRcnn, graph: Path, tags: list[str]) -> None:
    """Fill the detector's backbone, pyramid and two stages from the style model's exported graph.

    tags: what that model tells apart, in its order. Each becomes a look of its garment class, so
    that the detector starts with that model's boxes, and the classes of its tags.

    Raises `ConfigError` naming a weight of the detector that the graph has not in this shape.
    """
    state = _in_our_names(graph_weights(graph, STYLE_PREFIX), tags)
    own = network.state_dict()
    for name, values in own.items():
        if name.split(".")[0] == "semantic_head" or not values.is_floating_point():
            continue
        if name.startswith("proposal_generator.anchor_generator."):
            continue
        if name not in state or state[name].shape != values.shape:
            raise ConfigError(f"start_from: {graph} has no {name} of {tuple(values.shape)}")
    network.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def _in_our_names(weights: dict[str, Tensor], tags: list[str]) -> dict[str, Tensor]:
    renamed = {}
    for name, values in weights.items():
        if stage := _STAGE.fullmatch(name):
            number = _FIRST_STAGES[int(stage[1])] + int(stage[2])
            renamed[f"backbone.bottom_up.stages.{number}.{stage[3]}"] = values
        elif level := _PYRAMID.fullmatch(name):
            renamed[f"backbone.fpn_{level[1]}{int(level[2]) + 2}.{level[3]}"] = values
        elif part := _CLASSES.fullmatch(name):
            renamed[f"roi_heads.box_predictor.cls_score.linear.{part[1]}"] = _of_looks(values, tags)
        else:
            for pattern, ours in _RENAMED:
                if re.fullmatch(pattern, name):
                    renamed[re.sub(pattern, ours, name)] = values
    return renamed


def _of_looks(rows: Tensor, tags: list[str]) -> Tensor:
    """(tags + 1, …) rows by class, the background's last."""
    taxonomy = load_taxonomy()
    places = {name: number for number, name in enumerate(taxonomy.garment_classes)}
    order = sorted(range(len(tags)), key=lambda i: places[taxonomy.class_of_tag[tags[i]]])
    return rows[[*order, len(tags)]]
