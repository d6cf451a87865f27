"""The one ONNX Runtime wiring."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.graphs import write_scaling_graph
from vision.session import OnnxSession


def test_outputs_come_by_name(tmp_path):
    write_scaling_graph(tmp_path / "model.onnx", factor=3.0)
    session = OnnxSession(tmp_path / "model.onnx", threads=1)
    outputs = session.run({"x": np.array([1, 2], np.float32)})
    assert outputs.keys() == {"y"}
    assert outputs["y"].tolist() == [3.0, 6.0]


def test_many_threads_load_once(tmp_path):
    write_scaling_graph(tmp_path / "model.onnx", factor=1.0)
    session = OnnxSession(tmp_path / "model.onnx", threads=1)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: session.load(), range(32)))
    assert all(one is loaded[0] for one in loaded)


def test_it_loads_anew_after_close(tmp_path):
    write_scaling_graph(tmp_path / "model.onnx", factor=2.0)
    session = OnnxSession(tmp_path / "model.onnx")
    first = session.load()
    session.close()
    assert session.load() is not first
    assert session.run({"x": np.ones(1, np.float32)})["y"].tolist() == [2.0]
