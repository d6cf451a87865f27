"""A real ONNX detector that tests can reason about: it finds cells of 32×32 red pixels.

Its one level has stride 32. A cell at column j and row i that is wholly red gives class 0, and a
wholly blue one class 1, with the box [32j, 32i, 32j + 32, 32i + 32] of the network's input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from vision.bundle import Bundle, write_bundle

CELL = 32
CLASSES = ("red", "blue")
# Pixels go in as (value - 127.5) / 127.5: a full channel is 1, an empty one -1, and padding 0. A
# logit is 10·(own channel - the two others) - 20 in the cell's mean: 10 for the pure colour, -10
# for black and -20 for padding. The score is the root of its sigmoid.
GAIN, BIAS = 10.0, -20.0


def write_red_cell_bundle(
    folder: Path, *, long_side: int = 96, min_score: float = 0.5, **changes: object
) -> Bundle:
    """The detector as a bundle; `changes` replace top-level metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_graph(folder / "model.onnx")
    metadata: dict[str, object] = {
        "architecture": "a convolution that sees red and blue",
        "labels": {"classes": list(CLASSES)},
        "input": {"long_side": long_side, "mean": [127.5] * 3, "std": [127.5] * 3},
        "output": {
            "strides": [CELL],
            "min_score": min_score,
            "evaluation_min_score": 0.05,
            "nms_iou": 0.6,
            "max_detections": 100,
        },
        "metrics": {},
        "data": [],
        "licence": "Apache-2.0",
        "command": "none",
        "parity": {},
    }
    return write_bundle(folder, "detection", **(metadata | changes))  # type: ignore[arg-type]


def _write_graph(path: Path) -> None:
    area = CELL * CELL
    signs = np.array([[1, -1, -1], [-1, -1, 1]], np.float32)
    class_kernel = np.tile(signs[:, :, None, None] * GAIN / area, (1, 1, CELL, CELL))
    nothing = np.zeros((5, 3, CELL, CELL), np.float32)
    # From the middle of the cell: half a stride to every side.
    box_and_centre = np.array([0.5, 0.5, 0.5, 0.5, 20], np.float32)
    constants = {
        "kernel": np.concatenate((class_kernel, nothing)).astype(np.float32),
        "bias": np.concatenate(([BIAS] * 2, box_and_centre)).astype(np.float32),
        "rows": np.array([0, 7, -1], np.int64),
        "parts": np.array([2, 4, 1], np.int64),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "kernel", "bias"], ["maps"], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["maps", "rows"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["cells"], perm=[0, 2, 1]),
        helper.make_node(
            "Split", ["cells", "parts"], ["class_logits", "distances", "centre"], axis=2
        ),
        helper.make_node("Squeeze", ["centre", "last"], ["centerness"]),
    ]
    shapes = {
        "class_logits": ["n", "r", len(CLASSES)],
        "distances": ["n", "r", 4],
        "centerness": ["n", "r"],
    }
    graph = helper.make_graph(
        nodes,
        "red_cells",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, path)
