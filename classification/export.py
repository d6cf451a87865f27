"""From a finished run to a bundle: ONNX graph, parity, embedding, temperatures, figures.

Runs on Keras's torch backend in channels_first, the layout ONNX's convolutions have, so that the
graph holds no transposes. Weights trained on another backend load as they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import onnxruntime as ort
import torch
from keras import layers
from numpy.typing import NDArray

from classification.calibrate import fit_temperatures
from classification.config import TrainConfig
from classification.datasets import HOME_PHOTOS, PRODUCTS, PhotoDataset, Sample, encode
from classification.evaluate import run
from classification.network import FEATURES, build_network, fold
from classification.predictor import EMBEDDING, IMAGES, LOGITS_PREFIX, AttributeClassifier
from classification.preprocess import MEAN, STD, batch_of
from training import citations
from vision.bundle import GRAPH, Bundle, write_bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES
from vision.session import OnnxSession
from vision.taxonomy import Taxonomy, load_taxonomy

LOGGER = logging.getLogger(__name__)

OPSET = 17
# Logits are of the order of 10: float32 sums taken in another order stay well below this.
TOLERANCE = 1e-3
# Under an even chance an answer is more likely wrong than right.
THRESHOLD = 0.5
# Photos of each training set that the embedding's principal components are fitted on.
EMBEDDING_PHOTOS = 4000
PARITY_PHOTOS = 64

CITATIONS = {PRODUCTS: citations.PRODUCTS, HOME_PHOTOS: citations.HOME_PHOTOS}


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
    datasets: Sequence[PhotoDataset],
    folder: Path,
    command: str,
) -> Bundle:
    """Write the bundle at `folder` from a run's weights.

    The embedding is fitted on `train` photos of all data sets, the temperatures on the
    `calibration` photos of the products. The model card is written by hand.

    Raises `PermanentError` (`validation_error`) when a head is missing, and `ValueError` when the
    graph differs from its network by more than the tolerance.
    """
    missing = [attribute for attribute in ATTRIBUTES if attribute not in config.heads]
    if missing:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR, f"a bundle needs every head; missing: {', '.join(missing)}"
        )
    taxonomy = load_taxonomy()
    heads = {head: len(taxonomy.labels_of(head)) for head in config.heads}
    network = build_network(config.backbone, heads, dropout=config.dropout)
    network.load_weights(weights)
    folded = build_network(config.backbone, heads, input_hw=config.input_hw, folded=True)
    fold(network, folded)
    photos = training_photos(datasets)
    embedding = fit_embedding(folded, photos, config)
    folder.mkdir(parents=True, exist_ok=True)
    export_graph(served_network(folded, *embedding), config.input_hw, folder / GRAPH)
    served = served_network(network, *embedding)
    parity = measure_parity(served, folder / GRAPH, parity_inputs(photos, config.input_hw))
    if not parity.holds:
        raise ValueError(f"the exported graph differs from its network: {parity}")

    def write(temperatures: Mapping[str, float]) -> Bundle:
        return _write(config, folder, datasets, taxonomy, parity, temperatures, command)

    draft = write(dict.fromkeys(ATTRIBUTES, 1.0))
    products = next(dataset for dataset in datasets if dataset.layout == PRODUCTS)
    return write(calibrated_temperatures(draft, products, taxonomy))


def calibrated_temperatures(
    bundle: Bundle, products: PhotoDataset, taxonomy: Taxonomy
) -> dict[str, float]:
    """Temperatures fitted on what the exported graph says of the `calibration` products."""
    classifier = AttributeClassifier(bundle)
    samples, logits, _ = run(classifier, products, products.split("calibration"))
    accepted = encode(samples, ATTRIBUTES, taxonomy)
    temperatures = fit_temperatures(classifier.decoder, logits, accepted)
    LOGGER.info("temperatures on %d photos: %s", len(samples), temperatures)
    return temperatures


def training_photos(
    datasets: Sequence[PhotoDataset], most: int = EMBEDDING_PHOTOS
) -> list[NDArray[np.uint8]]:
    """Up to `most` photos of each data set's `train` split, evenly spread over it."""
    photos = []
    for dataset in datasets:
        samples: tuple[Sample, ...] = dataset.split("train")
        for sample in samples[:: max(1, -(-len(samples) // most))]:
            try:
                photos.append(dataset.pixels(sample))
            except PermanentError as error:
                LOGGER.warning("skipped %s: %s", sample.item_id, error.message)
    return photos


def fit_embedding(
    network: keras.Model, photos: Sequence[NDArray[np.uint8]], config: TrainConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The (F, E) kernel and (E,) bias that centre features and keep the principal components."""
    body = keras.Model(network.input, network.get_layer(FEATURES).output)
    parts = [
        keras.ops.convert_to_numpy(
            body.predict_on_batch(batch_of(photos[start : start + 64], config.input_hw))
        )
        for start in range(0, len(photos), 64)
    ]
    return principal_components(np.concatenate(parts), config.embedding)


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


def export_graph(served: keras.Model, input_hw: tuple[int, int], path: Path) -> None:
    """Write the network as ONNX with a free batch size, its constants folded."""
    names = list(served.output)
    raw = path.with_suffix(".raw.onnx")
    with warnings.catch_warnings():
        # Keras compares shapes in Python, which tracing warns of; only the batch size varies.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _TupleOutputs(served, names).eval(),
            (torch.zeros(2, 3, *input_hw),),
            str(raw),
            input_names=[IMAGES],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in (IMAGES, *names)},
            opset_version=OPSET,
            dynamo=False,
        )
    options = ort.SessionOptions()
    # The basic level folds constants and paddings and leaves standard ONNX operators.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
    raw.unlink()


class _TupleOutputs(torch.nn.Module):
    """ONNX outputs are a sequence; Keras's are a dictionary."""

    def __init__(self, network: keras.Model, names: Sequence[str]) -> None:
        super().__init__()
        self._network = network
        self._names = names

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self._network(images, training=False)
        return tuple(outputs[name] for name in self._names)


def parity_inputs(
    photos: Sequence[NDArray[np.uint8]], input_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """Half noise, half photos: (N, 3, H, W) float32."""
    chosen = photos[:: max(1, len(photos) // PARITY_PHOTOS)][:PARITY_PHOTOS]
    real = batch_of(chosen, input_hw)
    noise = np.random.default_rng(0).uniform(-1, 1, (PARITY_PHOTOS, 3, *input_hw))
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


def _write(
    config: TrainConfig,
    folder: Path,
    datasets: Sequence[PhotoDataset],
    taxonomy: Taxonomy,
    parity: Parity,
    temperatures: Mapping[str, float],
    command: str,
) -> Bundle:
    data = [CITATIONS[dataset.layout] for dataset in datasets]
    return write_bundle(
        folder,
        "classification",
        architecture=f"{config.backbone}, seven softmax heads on pooled features (Keras)",
        labels={
            "attributes": {name: list(taxonomy.labels_of(name)) for name in ATTRIBUTES},
            "sub_category_of": dict(taxonomy.sub_category_of),
            "master_category_of": dict(taxonomy.master_category_of),
        },
        input={
            "height": config.input_hw[0],
            "width": config.input_hw[1],
            "layout": "NCHW",
            "channels": "RGB",
            "padding": "white",
            "mean": MEAN,
            "std": STD,
        },
        output={
            "embedding": config.embedding,
            "temperatures": dict(temperatures),
            "thresholds": dict.fromkeys(ATTRIBUTES, THRESHOLD),
        },
        metrics={},
        data=[*data, citations.IMAGENET_WEIGHTS] if config.pretrained else data,
        licence="Apache-2.0",
        command=command,
        parity={
            "against": "Keras network, torch backend, float32",
            "inputs": 2 * PARITY_PHOTOS,
            "tolerance": TOLERANCE,
            "logits_difference": parity.logits,
            "embedding_difference": parity.embedding,
        },
    )
