"""A style bundle whose graph always gives the same answer, so that all around it can be tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from style_maskrcnn.postprocess import GroupSpec, OutputSpec
from style_maskrcnn.preprocess import InputSpec
from vision.bundle import GRAPH, Bundle, write_bundle

SPEC = OutputSpec(
    class_names=("dress", "bag", "wedges"),
    coarse_of_class=("dress", "bag", "footwear"),
    groups=(GroupSpec("usage", ("Casual", "Sports"), min_confidence=0.6),),
    serving_score=0.5,
)
LONG_SIDE = 96


def write_style_bundle(
    folder: Path,
    boxes: list[list[float]],
    scores: list[float],
    class_ids: list[int],
    usage_logits: list[list[float]],
) -> Bundle:
    """A bundle that finds these full boxes in every photo, in pixels of its 96-pixel input."""
    count = len(scores)
    answers: dict[str, NDArray[np.generic]] = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32),
        "class_ids": np.array(class_ids, np.int64),
        "masks": np.ones((count, 28, 28), np.float32),
        "attributes": np.array(usage_logits, np.float32).reshape(-1, 2),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in answers.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])
    outputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
        )
        for name, value in answers.items()
    ]
    graph = helper.make_graph(nodes, "constant", [image], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True)
    save(model, folder / GRAPH)
    return write_bundle(
        folder,
        "style",
        architecture="constant",
        labels=SPEC.labels_to_bundle(),
        input=InputSpec(LONG_SIDE).to_bundle(),
        output=SPEC.output_to_bundle(),
        metrics={},
        data=[],
        licence="none",
        command="drawn",
        parity={},
    )


def two_garments(folder: Path) -> Bundle:
    """Finds the dress and the bag of `DRESS` and `BAG`, and a doubtful pair of wedges."""
    return write_style_bundle(
        folder,
        [list(DRESS), list(BAG), [4, 80, 20, 92]],
        [0.9, 0.8, 0.1],
        [0, 1, 2],
        [[2.0, 0.0], [0.0, 0.1], [0.0, 2.0]],
    )


DRESS = (20, 20, 50, 70)
BAG = (4, 40, 16, 60)
