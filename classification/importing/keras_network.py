"""A chain of Keras layers in PyTorch, which puts channels first.

Glossary: B batch, F features, H and W the size of a map.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from classification.importing import keras_files
from classification.importing.keras_files import Chain, Step
from classification.importing.network import (
    Labels,
    Network,
    check_rows,
    check_shape,
    invalid,
    only_head,
)


def from_chain(chain: Chain, size_hw: tuple[int, int], labels: Labels) -> Network:
    """A Keras VGG19 and the layers behind it, up to the last dense one, whose softmax is left out.

    Raises `PermanentError` (`bundle_invalid`) when it is another network or another input size.
    """
    keras_files.check_vgg19(chain)
    if chain.size_hw not in (None, size_hw):
        raise invalid(f"the file's network takes {chain.size_hw} (H, W), not {size_hw}")
    head, names = only_head(labels)
    steps = list(chain.steps)
    if steps[-1].kind == keras_files.SOFTMAX:
        steps.pop()
    *before, last = steps
    if last.kind != keras_files.DENSE:
        raise invalid(f"the last layer, {last.name!r}, is no dense layer with a softmax")
    check_rows(f"{last.name}/kernel", last.arrays["kernel"].shape[1], head, names)
    body = nn.Sequential()
    shape: tuple[int, ...] = (3, *size_hw)
    for step in before:
        for module in _modules(step, shape):
            body.append(module)
            shape = _shape_after(module, shape, step)
    check_shape(f"{last.name}/kernel", last.arrays["kernel"].shape, (*shape, len(names)))
    weight = torch.from_numpy(last.arrays["kernel"].T.copy())
    return Network(body, {head: (weight, _bias(last, len(names)))})


class _GlobalPool(nn.Module):
    """(B, F, H, W) → (B, F)."""

    def __init__(self, greatest: bool) -> None:
        super().__init__()
        self._greatest = greatest

    def forward(self, maps: Tensor) -> Tensor:
        return maps.amax((2, 3)) if self._greatest else maps.mean((2, 3))


def _modules(step: Step, shape: tuple[int, ...]) -> list[nn.Module]:
    """What one Keras layer is in PyTorch, which puts channels first. shape: of its input."""
    kind, arrays, settings = step.kind, step.arrays, step.settings
    if kind == keras_files.CONV:
        return [_conv(step, shape)]
    if kind == keras_files.DENSE:
        return [_dense(step, shape)]
    if kind == keras_files.BATCH_NORM:
        return [_batch_norm(step, shape)]
    if kind == keras_files.MAX_POOL:
        size = tuple(settings.get("pool_size", (2, 2)))
        return [nn.MaxPool2d(size, tuple(settings.get("strides") or size))]
    if kind in (keras_files.GLOBAL_MAX, keras_files.GLOBAL_MEAN):
        return [_GlobalPool(kind == keras_files.GLOBAL_MAX)]
    if kind == keras_files.FLATTEN:
        return [_Flatten()]
    if kind == keras_files.RELU:
        return [nn.ReLU()]
    raise invalid(f"layer {step.name!r} of class {kind} stands before the last layer: {arrays}")


class _Flatten(nn.Module):
    """In Keras's order: rows, columns, channels."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1).flatten(1) if maps.ndim == 4 else maps.flatten(1)


def _conv(step: Step, shape: tuple[int, ...]) -> nn.Module:
    kernel = step.arrays["kernel"]
    strides = tuple(step.settings.get("strides", (1, 1)))
    padding = step.settings.get("padding", "same")
    if padding == "same" and strides != (1, 1):
        raise invalid(f"layer {step.name!r} has padding 'same' and strides {strides}")
    h, w, _, filters = kernel.shape
    check_shape(f"{step.name}/kernel", kernel.shape, (h, w, shape[0], filters))
    conv = nn.Conv2d(shape[0], filters, (h, w), strides, padding)
    conv.weight = nn.Parameter(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    conv.bias = nn.Parameter(_bias(step, filters))
    return conv


def _dense(step: Step, shape: tuple[int, ...]) -> nn.Module:
    kernel = step.arrays["kernel"]
    check_shape(f"{step.name}/kernel", kernel.shape, (shape[-1], kernel.shape[-1]))
    dense = nn.Linear(*kernel.shape)
    dense.weight = nn.Parameter(torch.from_numpy(kernel.T.copy()))
    dense.bias = nn.Parameter(_bias(step, kernel.shape[1]))
    return dense


def _batch_norm(step: Step, shape: tuple[int, ...]) -> nn.Module:
    count = shape[0]
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    norm = kind(count, eps=float(step.settings.get("epsilon", 1e-3)))
    defaults = {"gamma": 1.0, "beta": 0.0}
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
    names["moving_variance"] = "running_var"
    state = {"num_batches_tracked": torch.zeros((), dtype=torch.long)}
    for weight, target in names.items():
        values = step.arrays.get(weight)
        if values is None and weight in defaults:
            values = np.full(count, defaults[weight], np.float32)
        if values is None:
            raise invalid(f"{step.name}/{weight} is missing")
        check_shape(f"{step.name}/{weight}", values.shape, (count,))
        state[target] = torch.from_numpy(values)
    norm.load_state_dict(state)
    return norm


def _bias(step: Step, count: int) -> Tensor:
    bias = step.arrays.get("bias")
    if bias is None:
        return torch.zeros(count)
    check_shape(f"{step.name}/bias", bias.shape, (count,))
    return torch.from_numpy(bias)


def _shape_after(module: nn.Module, shape: tuple[int, ...], step: Step) -> tuple[int, ...]:
    """The shape that a module makes of one, without computing it."""
    try:
        with torch.no_grad():
            return tuple(module.eval()(torch.zeros(1, *shape)).shape[1:])
    except (RuntimeError, ValueError, IndexError) as error:
        raise invalid(f"layer {step.name!r} cannot take an input of {shape}: {error}") from error
