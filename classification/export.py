"""From a finished run to a bundle: ONNX graph, parity, embedding, temperatures, figures.

Runs on Keras's torch backend in channels_first, the layout ONNX's convolutions have, so that the
graph holds no transposes. Weights trained on another backend load as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import keras
import numpy as np
import torch
from keras import layers
from numpy.typing import NDArray

from classification import quantise
from classification.backbones import BACKBONES
from classification.calibrate import EVEN_CHANCE
from classification.config import (
    FASHION_MNIST,
    HOME_PHOTOS,
    PRODUCTS,
    STREET_PHOTOS,
    TrainConfig,
)
from classification.graphs import TOLERANCE, write_graph
from classification.heads import head_of, known_heads
from classification.network import FEATURES, build_network, fold
from classification.photos import Photos
from classification.postprocess import TREE_LEVELS
from classification.predictor import EMBEDDING, IMAGES, LOGITS_PREFIX
from classification.preprocess import GREY, RGB, InputForm, batch_of
from classification.quantise import CALIBRATION_PHOTOS, FP32
from classification.recalibrate import calibrated
from training import citations
from vision.bundle import GRAPH, Bundle, write_bundle
from vision.errors import PermanentError
from vision.session import OnnxSession
from vision.taxonomy import Taxonomy, load_taxonomy

T = TypeVar("T")

LOGGER = logging.getLogger(__name__)

# Photos of each training set that the embedding's principal components are fitted on.
EMBEDDING_PHOTOS = 4000
PARITY_PHOTOS = 64

CITATIONS = {
    PRODUCTS: citations.PRODUCTS,
    HOME_PHOTOS: citations.HOME_PHOTOS,
    STREET_PHOTOS: citations.CCP,
    FASHION_MNIST: citations.FASHION_MNIST,
}


@dataclass(frozen=True)
class Parity:
    """The greatest absolute difference of the graph's outputs from the Keras network's."""

    logits: float
    embedding: float

    @property
    def holds(self) -> bool:
        return max(self.logits, self.embedding) <= TOLERANCE


def export(
    config: TrainConfig,
    weights: Path,
    datasets: Sequence[Photos],
    folder: Path,
    command: str,
    precision: str = FP32,
) -> Bundle:
    """Write the bundle at `folder` from a run's weights.

    The embedding is fitted on `train` photos of all data sets, the temperatures on the
    `calibration` photos of the first. precision: one of `quantise.PRECISIONS`; for any but float32
    the bundle tells the accuracy on `validation` before and after. The model card is written by
    hand.

    Raises `PermanentError` (`validation_error`) for an unknown precision, and `ValueError` when the
    graph differs from its network by more than the tolerance.
    """
    quantise.check_precision(precision)
    taxonomy = load_taxonomy()
    labels = labels_of(config, taxonomy)
    form = input_form(config)
    network, folded = load_networks(config, labels, weights)
    photos = training_photos(datasets)
    embedding = fit_embedding(folded, photos, form, config.embedding)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as work:
        exact = Path(work)
        export_graph(served_network(folded, *embedding), form.shape, exact / GRAPH)
        inputs = parity_inputs(photos, form)
        parity = measure_parity(served_network(network, *embedding), exact / GRAPH, inputs)
        if not parity.holds:
            raise ValueError(f"the exported graph differs from its network: {parity}")
        draft = Draft(
            architecture=f"{config.backbone}, softmax heads on pooled features (Keras)",
            labels=labels_metadata(labels, taxonomy),
            form=form,
            embedding=embedding[0].shape[1],
            data=cited(config, datasets),
            command=command,
            parity=parity,
        )
        calibration = batch_of(evenly(photos, CALIBRATION_PHOTOS), form)
        quantise.convert(exact / GRAPH, folder / GRAPH, precision, calibration)
        output = calibrated(draft.write(folder, uncalibrated(labels)), datasets[0])
        served = draft.write(folder, output)
        if precision == FP32:
            return served
        accuracy = quantise.compare(draft.write(exact, output), served, datasets)
    LOGGER.info("accuracy in float32 and %s: %s", precision, accuracy)
    quantised = quantise.quantised_metadata(precision, folder / GRAPH, accuracy)
    return draft.write(folder, output, quantised)


@dataclass(frozen=True, eq=False)
class Draft:
    """What is known of a bundle before its answers are calibrated. embedding: its length."""

    architecture: str
    labels: Mapping[str, Any]
    form: InputForm
    embedding: int
    data: Sequence[citations.Citation]
    command: str
    parity: Parity

    def write(
        self,
        folder: Path,
        output: Mapping[str, Any],
        quantised: Mapping[str, Any] | None = None,
    ) -> Bundle:
        """Write the metadata beside the graph that lies in `folder`. output: as `calibrate` fits
        it. quantised: as in `quantise.quantised_metadata`, None for float32.
        """
        parity = {
            "against": "Keras network, torch backend, float32",
            "inputs": 2 * PARITY_PHOTOS,
            "tolerance": TOLERANCE,
            "logits_difference": self.parity.logits,
            "embedding_difference": self.parity.embedding,
        }
        return write_bundle(
            folder,
            "classification",
            architecture=self.architecture,
            labels=self.labels,
            input=self.form.as_metadata(),
            output={"embedding": self.embedding, **output},
            metrics={},
            data=self.data,
            licence="Apache-2.0",
            command=self.command,
            parity=parity if quantised is None else {**parity, "quantised": dict(quantised)},
        )


def load_networks(
    config: TrainConfig, labels: Mapping[str, Sequence[str]], weights: Path
) -> tuple[keras.Model, keras.Model]:
    """The network as it was trained, and the same one folded."""
    heads = {head: len(names) for head, names in labels.items()}
    network = build_network(
        config.backbone, heads, dropout=config.dropout, input_hw=config.input_hw
    )
    network.load_weights(weights)
    folded = build_network(config.backbone, heads, input_hw=config.input_hw, folded=True)
    fold(network, folded)
    return network, folded


def input_form(config: TrainConfig) -> InputForm:
    """What the network of a run takes. Grey networks learnt light garments on black."""
    grey = BACKBONES[config.backbone].channels == 1
    return InputForm(config.input_hw, channels=GREY if grey else RGB, inverted=grey)


def labels_of(config: TrainConfig, taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    """Head → labels: the attributes in the order they are reported, then the other heads."""
    names = sorted(config.heads, key=known_heads().index)
    return {name: head_of(name, taxonomy).labels for name in names}


def labels_metadata(labels: Mapping[str, Sequence[str]], taxonomy: Taxonomy) -> dict[str, Any]:
    """The `labels` of a bundle, with the tree where it answers all of its levels."""
    content: dict[str, Any] = {"attributes": {head: list(names) for head, names in labels.items()}}
    if set(TREE_LEVELS) <= set(labels):
        content["sub_category_of"] = dict(taxonomy.sub_category_of)
        content["master_category_of"] = dict(taxonomy.master_category_of)
    return content


def uncalibrated(labels: Iterable[str]) -> dict[str, Any]:
    """The `output` of a bundle on whose answers nothing is fitted."""
    heads = tuple(labels)
    return {
        "temperatures": dict.fromkeys(heads, 1.0),
        "thresholds": dict.fromkeys(heads, EVEN_CHANCE),
    }


def training_photos(
    datasets: Sequence[Photos], most: int = EMBEDDING_PHOTOS
) -> list[NDArray[np.uint8]]:
    """Up to `most` photos of each data set's `train` split, evenly spread over it."""
    photos = []
    for dataset in datasets:
        for sample in evenly(dataset.split("train"), most):
            try:
                photos.append(dataset.pixels(sample))
            except PermanentError as error:
                LOGGER.warning("skipped %s: %s", sample.item_id, error.message)
    return photos


def fit_embedding(
    network: keras.Model, photos: Sequence[NDArray[np.uint8]], form: InputForm, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The (F, E) kernel and (E,) bias that centre features and keep the principal components: as
    many as `size`, or all there are.
    """
    body = keras.Model(network.input, network.get_layer(FEATURES).output)
    parts = [
        keras.ops.convert_to_numpy(
            body.predict_on_batch(batch_of(photos[start : start + 64], form))
        )
        for start in range(0, len(photos), 64)
    ]
    return principal_components(np.concatenate(parts), size)


def principal_components(
    features: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, F) features → the (F, E) kernel and (E,) bias of their `count` principal components."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    kernel = vectors[:, ::-1][:, :count]
    return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)


def served_network(
    network: keras.Model, kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> keras.Model:
    """The network with the graph's outputs: `logits_<attribute>` and a unit `embedding`."""
    projection = layers.Dense(kernel.shape[1], name="embedding_projection")
    projected = projection(network.get_layer(FEATURES).output)
    projection.set_weights([kernel, bias])
    outputs = {LOGITS_PREFIX + head: logits for head, logits in network.output.items()}
    outputs[EMBEDDING] = layers.UnitNormalization(axis=-1, name=EMBEDDING)(projected)
    return keras.Model(network.input, outputs)


def export_graph(served: keras.Model, shape: tuple[int, int, int], path: Path) -> None:
    """Write the network as ONNX. shape: (C, H, W)."""
    names = list(served.output)
    write_graph(_TupleOutputs(served, names), shape, names, path)


class _TupleOutputs(torch.nn.Module):
    """ONNX outputs are a sequence; Keras's are a dictionary."""

    def __init__(self, network: keras.Model, names: Sequence[str]) -> None:
        super().__init__()
        self._network = network
        self._names = names

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self._network(images, training=False)
        return tuple(outputs[name] for name in self._names)


def parity_inputs(photos: Sequence[NDArray[np.uint8]], form: InputForm) -> NDArray[np.float32]:
    """Half noise, half photos: (N, C, H, W) float32."""
    real = batch_of(evenly(photos, PARITY_PHOTOS), form)
    noise = np.random.default_rng(0).uniform(-1, 1, (PARITY_PHOTOS, *form.shape))
    return np.concatenate([real, noise.astype(np.float32)])


def measure_parity(served: keras.Model, path: Path, inputs: NDArray[np.float32]) -> Parity:
    """Run graph and network on the same inputs."""
    expected = served.predict_on_batch(inputs)
    actual = OnnxSession(path).run({IMAGES: inputs})
    difference = {
        name: float(np.abs(keras.ops.convert_to_numpy(expected[name]) - actual[name]).max())
        for name in served.output
    }
    embedding = difference.pop(EMBEDDING)
    return Parity(logits=max(difference.values()), embedding=embedding)


def cited(config: TrainConfig, datasets: Sequence[Photos]) -> list[citations.Citation]:
    """The `data` of a bundle."""
    data = [CITATIONS[dataset.layout] for dataset in datasets]
    return [*data, citations.IMAGENET_WEIGHTS] if config.pretrained else data


def evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """Up to `most` of the items, evenly spread."""
    return items[:: max(1, -(-len(items) // most))]
