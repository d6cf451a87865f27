from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vision.session import OnnxSession

keras = pytest.importorskip("keras")
pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
if keras.backend.backend() != "torch":
    pytest.skip("the export runs on Keras's torch backend", allow_module_level=True)

from classification.export import (  # noqa: E402
    export_graph,
    measure_parity,
    principal_components,
    served_network,
)
from classification.network import build_network, fold  # noqa: E402

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
