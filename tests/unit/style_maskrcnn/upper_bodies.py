"""An upper-body bundle whose graph looks at nothing but how light a region is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from style_maskrcnn.upper_body.answers import AnswerSpec, GroupSpec
from style_maskrcnn.upper_body.predictor import INPUT, OUTPUT
from style_maskrcnn.upper_body.region import RegionSpec
from vision.bundle import GRAPH, Bundle, write_bundle

SPEC = AnswerSpec(
    (
        GroupSpec("collar", ("no", "yes")),
        GroupSpec("solid", ("no", "yes"), is_pattern=True),
        GroupSpec("striped", ("no", "yes"), is_pattern=True),
    )
)
REGION = RegionSpec(margin_side=0, margin_top=0, margin_bottom=0, height=16, width=16)


def write_upper_body_bundle(folder: Path) -> Bundle:
    """Light regions have a collar and are solid, dark ones have none and are striped.

    logits: (no, yes) of each group, ± 4 times how much lighter than mid-grey the region is.
    """
    signs = np.array([[-4, 4, -4, 4, 4, -4]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", [INPUT], ["light"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["light", "axis"], ["column"]),
        helper.make_node("MatMul", ["column", "signs"], [OUTPUT]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(signs, "signs"),
    ]
    shape = ["K", 3, REGION.height, REGION.width]
    graph = helper.make_graph(
        nodes,
        "light",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["K", signs.shape[1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True)
    save(model, folder / GRAPH)
    return write_bundle(
        folder,
        "style_attributes",
        architecture="mean",
        labels=SPEC.labels_to_bundle(),
        input=REGION.to_bundle(),
        output=SPEC.output_to_bundle(),
        metrics={},
        data=[],
        licence="none",
        command="drawn",
        parity={},
    )
