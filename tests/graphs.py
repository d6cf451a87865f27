"""Tiny ONNX graphs that tests run for real."""

from pathlib import Path

from onnx import TensorProto, helper, save


def write_scaling_graph(path: Path, factor: float) -> None:
    """`y = factor · x` for a vector of any length."""
    factor_value = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        initializer=[factor_value],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, path)
