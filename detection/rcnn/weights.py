"""Reading the weights in a checkpoint and nothing else: no code in the file is run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import nn

from vision.errors import ErrorCode, PermanentError

# What NumPy's numbers need to be unpickled. Old files name its modules `numpy.core`.
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_SAFE_NAMES = frozenset(
    [(module, name) for module in _NUMPY for name in ("_reconstruct", "scalar")]
    + [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
    + [("collections", "OrderedDict")]
)
_SAFE_GLOBALS = [
    *((multiarray._reconstruct, f"{module}._reconstruct") for module in _NUMPY),
    *((multiarray.scalar, f"{module}.scalar") for module in _NUMPY),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)),
]
# Older checkpoints carry what newer networks make themselves.
_MADE_ANEW = ("pixel_mean", "pixel_std")
_CELL_ANCHORS = "anchor_generator.cell_anchors"


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The network's tensors by name, from a `.pth` of Detectron2 or a `.pkl` of its model zoo.

    Raises `PermanentError` (`bundle_invalid`) for a file with anything but numbers in it.
    """
    try:
        content = _unpickled(path) if path.suffix == ".pkl" else _loaded(path)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise _invalid(path, f"holds more than weights, or is damaged: {reason}") from error
    network = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(network, Mapping) or not network:
        raise _invalid(path, "holds no weights by name")
    return {str(name): _tensor(path, str(name), value) for name, value in network.items()}


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put them into the network, all of them and no others.

    Raises `PermanentError` (`bundle_invalid`) naming what is missing, left over or of
    another shape.
    """
    try:
        result = network.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise _invalid(path, f"is of another network: {' '.join(str(error).split())}") from error
    left_over = [
        name
        for name in result.unexpected_keys
        if name not in _MADE_ANEW and _CELL_ANCHORS not in name
    ]
    for problem, names in (("lacks", result.missing_keys), ("has unknown", left_over)):
        if names:
            shown = ", ".join(names[:5])
            raise _invalid(path, f"is of another network: it {problem} {len(names)}: {shown}")


class _WeightsUnpickler(pickle.Unpickler):
    """Refuses every global but those that numbers are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE_NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        return _WeightsUnpickler(file, encoding="latin1").load()


def _loaded(path: Path) -> Any:
    with torch.serialization.safe_globals(_SAFE_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensor(path: Path, name: str, value: object) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(value)
    raise _invalid(path, f"holds {name}, which is no tensor")


def _invalid(path: Path, problem: str) -> PermanentError:
    return PermanentError(ErrorCode.BUNDLE_INVALID, f"{path} {problem}")
