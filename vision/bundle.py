"""A model bundle: one folder with the weights, what they mean, and how well they do.

`model.onnx` holds the graph (of a bundle whose runtime is `detectron2`, `config.yaml` and
`model_final.pth` hold the network as Detectron2 left it); `model.yaml` the labels, input, output,
metrics, data and licence, with the SHA-256 of every other file; `README.md` is the model card. A
bundle that is damaged or of another task fails when it is opened, and the error names the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vision.errors import ErrorCode, PermanentError

Runtime = Literal["onnx", "detectron2"]
Task = Literal["classification", "detection", "style", "style_attributes"]

FORMAT = 1
METADATA = "model.yaml"
GRAPH = "model.onnx"
DETECTRON2_CONFIG = "config.yaml"
DETECTRON2_WEIGHTS = "model_final.pth"
DEFAULTS = "defaults.yaml"

# The files without which a bundle of a runtime cannot answer.
NEEDED_FILES: Mapping[str, tuple[str, ...]] = {
    "onnx": (GRAPH,),
    "detectron2": (DETECTRON2_CONFIG, DETECTRON2_WEIGHTS),
}
WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files have been checked.

    name: the folder's name. runtime: what runs it. architecture: what the network is, for people.
    labels, input, output: what the task's predictor needs to know (label lists; size and
    normalisation; thresholds and temperatures). metrics: figures its `evaluate` printed. data: what
    it was trained on, each with name, licence and url. parity: how far the graph may differ and
    does differ from its source network. command: what made it. version: digest of all that
    decides an answer.
    """

    path: Path
    name: str
    task: Task
    runtime: Runtime
    architecture: str
    labels: Mapping[str, Any]
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    metrics: Mapping[str, Any]
    data: Sequence[Mapping[str, Any]]
    licence: str
    command: str
    parity: Mapping[str, Any]
    version: str

    @property
    def graph_path(self) -> Path:
        return self.path / GRAPH


def resolve(name: str, task: Task, weights_dir: Path = WEIGHTS_DIR) -> Path:
    """Folder of the bundle called `name`; `default` is the one that `defaults.yaml` names.

    Raises `PermanentError` (`bundle_invalid`) listing the known names.
    """
    if name == "default":
        defaults = _read_yaml(weights_dir / DEFAULTS)
        if task not in defaults:
            raise _invalid(weights_dir / DEFAULTS, f"names no default for {task}")
        name = str(defaults[task])
    folder = weights_dir / name
    if not (folder / METADATA).is_file():
        known = sorted(p.parent.name for p in weights_dir.glob(f"*/{METADATA}"))
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID,
            f"no bundle called {name!r} in {weights_dir}; known: {', '.join(known) or 'none'}",
        )
    return folder


def resolve_optional(name: str, task: Task, weights_dir: Path = WEIGHTS_DIR) -> Path | None:
    """As `resolve`, of a bundle that one may do without.

    None for `none` and for an empty name, and for `default` where `defaults.yaml` names none.
    """
    name = name.strip()
    if name in ("", "none"):
        return None
    if name == "default" and task not in _read_yaml(weights_dir / DEFAULTS):
        return None
    return resolve(name, task, weights_dir)


def bundle_task(folder: Path) -> str:
    """What the bundle in this folder is for; empty where its metadata do not say.

    Raises `PermanentError` (`bundle_invalid`) when they cannot be read.
    """
    return str(_read_yaml(folder / METADATA).get("task", ""))


def open_bundle(folder: Path, task: Task) -> Bundle:
    """Read and check a bundle.

    Raises `PermanentError` (`bundle_invalid`) naming the file that is missing, damaged (its
    SHA-256 differs), of another format, or of another task.
    """
    metadata_path = folder / METADATA
    metadata = _read_yaml(metadata_path)
    if metadata.get("format") != FORMAT:
        raise _invalid(metadata_path, f"has format {metadata.get('format')!r}, expected {FORMAT}")
    if metadata.get("task") != task:
        raise _invalid(metadata_path, f"is for {metadata.get('task')!r}, not {task!r}")
    runtime = metadata.get("runtime", "onnx")
    if runtime not in NEEDED_FILES:
        known = ", ".join(NEEDED_FILES)
        raise _invalid(metadata_path, f"is for the runtime {runtime!r}; known: {known}")
    files = metadata.get("files")
    missing = [n for n in NEEDED_FILES[runtime] if not isinstance(files, Mapping) or n not in files]
    if not isinstance(files, Mapping) or missing:
        raise _invalid(metadata_path, f"lists no {', '.join(missing)} under files")
    for name, expected in files.items():
        _check_file(folder / name, str(expected))
    try:
        return Bundle(
            path=folder,
            name=folder.name,
            task=task,
            runtime=runtime,
            architecture=metadata["architecture"],
            labels=metadata["labels"],
            input=metadata["input"],
            output=metadata["output"],
            metrics=metadata["metrics"],
            data=metadata["data"],
            licence=metadata["licence"],
            command=metadata["command"],
            parity=metadata["parity"],
            version=_version(metadata),
        )
    except KeyError as error:
        raise _invalid(metadata_path, f"lacks {error.args[0]!r}") from error


def write_bundle(
    folder: Path,
    task: Task,
    *,
    architecture: str,
    labels: Mapping[str, Any],
    input: Mapping[str, Any],
    output: Mapping[str, Any],
    metrics: Mapping[str, Any],
    data: Sequence[Mapping[str, Any]],
    licence: str,
    command: str,
    parity: Mapping[str, Any],
    runtime: Runtime = "onnx",
) -> Bundle:
    """Write `model.yaml` beside the runtime's files that already lie in `folder`, and open it.

    Values must be plain YAML types. The model card is written by whoever calls this.
    """
    if task not in get_args(Task):
        raise ValueError(f"unknown task {task!r}; known: {', '.join(get_args(Task))}")
    metadata = {
        "format": FORMAT,
        "task": task,
        # Bundles of graphs do not say so, so that those shipped stay as they are.
        **({} if runtime == "onnx" else {"runtime": runtime}),
        "architecture": architecture,
        "files": {name: file_sha256(folder / name) for name in NEEDED_FILES[runtime]},
        "input": dict(input),
        "output": dict(output),
        "labels": dict(labels),
        "metrics": dict(metrics),
        "data": [dict(entry) for entry in data],
        "licence": licence,
        "command": command,
        "parity": dict(parity),
    }
    text = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=100)
    (folder / METADATA).write_text(text, encoding="utf-8")
    return open_bundle(folder, task)


def update_metrics(folder: Path, task: Task, metrics: Mapping[str, Any]) -> Bundle:
    """Replace a bundle's figures; its version stays, since no answer changes."""
    metadata = _read_yaml(folder / METADATA)
    metadata["metrics"] = dict(metrics)
    text = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=100)
    (folder / METADATA).write_text(text, encoding="utf-8")
    return open_bundle(folder, task)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(metadata: Mapping[str, Any]) -> str:
    deciding = {key: metadata[key] for key in ("task", "files", "labels", "input", "output")}
    canonical = json.dumps(deciding, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _check_file(path: Path, expected_sha256: str) -> None:
    if not path.is_file():
        raise _invalid(path, "is missing")
    actual = file_sha256(path)
    if actual != expected_sha256:
        raise _invalid(
            path, f"is damaged: SHA-256 is {actual[:12]}…, {METADATA} says {expected_sha256[:12]}…"
        )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _invalid(path, "is missing") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _invalid(path, f"is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise _invalid(path, "is not a mapping")
    return content


def _invalid(path: Path, problem: str) -> PermanentError:
    return PermanentError(ErrorCode.BUNDLE_INVALID, f"{path} {problem}")
