"""The detector's network, of one stage or of two, and what training and export ask of either."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from detection import fcos, two_stage
from detection.config import FasterRcnnConfig, FcosConfig, NetworkConfig
from detection.fcos import FcosOutputs, GarmentFcos, build_fcos
from detection.two_stage import GarmentRcnn, RegionOutputs, build_faster_rcnn

DetectorNetwork = GarmentFcos | GarmentRcnn


@dataclass(frozen=True)
class GraphForm:
    """names: of the tensors that `raw_outputs` gives, in its order. strides: of the levels that the
    network reads.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]


def build_network(config: NetworkConfig, class_count: int) -> DetectorNetwork:
    """The network as configured, freshly initialised but for ImageNet weights.

    Raises `PermanentError` (`model_unavailable`) when `pretrained` weights are not installed.
    """
    if isinstance(config, FcosConfig):
        return build_fcos(config, class_count)
    assert isinstance(config, FasterRcnnConfig)
    return build_faster_rcnn(config, class_count)


def raw_outputs(network: DetectorNetwork) -> nn.Module:
    """The network as it is exported: from normalised photos to what `graph_form` names."""
    if isinstance(network, GarmentFcos):
        return FcosOutputs(network).eval()
    return RegionOutputs(network).eval()


def graph_form(network: DetectorNetwork) -> GraphForm:
    """What a graph of this network gives."""
    module = fcos if isinstance(network, GarmentFcos) else two_stage
    return GraphForm(module.OUTPUT_NAMES, module.STRIDES)
