"""The weights of a served graph, in the PyTorch module that it was exported from.

So training goes on from what ships where the run that made it is not at hand. PyTorch's exporter
keeps the names of most weights; those that it folds into other nodes are paired by order and size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from vision.errors import ErrorCode, PermanentError


def load_graph_weights(module: nn.Module, graph: Path, prefix: str = "") -> list[str]:
    """Fill a module from a graph; gives the names of the module's weights that it has none for.

    prefix: of the graph's names before the module's, as in `network.` when the exported module
    held this one by that name. Weights of the module whose first part (`attribute_head`) the graph
    lacks altogether stay as they are.

    Raises `PermanentError` (`bundle_invalid`) naming the weight that is missing or of another
    shape: the graph is of another network.
    """
    named, unnamed = _initializers(graph, prefix)
    state, missing = {}, []
    for name, own in module.state_dict().items():
        if name in named:
            state[name] = _fitted(name, named[name], own, graph)
        elif own.is_floating_point():
            missing.append(name)
    known_parts = {name.split(".")[0] for name in state}
    left = []
    for name in missing:
        if name.split(".")[0] not in known_parts:
            left.append(name)
            continue
        own = module.state_dict()[name]
        place = next((i for i, values in enumerate(unnamed) if values.size == own.numel()), None)
        if place is None:
            raise _another(graph, f"it has no {name}")
        state[name] = torch.from_numpy(unnamed.pop(place).reshape(tuple(own.shape)).copy())
    module.load_state_dict(state, strict=False)
    return left


def graph_weights(graph: Path, prefix: str = "") -> dict[str, Tensor]:
    """The graph's weights that kept a name, by that name without `prefix`."""
    named, _ = _initializers(graph, prefix)
    return {name: torch.from_numpy(values.copy()) for name, values in named.items()}


def _initializers(
    graph: Path, prefix: str
) -> tuple[dict[str, NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Floating-point tensors by the module's names, and those without, in the module's order, which
    the exporter numbers them in.
    """
    model = onnx.load(graph)
    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if not n.startswith("onnx::")}
    nameless = [name for name in tensors if name.startswith("onnx::")]
    return own, [tensors[name] for name in sorted(nameless, key=lambda n: int(n.split("_")[-1]))]


def _fitted(name: str, values: NDArray[np.float32], own: Tensor, graph: Path) -> Tensor:
    if values.shape != tuple(own.shape):
        raise _another(graph, f"its {name} is {values.shape}, not {tuple(own.shape)}")
    return torch.from_numpy(values.copy())


def _another(graph: Path, problem: str) -> PermanentError:
    return PermanentError(
        ErrorCode.BUNDLE_INVALID, f"{graph} is not of the network to train: {problem}"
    )
