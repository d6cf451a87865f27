"""The label list of a network that is imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES
from vision.taxonomy import load_taxonomy


def read_labels(path: Path, head: str | None = None) -> dict[str, tuple[str, ...]]:
    """Head → labels, in the order of the last layer's outputs.

    A text file has one label a line, a JSON file a list of labels or `{head: [labels]}`. head:
    what a plain list answers; where it is None, the attribute that all of the labels belong to.

    Raises `PermanentError` (`validation_error`) for a file of no such form, for no labels, a label
    twice, and labels that tell no attribute.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise _unusable(f"{path}: {error}") from error
    if not isinstance(content, dict):
        names = [name.strip() for name in content] if _is_list_of_text(content) else content
        content = {head or "": [name for name in names if name] if names else names}
    for names in content.values():
        if not _is_list_of_text(names) or not names:
            raise _unusable(f"{path} holds no list of labels")
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise _unusable(f"{path} names {twice[0]!r} twice")
    if head and head not in content:
        raise _unusable(f"{path} has labels of {', '.join(content)}, not of {head}")
    return {name or _attribute_of(names, path): tuple(names) for name, names in content.items()}


def _attribute_of(names: Sequence[str], path: Path) -> str:
    taxonomy = load_taxonomy()
    for attribute in ATTRIBUTES:
        if set(names) <= set(taxonomy.labels_of(attribute)):
            return attribute
    raise _unusable(f"the labels of {path} are those of no attribute; name what they answer (head)")


def _is_list_of_text(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(name, str) for name in content)


def _unusable(problem: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, problem)
