"""A real ONNX classifier that tests can reason about: it answers by a crop's mean colour.

Pixels go in as value / 127.5 - 1, so the mean of a pure channel is 1 and that of an empty one -1.
A logit is `GAIN` times the sum of the channel means that its label is tied to, with their signs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from vision.bundle import Bundle, write_bundle
from vision.garments import ATTRIBUTES

GAIN = 5.0
SIZE_HW = (128, 96)
# attribute → label → weights of the red, green and blue means.
LABELS: dict[str, dict[str, tuple[int, int, int]]] = {
    "gender": {"Men": (0, 0, 1), "Women": (1, 0, 0)},
    "master_category": {"Apparel": (0, -1, 0), "Footwear": (0, 1, 0)},
    "sub_category": {"Topwear": (1, 0, 0), "Bottomwear": (0, 0, 1), "Shoes": (0, 1, 0)},
    "article_type": {
        "Tshirts": (1, -1, -1),
        "Shirts": (1, 0, -1),
        "Jeans": (-1, -1, 1),
        "Heels": (-1, 1, -1),
    },
    "base_colour": {"Red": (1, -1, -1), "Green": (-1, 1, -1), "Blue": (-1, -1, 1)},
    "season": {"Summer": (1, 0, 0), "Winter": (0, 0, 1)},
    "usage": {"Casual": (1, 0, 1), "Party": (0, 1, 0)},
}
SUB_CATEGORY_OF = {
    "Tshirts": "Topwear",
    "Shirts": "Topwear",
    "Jeans": "Bottomwear",
    "Heels": "Shoes",
}
MASTER_CATEGORY_OF = {"Topwear": "Apparel", "Bottomwear": "Apparel", "Shoes": "Footwear"}


def write_mean_colour_bundle(folder: Path, *, threshold: float = 0.5, **changes: object) -> Bundle:
    """The classifier as a bundle; `changes` replace top-level metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_graph(folder / "model.onnx")
    metadata: dict[str, object] = {
        "architecture": "mean colour",
        "labels": {
            "attributes": {name: list(labels) for name, labels in LABELS.items()},
            "sub_category_of": SUB_CATEGORY_OF,
            "master_category_of": MASTER_CATEGORY_OF,
        },
        "input": {"height": SIZE_HW[0], "width": SIZE_HW[1]},
        "output": {
            "embedding": 3,
            "temperatures": dict.fromkeys(ATTRIBUTES, 1.0),
            "thresholds": dict.fromkeys(ATTRIBUTES, threshold),
        },
        "metrics": {},
        "data": [],
        "licence": "Apache-2.0",
        "command": "none",
        "parity": {},
    }
    return write_bundle(folder, "classification", **(metadata | changes))  # type: ignore[arg-type]


def _write_graph(path: Path) -> None:
    constants = {
        f"{name}_weights": GAIN * np.array(list(labels.values()), np.float32).T
        for name, labels in LABELS.items()
    }
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("LpNormalization", ["means"], ["embedding"], axis=1, p=2),
        *(
            helper.make_node("MatMul", ["means", f"{name}_weights"], [f"logits_{name}"])
            for name in LABELS
        ),
    ]
    outputs = [("embedding", 3), *((f"logits_{name}", len(v)) for name, v in LABELS.items())]
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *SIZE_HW])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", c]) for n, c in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
