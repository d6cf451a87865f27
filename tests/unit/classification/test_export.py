from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from classification.config import TrainConfig
from vision.session import OnnxSession

keras = pytest.importorskip("keras")
pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
if keras.backend.backend() != "torch":
    pytest.skip("the export runs on Keras's torch backend", allow_module_level=True)

from classification.export import (  # noqa: E402
    export,
    export_graph,
    measure_parity,
    principal_components,
    served_network,
)
from classification.network import build_network, fold  # noqa: E402
from classification.photos import as_photo, open_photos  # noqa: E402
from classification.predictor import AttributeClassifier  # noqa: E402
from tests.unit.classification.brightness import idx, images_of  # noqa: E402

HEADS = {"gender": 5, "season": 4}
SIZE_HW = (64, 48)


@pytest.fixture
def channels_first() -> object:
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


def test_principal_components_find_the_direction_of_most_variance() -> None:
    # Points on the line (1, 2)/√5 around (5, 5), with a little of (2, -1)/√5.
    rng = np.random.default_rng(0)
    along, across = rng.normal(0, 10, 500), rng.normal(0, 0.1, 500)
    direction, other = np.array([1, 2]) / np.sqrt(5), np.array([2, -1]) / np.sqrt(5)
    features = (5 + np.outer(along, direction) + np.outer(across, other)).astype(np.float32)

    kernel, bias = principal_components(features, 1)

    np.testing.assert_allclose(np.abs(kernel[:, 0]), direction, atol=1e-3)
    assert abs(float((features @ kernel + bias).mean())) < 1e-2


@pytest.mark.usefixtures("channels_first")
def test_the_graph_answers_as_the_network(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    network = build_network("efficientnet_lite0", HEADS, dropout=0.2)
    folded = build_network("efficientnet_lite0", HEADS, input_hw=SIZE_HW, folded=True)
    fold(network, folded)
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(1280, 16)).astype(np.float32), np.ones(16, np.float32)
    path = tmp_path / "model.onnx"
    images = rng.uniform(-1, 1, (5, 3, *SIZE_HW)).astype(np.float32)

    export_graph(served_network(folded, *embedding), (3, *SIZE_HW), path)

    parity = measure_parity(served_network(network, *embedding), path, images)
    assert parity.holds
    outputs = OnnxSession(path).run({"images": images})
    assert {name: values.shape for name, values in outputs.items()} == {
        "logits_gender": (5, 5),
        "logits_season": (5, 4),
        "embedding": (5, 16),
    }
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("channels_first")
@pytest.mark.parametrize("backbone", ["convnext_tiny", "vgg19_bn", "resnet18"])
def test_the_other_backbones_are_exported_too(tmp_path: Path, backbone: str) -> None:
    keras.utils.set_random_seed(0)
    network = build_network(backbone, HEADS, input_hw=SIZE_HW)
    folded = build_network(backbone, HEADS, input_hw=SIZE_HW, folded=True)
    fold(network, folded)
    features = network.get_layer("features").output.shape[-1]
    embedding = np.eye(features, 16, dtype=np.float32), np.zeros(16, np.float32)
    path = tmp_path / "model.onnx"
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, *SIZE_HW)).astype(np.float32)

    export_graph(served_network(folded, *embedding), (3, *SIZE_HW), path)

    assert measure_parity(served_network(network, *embedding), path, images).holds


@pytest.mark.usefixtures("channels_first")
def test_the_graph_has_no_batch_norm_and_no_transpose(tmp_path: Path) -> None:
    folded = build_network("efficientnet_lite0", HEADS, input_hw=SIZE_HW, folded=True)
    embedding = np.ones((1280, 16), np.float32), np.ones(16, np.float32)
    path = tmp_path / "model.onnx"

    export_graph(served_network(folded, *embedding), (3, *SIZE_HW), path)

    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    # Stem, 15 expansions, 16 depthwise and 16 projections, top; five strides that pad.
    assert (kinds["Conv"], kinds["Clip"], kinds["Pad"]) == (49, 33, 5)
    assert not {"Transpose", "BatchNormalization", "Shape"} & set(kinds)
    assert not list(tmp_path.glob("*.raw.onnx"))


def write_fashion_mnist(folder: Path, count: int) -> Path:
    """Images that are as bright as their class is high."""
    classes = np.arange(count) % 10
    for name, values in (
        ("images-idx3", images_of(classes.tolist())),
        ("labels-idx1", classes),
    ):
        (folder / f"train-{name}-ubyte").write_bytes(idx(values))
    return folder


@pytest.mark.usefixtures("channels_first")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_grey_network_of_one_head_becomes_a_bundle(tmp_path: Path, precision: str) -> None:
    keras.utils.set_random_seed(0)
    config = TrainConfig(
        name="tiny",
        backbone="fashion_mnist_mlp",
        heads={"fashion_mnist": 1.0},
        input_hw=(28, 28),
        photos_per_batch={"fashion_mnist": 8},
        embedding=16,
    )
    weights = tmp_path / "tiny.weights.h5"
    network = build_network(
        config.backbone, {"fashion_mnist": 10}, dropout=0.2, input_hw=config.input_hw
    )
    network.save_weights(weights)
    photos = open_photos(write_fashion_mnist(tmp_path, 600))

    bundle = export(config, weights, [photos], tmp_path / "tiny", "none", precision)

    assert bundle.input["channels"] == "grey"
    assert bundle.input["inverted"] is True
    assert list(bundle.labels["attributes"]) == ["fashion_mnist"]
    assert bundle.data[0]["name"] == "Fashion-MNIST"
    classifier = AttributeClassifier(bundle)
    image = images_of([6])
    expected = keras.ops.convert_to_numpy(
        network.predict_on_batch(image[:, None].astype(np.float32) / 127.5 - 1)["fashion_mnist"]
    )
    actual = classifier.raw([as_photo(image[0])])
    tolerance = 1e-4 if precision == "fp32" else 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(actual.logits["fashion_mnist"], expected, atol=tolerance)
    assert actual.embedding.shape == (1, 16)
    assert ("quantised" in bundle.parity) == (precision == "int8")
    if precision == "int8":
        told = bundle.parity["quantised"]
        assert told["bytes"] == bundle.graph_path.stat().st_size
        accuracy = told["accuracy"]["fashion_mnist"]
        assert accuracy["photos"] == len(photos.split("validation"))
        assert 0 <= accuracy["after"]["fashion_mnist"] <= 1
