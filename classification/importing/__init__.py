"""Bundles from weights that were trained elsewhere: Keras files and PyTorch state dicts.

A network is rebuilt in PyTorch from its tensors alone. Files that hold code or Python objects are
refused: of a Keras file only its JSON and its numbers are read, of a PyTorch file only tensors.

Glossary: B batch, F features before the last layer, C labels of a head, E the embedding's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from classification import quantise
from classification.graphs import TOLERANCE, write_graph
from classification.importing import keras_files, state_dicts
from classification.importing.keras_network import from_chain
from classification.importing.labels import read_labels
from classification.importing.network import Labels, Network, invalid
from classification.importing.state_dicts import LAST_LAYERS, from_state, read_state
from classification.predictor import EMBEDDING, IMAGES, LOGITS_PREFIX
from classification.preprocess import BGR, RGB, InputForm, PerChannel, batch_of
from classification.quantise import FP32
from vision.bundle import GRAPH, Bundle, file_sha256, write_bundle
from vision.errors import ErrorCode, PermanentError
from vision.session import OnnxSession

ARCHITECTURES = tuple(LAST_LAYERS)
KERAS_ARCHITECTURE = "vgg19"
# Name → (channels, mean, std) of values in [0, 1].
SCALINGS: dict[str, tuple[str, PerChannel, PerChannel]] = {
    # As it is after ImageDataGenerator(rescale=1/255).
    "unit": (RGB, 0.0, 1.0),
    "signed": (RGB, 0.5, 0.5),
    # torchvision's and fastai's.
    "imagenet": (RGB, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # keras.applications.vgg19.preprocess_input: blue first, in [0, 255], less ImageNet's means.
    "caffe": (BGR, (103.939 / 255, 116.779 / 255, 123.68 / 255), 1 / 255),
}
EMBEDDING_LENGTH = 256
_EVEN_CHANCE = 0.5
_PARITY_IMAGES = 16


@dataclass(frozen=True)
class ImportOptions:
    """How a file is to be understood. Sizes are (H, W). head: what a plain list of labels answers;
    None to go by the labels. scaling: a key of `SCALINGS`; None for what the kind of file usually
    goes with. padding: as in `InputForm`. precision: as in `quantise`.
    """

    architecture: str
    size_hw: tuple[int, int]
    head: str | None = None
    scaling: str | None = None
    padding: str = "none"
    precision: str = FP32


def import_weights(
    weights: Path,
    labels_file: Path,
    options: ImportOptions,
    folder: Path,
    command: str,
    photos: Sequence[NDArray[np.uint8]] = (),
) -> Bundle:
    """Write a bundle at `folder` from weights and the labels of their last layer.

    Its confidences are not calibrated. Its embedding is the normalised features, turned and cut to
    `EMBEDDING_LENGTH` at random but always alike. photos: for int8, to calibrate on.

    Raises `PermanentError`: `validation_error` for options or labels that cannot be, listing the
    known ones; `bundle_invalid` for a file that is no such network, naming the tensor.
    """
    form = _form(options, weights)
    quantise.check_precision(options.precision)
    labels = read_labels(labels_file, options.head)
    network = read_network(weights, options, labels)
    served = Served(network, _projection(network))
    _check_size(served, form)
    with TemporaryDirectory() as work:
        exact = Path(work) / GRAPH
        outputs = [*(LOGITS_PREFIX + head for head in labels), EMBEDDING]
        write_graph(served, form.shape, outputs, exact)
        difference = _difference(served, form, outputs, exact)
        if difference > TOLERANCE:
            raise ValueError(f"the exported graph differs from its network by {difference}")
        folder.mkdir(parents=True, exist_ok=True)
        inputs = batch_of(photos, form) if photos else None
        quantise.convert(exact, folder / GRAPH, options.precision, inputs)
    bundle = write_bundle(
        folder,
        "classification",
        architecture=f"{options.architecture}, imported",
        labels={"attributes": {head: list(names) for head, names in labels.items()}},
        input=form.as_metadata(),
        output={
            "embedding": EMBEDDING_LENGTH,
            "temperatures": dict.fromkeys(labels, 1.0),
            "thresholds": dict.fromkeys(labels, _EVEN_CHANCE),
        },
        metrics={},
        data=[],
        licence="that of the imported weights",
        command=command,
        parity={
            "against": f"the weights of {weights.name} in PyTorch, float32",
            "source_sha256": file_sha256(weights),
            "inputs": _PARITY_IMAGES,
            "tolerance": TOLERANCE,
            "difference": difference,
            "quantised": quantise.quantised_metadata(options.precision, folder / GRAPH),
        },
    )
    (folder / "README.md").write_text(_card(bundle, weights), encoding="utf-8")
    return bundle


def read_network(path: Path, options: ImportOptions, labels: Labels) -> Network:
    """The network in a file of weights; see `import_weights` for the errors."""
    if options.architecture not in ARCHITECTURES:
        raise _unusable(
            f"unknown architecture {options.architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    if path.suffix in keras_files.SUFFIXES:
        if options.architecture != KERAS_ARCHITECTURE:
            raise _unusable(
                f"{path.name}: Keras files are imported as {KERAS_ARCHITECTURE}, "
                f"not as {options.architecture}"
            )
        return from_chain(keras_files.read_chain(path), options.size_hw, labels)
    if path.suffix in state_dicts.SUFFIXES:
        return from_state(read_state(path), options.architecture, labels)
    known = ", ".join((*keras_files.SUFFIXES, *state_dicts.SUFFIXES))
    raise _unusable(f"{path.name}: weights are read from {known}; pickles are never loaded")


class Served(nn.Module):
    """A network with the outputs of a bundle's graph: each head's logits, and the embedding."""

    def __init__(self, network: Network, projection: Tensor) -> None:
        super().__init__()
        self.body = network.body
        self.heads = nn.ParameterList([t for pair in network.heads.values() for t in pair])
        self.register_buffer("projection", projection)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.body(images)
        pairs = zip(self.heads[::2], self.heads[1::2], strict=True)
        logits = [nn.functional.linear(features, weight, bias) for weight, bias in pairs]
        return (*logits, nn.functional.normalize(features @ self.projection, dim=1))


def _projection(network: Network) -> Tensor:
    """(F, E): an orthonormal turn to as many dimensions, drawn once and for all.

    The dot products of features stay what they are, or nearly so where the features are more
    (Johnson and Lindenstrauss 1984).
    """
    features = next(iter(network.heads.values()))[0].shape[1]
    larger = max(features, EMBEDDING_LENGTH)
    drawn = np.random.default_rng(0).normal(size=(larger, min(features, EMBEDDING_LENGTH)))
    turn, _ = np.linalg.qr(drawn)
    matrix = turn if features >= EMBEDDING_LENGTH else turn.T
    return torch.from_numpy(np.ascontiguousarray(matrix, np.float32))


def _check_size(served: Served, form: InputForm) -> None:
    try:
        with torch.no_grad():
            served(torch.zeros(1, *form.shape))
    except RuntimeError as error:
        raise invalid(f"the network cannot take {form.size_hw} (H, W): {error}") from error


def _difference(served: Served, form: InputForm, outputs: Sequence[str], path: Path) -> float:
    """The greatest absolute difference of the graph's outputs from the module's, on noise."""
    images = np.random.default_rng(0).integers(0, 256, (_PARITY_IMAGES, *form.size_hw, 3))
    inputs = batch_of(list(images.astype(np.uint8)), form)
    with torch.no_grad():
        expected = served(torch.from_numpy(inputs))
    actual = OnnxSession(path).run({IMAGES: inputs})
    pairs = zip(outputs, expected, strict=True)
    return max(float(np.abs(actual[name] - value.numpy()).max()) for name, value in pairs)


def _form(options: ImportOptions, weights: Path) -> InputForm:
    usual = "unit" if weights.suffix in keras_files.SUFFIXES else "imagenet"
    scaling = options.scaling or usual
    if scaling not in SCALINGS:
        raise _unusable(f"unknown scaling {scaling!r}; known: {', '.join(SCALINGS)}")
    channels, mean, std = SCALINGS[scaling]
    try:
        return InputForm(options.size_hw, channels, options.padding, mean=mean, std=std)
    except ValueError as error:
        raise _unusable(str(error)) from error


def _card(bundle: Bundle, weights: Path) -> str:
    heads = "\n".join(
        f"- `{head}`: {len(names)} labels" for head, names in bundle.labels["attributes"].items()
    )
    return (
        f"# {bundle.name}\n\nImported from `{weights.name}` "
        f"(SHA-256 `{bundle.parity['source_sha256']}`): {bundle.architecture}.\n\n"
        f"```\n{bundle.command}\n```\n\n## Answers\n\n{heads}\n\n## Limits\n\n"
        "- Not measured here: `python -m classification evaluate --model "
        f"{bundle.name} --data …` does.\n"
        "- Confidences are the network's own, not calibrated: `python -m classification calibrate "
        f"--model {bundle.name} --products …` fits them.\n"
        "- Licence and training data are those of the imported weights.\n"
    )


def _unusable(problem: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, problem)
