"""Keras files read without Keras: a chain of layers and its weights, for importing old networks.

Nothing in the file is run or constructed: its config is JSON, of which known layers with known
settings are taken, and its weights are numbers in HDF5. Three forms are known: a full model
(`model.save`) as `.h5` or as `.keras`, and weights alone (`save_weights`), of which the layers must
be those of VGG19 without its top and dense layers behind them.

Layers: https://keras.io/api/layers/. VGG19: Simonyan and Zisserman 2015,
https://arxiv.org/abs/1409.1556.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from classification.importing.network import check_shape, invalid

LOGGER = logging.getLogger(__name__)

SUFFIXES = (".h5", ".hdf5", ".keras")

CONV, DENSE, BATCH_NORM = "Conv2D", "Dense", "BatchNormalization"
MAX_POOL, FLATTEN = "MaxPooling2D", "Flatten"
GLOBAL_MAX, GLOBAL_MEAN = "GlobalMaxPooling2D", "GlobalAveragePooling2D"
RELU, SOFTMAX = "ReLU", "Softmax"
_POOLINGS = {"flatten": FLATTEN, "global_max_pooling2d": GLOBAL_MAX}
_POOLINGS["global_average_pooling2d"] = GLOBAL_MEAN
_INERT = ("InputLayer", "Dropout", "SpatialDropout2D", "GaussianNoise", "ActivityRegularization")
_CHAINS = ("Sequential", "Functional", "Model")
_KNOWN = (CONV, DENSE, BATCH_NORM, MAX_POOL, FLATTEN, GLOBAL_MAX, GLOBAL_MEAN, RELU, SOFTMAX)
_WEIGHTS = {
    CONV: ("kernel", "bias"),
    DENSE: ("kernel", "bias"),
    BATCH_NORM: ("gamma", "beta", "moving_mean", "moving_variance"),
}
# Settings of a layer → the only value that is understood; elsewhere a default stands.
_ONLY: dict[str, dict[str, Any]] = {
    CONV: {"dilation_rate": (1, 1), "groups": 1, "data_format": "channels_last"},
    MAX_POOL: {"padding": "valid", "data_format": "channels_last"},
    FLATTEN: {"data_format": "channels_last"},
    GLOBAL_MAX: {"data_format": "channels_last", "keepdims": False},
    GLOBAL_MEAN: {"data_format": "channels_last", "keepdims": False},
    RELU: {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
}
_ACTIVATIONS = {"relu": RELU, "softmax": SOFTMAX}

VGG19_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
# VGG19 for ImageNet has 0.6 GB; a damaged or hostile file must not ask for more.
_MOST_BYTES = 1 << 30
_MOST_CONFIG_BYTES = 16 << 20

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Step:
    """One layer. kind: its Keras class. arrays: weight → values. settings: as in Keras."""

    kind: str
    name: str
    arrays: Arrays = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers in their order. size_hw: the input's size where the file names it."""

    steps: tuple[Step, ...]
    size_hw: tuple[int, int] | None


def read_chain(path: Path) -> Chain:
    """Read a full model or the weights of a VGG19.

    Raises `PermanentError` (`bundle_invalid`) naming the layer that is unknown, is set in an
    unknown way, or has no weights or weights of another shape.
    """
    try:
        if path.suffix == ".keras":
            return _read_keras(path)
        with h5py.File(path, "r") as file:
            return _read_hdf5(file)
    except (OSError, RuntimeError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise invalid(f"{path} cannot be read: {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise invalid(f"{path} is not as Keras writes it: {error!r}") from error


def check_vgg19(chain: Chain) -> None:
    """Raises `PermanentError` (`bundle_invalid`) naming the first convolution that is not VGG19's,
    or a pooling that is not where VGG19 has it.
    """
    blocks: list[list[Step]] = [[]]
    for step in chain.steps:
        if step.kind == CONV:
            blocks[-1].append(step)
        elif step.kind == MAX_POOL:
            blocks.append([])
    found = [len(block) for block in blocks if block]
    expected = [count for count, _ in VGG19_BLOCKS]
    if found != expected:
        raise invalid(f"VGG19 has blocks of {expected} convolutions, this network {found}")
    channels = 3
    for block, (_, filters) in zip(blocks, VGG19_BLOCKS, strict=False):
        for step in block:
            expected_shape = (3, 3, channels, filters)
            check_shape(f"{step.name}/kernel", step.arrays["kernel"].shape, expected_shape)
            channels = filters


@dataclass(frozen=True, eq=False)
class _Weights:
    """Weights of a file. groups: layer, or its place in a file of Keras 3 → its weights. scopes:
    name that the weights of a layer go by where it is not the layer's → layer.
    """

    groups: Mapping[str, Arrays]
    scopes: Mapping[str, str] = field(default_factory=dict)

    def of(self, kind: str, name: str, place: str) -> Arrays:
        keys = (name, place, self.scopes.get(name, ""))
        found = next((self.groups[key] for key in keys if key in self.groups), {})
        names = _WEIGHTS[kind]
        if not found:
            raise invalid(f"the file has no weights of layer {name!r}")
        # Keras 3 numbers the weights of a layer in the order of `names`.
        if all(key.isdigit() for key in found):
            return {names[int(key)]: values for key, values in found.items()}
        return found


def _read_keras(path: Path) -> Chain:
    with zipfile.ZipFile(path) as archive:
        config = json.loads(_member(archive, "config.json", _MOST_CONFIG_BYTES))
        content = _member(archive, "model.weights.h5", _MOST_BYTES)
    with h5py.File(io.BytesIO(content), "r") as file:
        return _from_config(config, _numbered_weights(file))


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if archive.getinfo(name).file_size > most:
        raise invalid(f"{name} is larger than any such file")
    return archive.read(name)


def _read_hdf5(file: h5py.File) -> Chain:
    if "model_config" in file.attrs:
        config = json.loads(file.attrs["model_config"])
        return _from_config(config, _named_weights(file["model_weights"]))
    if "layer_names" in file.attrs:
        return _vgg19_of(_named_weights(file), [_text(n) for n in file.attrs["layer_names"]])
    if "layers" in file:
        weights = _numbered_weights(file)
        return _vgg19_of(weights, list(weights.groups))
    raise invalid("the file holds neither a Keras model nor its weights")


def _named_weights(root: h5py.Group) -> _Weights:
    """Of the form before Keras 3: `layer_names` and `weight_names`."""
    groups: dict[str, Arrays] = {}
    scopes: dict[str, str] = {}
    for layer in map(_text, root.attrs["layer_names"]):
        group = _inside(root, layer)
        paths = [_text(path).split("/") for path in group.attrs["weight_names"]]
        owners = {path[-2] for path in paths if len(path) > 1}
        if len(owners) == 1:
            scopes[owners.pop()] = layer
        for path in paths:
            # A model used as a layer holds the weights of several.
            owner = path[-2] if len(owners) > 1 else layer
            values = _values(_inside(group, "/".join(path)), f"{layer}/{path[-1]}")
            groups.setdefault(owner, {})[path[-1].split(":")[0]] = values
        groups.setdefault(layer, {})
    return _Weights(groups, scopes)


def _numbered_weights(root: h5py.Group) -> _Weights:
    """Of Keras 3: a layer's weights are numbered. A layer without a name goes by its place."""
    groups: dict[str, Arrays] = {}

    def visit(path: str) -> None:
        if path.startswith("layers/") and path.endswith("/vars"):
            group = _inside(root, path)
            name = _text(group.attrs.get("name", path.removesuffix("/vars")))
            groups[name] = {key: _values(_inside(group, key), f"{path}/{key}") for key in group}

    root.visit(visit)
    return _Weights(groups)


def _inside(group: h5py.Group, path: str) -> Any:
    """What stands at a path, without following a link out of the file."""
    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise invalid(f"{path} is missing or a link")
        group = group[part]
    return group


def _values(dataset: Any, path: str) -> NDArray[np.float32]:
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise invalid(f"{path} is no array in the file")
    if 4 * math.prod(dataset.shape) > _MOST_BYTES:
        raise invalid(f"{path} of shape {dataset.shape} is larger than any weights")
    values = np.asarray(dataset[()], np.float32)
    if not np.isfinite(values).all():
        raise invalid(f"{path} holds numbers that are not finite")
    return values


def _from_config(config: Mapping[str, Any], weights: _Weights) -> Chain:
    steps: list[Step] = []
    size_hw: tuple[int, int] | None = None
    for layer, place in _flat_layers(config, ""):
        settings = layer["config"]
        shape = settings.get("batch_shape") or settings.get("batch_input_shape")
        if shape and size_hw is None and None not in shape[1:3]:
            size_hw = (int(shape[1]), int(shape[2]))
        steps += _steps(layer["class_name"], settings, weights, place)
    return Chain(tuple(steps), size_hw)


def _flat_layers(config: Mapping[str, Any], place: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Layers in order with their place in a Keras 3 file, those of models within models too."""
    counts: Counter[str] = Counter()
    before: str | None = None
    for layer in config["config"]["layers"]:
        kind, name = layer["class_name"], layer["config"]["name"]
        snake = _snake_case(kind)
        number = f"_{counts[snake]}" if counts[snake] else ""
        counts[snake] += 1
        here = f"{place}layers/{snake}{number}"
        inputs = set(_histories(layer.get("inbound_nodes", [])))
        if before is not None and inputs and inputs != {before}:
            raise invalid(f"layer {name!r} does not follow {before!r}: no chain of layers")
        before = name
        if kind in _CHAINS:
            yield from _flat_layers(layer, f"{here}/")
        else:
            yield layer, here


def _histories(nodes: Any) -> Iterator[str]:
    """Names of the layers that a layer's inputs come from, in the form of Keras 2 or 3."""
    if isinstance(nodes, dict):
        if "keras_history" in nodes:
            yield str(nodes["keras_history"][0])
        else:
            for value in nodes.values():
                yield from _histories(value)
    elif isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
            yield nodes[0]
        else:
            for value in nodes:
                yield from _histories(value)


def _steps(kind: str, settings: Mapping[str, Any], weights: _Weights, place: str) -> Iterator[Step]:
    """A layer, and its activation as a layer of its own."""
    name = str(settings["name"])
    if kind in _INERT:
        return
    if kind == "Activation":
        yield from _activation(name, settings["activation"])
        return
    if kind not in _KNOWN:
        raise invalid(
            f"layer {name!r} is of class {kind}, which is not imported; "
            f"known: {', '.join((*_KNOWN, *_INERT))}"
        )
    for setting, only in _ONLY.get(kind, {}).items():
        given = settings.get(setting, only)
        if (tuple(given) if isinstance(given, list) else given) != only:
            raise invalid(f"layer {name!r} has {setting} {given!r}; known: {only!r}")
    arrays = weights.of(kind, name, place) if kind in _WEIGHTS else {}
    yield Step(kind, name, arrays, settings)
    yield from _activation(name, settings.get("activation", "linear"))


def _activation(name: str, activation: object) -> Iterator[Step]:
    if activation == "linear":
        return
    if activation not in _ACTIVATIONS:
        known = ", ".join(("linear", *_ACTIVATIONS))
        raise invalid(f"layer {name!r} has activation {activation!r}; known: {known}")
    yield Step(_ACTIVATIONS[str(activation)], f"{name}_{activation}")


def _vgg19_of(weights: _Weights, names: Sequence[str]) -> Chain:
    """Weights alone, as VGG19: convolutions, a pooling that the names tell, dense layers."""
    kinds = {name: _kind(name, arrays) for name, arrays in weights.groups.items() if arrays}
    convs, dense = (
        sorted((name for name, kind in kinds.items() if kind == wanted), key=_natural)
        for wanted in (CONV, DENSE)
    )
    expected = sum(count for count, _ in VGG19_BLOCKS)
    if len(convs) != expected or not dense:
        raise invalid(
            f"VGG19 has {expected} convolutions and a dense layer at least, "
            f"this file has the weights of {len(convs)} and {len(dense)}"
        )
    steps: list[Step] = []
    remaining = iter(convs)
    for block, (count, _) in enumerate(VGG19_BLOCKS, start=1):
        for name in islice(remaining, count):
            steps += _steps(CONV, {"name": name, "activation": "relu"}, weights, name)
        steps.append(Step(MAX_POOL, f"block{block}_pool"))
    rows = len(weights.of(DENSE, dense[0], dense[0])["kernel"])
    steps.append(Step(_pooling(names, rows), "pooling"))
    for name in dense:
        activation = "softmax" if name == dense[-1] else "relu"
        steps += _steps(DENSE, {"name": name, "activation": activation}, weights, name)
    return Chain(tuple(steps), None)


def _pooling(names: Sequence[str], rows: int) -> str:
    """What stands between VGG19 and a dense layer of so many rows, where the names tell it."""
    for name in names:
        for start, kind in _POOLINGS.items():
            if name.rsplit("/", 1)[-1].startswith(start):
                return kind
    if rows != VGG19_BLOCKS[-1][1]:
        return FLATTEN
    LOGGER.warning("the file does not tell how VGG19's maps are pooled; taken for their maximum")
    return GLOBAL_MAX


def _kind(name: str, arrays: Arrays) -> str:
    ranks = sorted(values.ndim for values in arrays.values())
    if ranks in ([1, 4], [4]):
        return CONV
    if ranks in ([1, 2], [2]):
        return DENSE
    shapes = [values.shape for values in arrays.values()]
    raise invalid(f"{name!r} with weights of {shapes} is neither a convolution nor a dense layer")


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts `dense_10` after `dense_2`."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def _snake_case(name: str) -> str:
    """As Keras names a layer's class in a file."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
