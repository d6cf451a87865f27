"""A bundle opens when it is whole, and names the file when it is not."""

from pathlib import Path

import pytest
import yaml

from tests.graphs import write_scaling_graph
from vision.bundle import (
    Bundle,
    open_bundle,
    resolve,
    resolve_optional,
    update_metrics,
    write_bundle,
)
from vision.errors import ErrorCode, PermanentError
from vision.session import OnnxSession


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_scaling_graph(folder / "model.onnx", factor=2.0)
    _write(folder)
    return folder


def _write(folder: Path, **changes: object) -> Bundle:
    content: dict = {
        "architecture": "y = 2x",
        "labels": {"classes": ["top"]},
        "input": {"height": 2},
        "output": {"threshold": 0.5},
        "metrics": {"accuracy": 0.9},
        "data": [{"name": "drawn", "licence": "CC0", "url": "https://example.org"}],
        "licence": "Apache-2.0",
        "command": "python -m detection train",
        "parity": {"tolerance": 1e-4, "measured": 1e-6},
    }
    return write_bundle(folder, "detection", **{**content, **changes})


def test_what_was_written_is_read_back(folder):
    bundle = open_bundle(folder, "detection")
    assert bundle.name == "tiny"
    assert bundle.labels == {"classes": ["top"]}
    assert bundle.parity == {"tolerance": 1e-4, "measured": 1e-6}
    assert len(bundle.version) == 16


def _fails(folder: Path, *, naming: str, task: str = "detection") -> str:
    with pytest.raises(PermanentError) as caught:
        open_bundle(folder, task)
    assert caught.value.code == ErrorCode.BUNDLE_INVALID
    assert naming in caught.value.message
    return caught.value.message


def test_one_flipped_byte_is_noticed(folder):
    graph = folder / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    assert "damaged" in _fails(folder, naming=str(graph))


def test_a_missing_graph_is_named(folder):
    (folder / "model.onnx").unlink()
    assert "missing" in _fails(folder, naming=str(folder / "model.onnx"))


def test_missing_metadata_is_named(folder):
    (folder / "model.yaml").unlink()
    _fails(folder, naming=str(folder / "model.yaml"))


@pytest.mark.parametrize("text", ["- a list", "a: [1", "\x80"])
def test_unreadable_metadata_is_named(folder, text):
    (folder / "model.yaml").write_bytes(text.encode("latin-1"))
    _fails(folder, naming=str(folder / "model.yaml"))


def test_a_bundle_of_another_task_is_refused(folder):
    assert "not 'style'" in _fails(folder, naming="model.yaml", task="style")


def test_a_bundle_of_another_format_is_refused(folder):
    path = folder / "model.yaml"
    path.write_text(path.read_text().replace("format: 1", "format: 99"))
    assert "format 99" in _fails(folder, naming="model.yaml")


@pytest.mark.parametrize("key", ["labels", "output", "licence", "parity", "files"])
def test_a_missing_section_is_named(folder, key):
    path = folder / "model.yaml"
    content = yaml.safe_load(path.read_text())
    del content[key]
    path.write_text(yaml.safe_dump(content))
    assert key in _fails(folder, naming="model.yaml")


def test_the_version_follows_what_decides_an_answer(folder):
    version = open_bundle(folder, "detection").version
    assert update_metrics(folder, "detection", {"accuracy": 0.1}).version == version
    assert _write(folder, output={"threshold": 0.6}).version != version
    assert _write(folder).version == version
    write_scaling_graph(folder / "model.onnx", factor=3.0)
    assert _write(folder).version != version


def test_resolve_lists_what_is_known(folder):
    assert resolve("tiny", "detection", folder.parent) == folder
    with pytest.raises(PermanentError, match="known: tiny"):
        resolve("large", "detection", folder.parent)


def test_default_is_what_the_defaults_file_names(folder):
    defaults = folder.parent / "defaults.yaml"
    defaults.write_text("detection: tiny\n")
    assert resolve("default", "detection", folder.parent) == folder
    with pytest.raises(PermanentError, match="names no default for style"):
        resolve("default", "style", folder.parent)


def test_a_graph_that_is_no_graph_fails_on_load_with_its_name(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(PermanentError, match=r"model\.onnx cannot be loaded"):
        OnnxSession(path).load()


def test_a_bundle_one_may_do_without(folder):
    weights = folder.parent
    (weights / "defaults.yaml").write_text("detection: tiny\n")
    assert resolve_optional("default", "detection", weights) == folder
    assert resolve_optional("tiny", "detection", weights) == folder
    for name, task in (("none", "detection"), (" ", "detection"), ("default", "style_attributes")):
        assert resolve_optional(name, task, weights) is None
    with pytest.raises(PermanentError, match="known: tiny"):
        resolve_optional("large", "detection", weights)
