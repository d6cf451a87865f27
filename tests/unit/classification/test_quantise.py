from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vision.errors import ErrorCode, PermanentError
from vision.session import OnnxSession

onnx = pytest.importorskip("onnx")

from classification.quantise import compare, convert, quantised_metadata  # noqa: E402
from tests.unit.classification.brightness import images_of, write_brightness_bundle  # noqa: E402

SHAPE = (3, 32, 24)
RNG = np.random.default_rng(0)


def write_network(path: Path) -> None:
    """Two convolutions, a mean, a head and a normalised embedding, with random weights."""
    from onnx import TensorProto, helper, numpy_helper

    def weights(*shape: int) -> np.ndarray:
        # Channels of very different reach, which one scale for all would not do justice.
        reach = np.geomspace(0.01, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        return (RNG.normal(size=shape) * reach / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w1": weights(48, 3, 3, 3),
        "w2": weights(64, 48, 3, 3),
        "head": RNG.normal(size=(64, 20)).astype(np.float32),
        "projection": RNG.normal(size=(64, 16)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("ReduceMean", ["r2"], ["features"], "mean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["features", "head"], ["logits_x"], "head_node"),
        helper.make_node("MatMul", ["features", "projection"], ["projected"], "projection_node"),
        helper.make_node("LpNormalization", ["projected"], ["embedding"], "unit", axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *SHAPE])],
        [
            helper.make_tensor_value_info("logits_x", TensorProto.FLOAT, ["batch", 20]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 16]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    path = tmp_path / "exact.onnx"
    write_network(path)
    return path


def inputs(count: int = 32) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (count, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize(
    ("precision", "share", "tolerance"),
    # Half the bytes at 11 bits, a quarter at 8 bits; the head stays as it is in `int8`.
    [("fp16", 0.55, 2e-3), ("int8_weights", 0.35, 2e-2), ("int8", 0.6, 0.1)],
)
def test_a_narrower_graph_is_smaller_and_answers_nearly_the_same(
    tmp_path: Path, exact: Path, precision: str, share: float, tolerance: float
) -> None:
    narrow = tmp_path / "narrow.onnx"

    convert(exact, narrow, precision, inputs())

    assert narrow.stat().st_size < share * exact.stat().st_size
    images = inputs(5)
    expected = OnnxSession(exact).run({"images": images})
    actual = OnnxSession(narrow).run({"images": images})
    for name, values in expected.items():
        assert np.abs(actual[name] - values).max() < tolerance * np.abs(values).max()
    np.testing.assert_allclose(np.linalg.norm(actual["embedding"], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "int8_weights"])
def test_narrow_weights_are_widened_when_the_graph_is_loaded(
    tmp_path: Path, exact: Path, precision: str
) -> None:
    import onnxruntime as ort

    narrow, loaded = tmp_path / "narrow.onnx", tmp_path / "loaded.onnx"
    convert(exact, narrow, precision)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(loaded)

    ort.InferenceSession(str(narrow), options, providers=["CPUExecutionProvider"])

    assert "Cast" in {node.op_type for node in onnx.load(narrow).graph.node}
    assert not {"Cast", "Mul"} & {node.op_type for node in onnx.load(loaded).graph.node}


def test_int8_leaves_the_layers_that_decide_alone(tmp_path: Path, exact: Path) -> None:
    narrow = tmp_path / "narrow.onnx"

    convert(exact, narrow, "int8", inputs())

    graph = onnx.load(narrow).graph
    kept = {tensor.name for tensor in graph.initializer if tensor.data_type == 1}
    assert {"head", "projection"} <= kept
    assert not {"w1", "w2"} & kept
    assert {output.name for output in graph.output} == {"logits_x", "embedding"}


def test_fp32_is_the_graph_itself(tmp_path: Path, exact: Path) -> None:
    convert(exact, tmp_path / "same.onnx", "fp32")

    assert onnx.load(tmp_path / "same.onnx") == onnx.load(exact)


@pytest.mark.parametrize(
    ("precision", "calibration", "said"),
    [
        ("int4", None, "unknown precision 'int4'; known: fp32, fp16, int8, int8_weights"),
        ("int8", None, "needs at least 16 photos"),
        ("int8", inputs(15), "needs at least 16 photos"),
    ],
)
def test_what_cannot_be_converted_says_why(
    tmp_path: Path, exact: Path, precision: str, calibration: np.ndarray | None, said: str
) -> None:
    with pytest.raises(PermanentError, match=said) as raised:
        convert(exact, tmp_path / "narrow.onnx", precision, calibration)

    assert raised.value.code is ErrorCode.VALIDATION_ERROR


def test_weights_that_float16_cannot_hold_are_named(tmp_path: Path, exact: Path) -> None:
    from onnx import numpy_helper

    model = onnx.load(exact)
    (head,) = (tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + 1e6, "head"))
    onnx.save(model, exact)

    with pytest.raises(PermanentError, match="head has weights over 65504"):
        convert(exact, tmp_path / "narrow.onnx", "fp16")


class Labelled:
    """Images by their class, of which the first is labelled wrongly."""

    layout = "fashion_mnist"
    skipped = ()

    def split(self, name: str) -> tuple[object, ...]:
        from classification.datasets import Sample
        from classification.fashion_mnist import LABELS

        assert name == "validation"
        return tuple(
            Sample("train", str(shown), "", {"fashion_mnist": (LABELS[told],)})
            for shown, told in [(0, 1), (3, 3), (5, 5), (9, 9)]
        )

    def pixels(self, sample) -> np.ndarray:
        from classification.photos import as_photo

        return as_photo(images_of([int(sample.item_id)])[0])


def test_two_bundles_are_compared_on_the_same_photos(tmp_path: Path) -> None:
    bundle = write_brightness_bundle(tmp_path / "grey")

    compared = compare(bundle, bundle, [Labelled()])

    assert compared == {
        "fashion_mnist": {
            "photos": 4,
            "before": {"fashion_mnist": 0.75},
            "after": {"fashion_mnist": 0.75},
        }
    }
    told = quantised_metadata("fp16", bundle.graph_path, compared)
    assert told == {
        "precision": "fp16",
        "bytes": bundle.graph_path.stat().st_size,
        "accuracy": compared,
    }
