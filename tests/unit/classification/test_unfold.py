"""Networks rebuilt from the bundles that ship, on whichever Keras backend runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classification.preprocess import InputForm
from vision.bundle import WEIGHTS_DIR, Bundle, open_bundle
from vision.errors import PermanentError
from vision.session import OnnxSession

keras = pytest.importorskip("keras")
pytest.importorskip("onnx")

from classification.layers import channel_axis  # noqa: E402
from classification.network import build_network  # noqa: E402
from classification.predictor import IMAGES, LOGITS_PREFIX  # noqa: E402
from classification.quantise import FP16, INT8_WEIGHTS, convert  # noqa: E402
from classification.unfold import graph_layers, unfold  # noqa: E402

RNG = np.random.default_rng(0)


def shipped(name: str) -> Bundle:
    return open_bundle(WEIGHTS_DIR / name, "classification")


def heads_of(bundle: Bundle) -> dict[str, int]:
    return {name: len(labels) for name, labels in bundle.labels["attributes"].items()}


def photos(bundle: Bundle, count: int = 24) -> np.ndarray:
    """(N, C, H, W) smooth random pictures."""
    depth, height, width = InputForm.from_metadata(bundle.input).shape
    coarse = RNG.uniform(-1, 1, (count, depth, 4, 4)).astype(np.float32)
    return coarse.repeat(-(-height // 4), 2).repeat(-(-width // 4), 3)[..., :height, :width]


def as_input(images: np.ndarray) -> np.ndarray:
    return images if channel_axis() == 1 else images.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("name", "backbone", "tolerance"),
    [
        ("fashion_mnist_small", "fashion_mnist_small", 1e-3),
        # The graph rounds to int8 in every layer; the network does not.
        ("resnet_65", "resnet18", 1.0),
        ("convnext_tiny", "convnext_tiny", 1e-2),
    ],
)
def test_a_network_from_a_bundle_answers_as_the_bundle(
    name: str, backbone: str, tolerance: float
) -> None:
    bundle = shipped(name)
    form, heads = InputForm.from_metadata(bundle.input), heads_of(bundle)
    keras.utils.set_random_seed(0)
    network = build_network(backbone, heads, dropout=0.1, input_hw=form.size_hw)
    images = photos(bundle)

    filled = unfold(network, bundle, [as_input(images)])

    assert filled == list(heads)
    expected = OnnxSession(bundle.graph_path).run({IMAGES: images})
    actual = network.predict_on_batch(as_input(images))
    for head in heads:
        logits = keras.ops.convert_to_numpy(actual[head])
        assert np.abs(logits - expected[LOGITS_PREFIX + head]).max() < tolerance


def test_batch_norms_see_in_training_what_they_expect() -> None:
    bundle = shipped("fashion_mnist_small")
    network = build_network("fashion_mnist_small", heads_of(bundle), input_hw=(28, 28))
    images = as_input(photos(bundle, 64))

    unfold(network, bundle, [images])

    inference = keras.ops.convert_to_numpy(network(images, training=False)["fashion_mnist"])
    statistics_of_the_batch = network(images, training=True)["fashion_mnist"]
    training = keras.ops.convert_to_numpy(keras.ops.stop_gradient(statistics_of_the_batch))
    # The statistics are those of these very photos, so that both answers are the same.
    np.testing.assert_allclose(training, inference, atol=0.05)


def test_a_new_head_keeps_its_fresh_weights() -> None:
    bundle = shipped("fashion_mnist_small")
    heads = {**heads_of(bundle), "season": 4}
    network = build_network("fashion_mnist_small", heads, input_hw=(28, 28))
    fresh = network.get_layer("season").get_weights()[0]

    assert unfold(network, bundle, [as_input(photos(bundle))]) == ["fashion_mnist"]

    np.testing.assert_array_equal(network.get_layer("season").get_weights()[0], fresh)


def test_another_backbones_bundle_is_refused() -> None:
    bundle = shipped("fashion_mnist_small")
    network = build_network("resnet18", {"gender": 5})

    with pytest.raises(PermanentError, match="nothing of the shape of conv1"):
        unfold(network, bundle, [])


def test_a_bundle_without_layer_norms_is_refused_for_convnext() -> None:
    bundle = shipped("resnet_65")
    network = build_network("convnext_tiny", {"gender": 5})

    with pytest.raises(PermanentError, match="cannot be gone on from"):
        unfold(network, bundle, [])


@pytest.mark.parametrize(("precision", "tolerance"), [(FP16, 1e-3), (INT8_WEIGHTS, 5e-3)])
def test_narrow_weights_are_widened(tmp_path: Path, precision: str, tolerance: float) -> None:
    bundle = shipped("fashion_mnist_small")
    narrow = tmp_path / bundle.graph_path.name
    convert(bundle.graph_path, narrow, precision)

    class Narrow:
        graph_path = narrow

    exact, widened = graph_layers(bundle), graph_layers(Narrow())  # type: ignore[arg-type]

    assert [layer.head for layer in widened] == [layer.head for layer in exact]
    for layer, wide in zip(exact, widened, strict=True):
        greatest = np.abs(layer.kernel).max()
        assert np.abs(layer.kernel - wide.kernel).max() <= tolerance * greatest
        np.testing.assert_array_equal(layer.bias, wide.bias)
