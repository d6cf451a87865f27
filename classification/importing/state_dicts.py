"""Networks from PyTorch state dicts: torchvision's, and ResNets as fastai cuts them."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from classification.importing.network import (
    Labels,
    Network,
    check_rows,
    check_shape,
    invalid,
    only_head,
)

State = dict[str, Tensor]


# Architecture → torchvision's name of its last layer.
LAST_LAYERS = {
    "convnext_tiny": "classifier.2",
    "resnet18": "fc",
    "resnet34": "fc",
    "resnet50": "fc",
    "vgg19": "classifier.6",
    "vgg19_bn": "classifier.6",
}
SUFFIXES = (".pth", ".pt", ".safetensors")
# Where training programs put the state dict among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_COUNTERS = "num_batches_tracked"
# fastai's body is a list of torchvision's parts, of which those with weights are:
_FASTAI_BODY = {
    "0.0": "conv1",
    "0.1": "bn1",
    "0.4": "layer1",
    "0.5": "layer2",
    "0.6": "layer3",
    "0.7": "layer4",
}
# … and its head is AdaptiveConcatPool, Flatten, BatchNorm, Dropout, Linear, ReLU, BatchNorm,
# Dropout, Linear: https://docs.fast.ai/vision.learner.html#create_head
_FASTAI_HEAD = {"1.2": "norm1", "1.4": "linear", "1.6": "norm2"}
_FASTAI_LAST = "1.8"


def read_state(path: Path) -> State:
    """Tensors by name, of a file of tensors.

    Raises `PermanentError` (`bundle_invalid`) when it cannot be read or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise invalid(
            f"{path} holds Python objects, which are never loaded; save the state dict alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise invalid(f"{path} cannot be read: {error}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise invalid(f"{path} holds no state dict")
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise invalid(f"{path}: {strange[0]!r} is no tensor")
    return {str(name): value.float() for name, value in content.items()}


def from_state(state: State, architecture: str, labels: Labels) -> Network:
    """A network of torchvision's form, or a ResNet as fastai cuts one. architecture: one of
    `LAST_LAYERS`.

    Names may share a prefix, as wrapped models have. Several heads are found by their names.

    Raises `PermanentError` (`bundle_invalid`) naming the tensor that is missing, that nobody asked
    for, or that has another shape.
    """
    state = {name: value for name, value in state.items() if not name.endswith(_COUNTERS)}
    last = LAST_LAYERS[architecture]
    with torch.device("meta"):
        body = torchvision.models.get_model(architecture, weights=None)
    body.set_submodule(last, nn.Identity())
    if "0.0.weight" in state and architecture.startswith("resnet"):
        return _from_fastai(state, body, labels)
    expected = {name for name in body.state_dict() if not name.endswith(_COUNTERS)}
    prefix = _prefix(state, expected)
    inside = {name.removeprefix(prefix): value for name, value in state.items()}
    heads = _heads(inside, last, labels)
    used = {f"{place}.{part}" for place in heads.values() for part in ("weight", "bias")}
    _fill(body, {name: value for name, value in inside.items() if name not in used}, expected)
    return Network(
        body, {head: _linear(inside, place, head, labels[head]) for head, place in heads.items()}
    )


class _FastaiBody(nn.Module):
    """torchvision's ResNet up to its maps, and fastai's head up to its last layer."""

    def __init__(self, resnet: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.resnet = resnet
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        net = self.resnet
        maps = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        maps = net.layer4(net.layer3(net.layer2(net.layer1(maps))))
        features: Tensor = self.head(torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1))
        return features


def _from_fastai(state: State, body: nn.Module, labels: Labels) -> Network:
    renamed = {}
    for name, value in state.items():
        start = ".".join(name.split(".")[:2])
        target = (_FASTAI_BODY | _FASTAI_HEAD).get(start, start)
        renamed[target + name[len(start) :]] = value
    norm1, linear, norm2 = (renamed.get(f"{n}.weight") for n in ("norm1", "linear", "norm2"))
    if norm1 is None or linear is None or norm2 is None:
        missing = [f"{n}.weight" for n in _FASTAI_HEAD if f"{n}.weight" not in state]
        raise invalid(f"tensor {missing[0]!r} of fastai's head is missing")
    with torch.device("meta"):
        head = nn.Sequential()
        head.add_module("norm1", nn.BatchNorm1d(len(norm1)))
        has_bias = "linear.bias" in renamed
        head.add_module("linear", nn.Linear(len(norm1), len(linear), bias=has_bias))
        head.add_module("relu", nn.ReLU())
        head.add_module("norm2", nn.BatchNorm1d(len(norm2)))
    name, names = only_head(labels)
    last = _linear(renamed, _FASTAI_LAST, name, names)
    parts: dict[str, State] = {"head": {}, "body": {}}
    for key, value in renamed.items():
        if not key.startswith(f"{_FASTAI_LAST}."):
            parts["head" if key.split(".")[0] in _FASTAI_HEAD.values() else "body"][key] = value
    for module, part in ((head, parts["head"]), (body, parts["body"])):
        _fill(module, part, {k for k in module.state_dict() if not k.endswith(_COUNTERS)})
    return Network(_FastaiBody(body, head), {name: last})


def _prefix(state: State, expected: set[str]) -> str:
    """What stands before the names of the body: that which explains most of them."""
    found = Counter(
        name.removesuffix(wanted) for name in state for wanted in expected if name.endswith(wanted)
    )
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)), default="")


def _heads(state: State, last: str, labels: Labels) -> dict[str, str]:
    """Head → the name of its layer: the architecture's last one, or for several their own."""
    if len(labels) == 1:
        return dict.fromkeys(labels, last)
    places = {}
    for head in labels:
        found = [
            name.removesuffix(".weight")
            for name, value in state.items()
            if name.endswith(".weight") and value.ndim == 2 and head in _parts(name)
        ]
        if len(found) != 1:
            raise invalid(f"{len(found)} layers are called after the head {head!r}, not one")
        places[head] = found[0]
    return places


def _parts(name: str) -> set[str]:
    """What a layer's name may be called after: `heads.gender.0.weight` → heads, gender, …"""
    parts = set(name.split("."))
    affixes = ("head_", "fc_", "classifier_", "_head", "_fc", "_classifier")
    return parts | {part.removeprefix(a).removesuffix(a) for part in parts for a in affixes}


def _linear(state: State, place: str, head: str, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    weight = state.get(f"{place}.weight")
    if weight is None:
        raise invalid(f"tensor '{place}.weight' is missing")
    if weight.ndim != 2:
        raise invalid(f"tensor '{place}.weight' has the shape {tuple(weight.shape)}")
    check_rows(f"{place}.weight", len(weight), head, names)
    return weight, state.get(f"{place}.bias", torch.zeros(len(weight)))


def _fill(module: nn.Module, state: State, expected: set[str]) -> None:
    """Put tensors into a module on the meta device."""
    missing = sorted(expected - set(state))
    if missing:
        raise invalid(f"tensor {missing[0]!r} is missing, and {len(missing) - 1} more")
    strange = sorted(set(state) - expected)
    if strange:
        raise invalid(f"tensor {strange[0]!r} belongs to no layer, nor do {len(strange) - 1} more")
    for name, value in module.state_dict().items():
        if name in state:
            check_shape(name, tuple(state[name].shape), tuple(value.shape))
    counters = {n: torch.zeros(()) for n in module.state_dict() if n.endswith(_COUNTERS)}
    module.load_state_dict(state | counters, assign=True)
