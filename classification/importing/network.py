"""A network rebuilt from its tensors alone.

Glossary: B batch, F features before the last layer, C labels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vision.errors import ErrorCode, PermanentError

Labels = Mapping[str, tuple[str, ...]]
"""Head → labels, in the order of its outputs."""


@dataclass(frozen=True, eq=False)
class Network:
    """body: (B, 3, H, W) → (B, F). heads: head → its last layer's (C, F) weight and (C,) bias."""

    body: nn.Module
    heads: Mapping[str, tuple[Tensor, Tensor]]


def only_head(labels: Labels) -> tuple[str, tuple[str, ...]]:
    """Raises `PermanentError` (`bundle_invalid`) when there are several."""
    if len(labels) > 1:
        raise invalid(f"the network has one head, not {', '.join(labels)}")
    return next(iter(labels.items()))


def check_rows(tensor: str, rows: int, head: str, names: Sequence[str]) -> None:
    """Raises `PermanentError` (`bundle_invalid`) when a last layer has other than these labels."""
    if rows != len(names):
        raise invalid(f"{tensor} answers {rows} labels; {len(names)} are given for {head}")


def check_shape(tensor: str, actual: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises `PermanentError` (`bundle_invalid`) naming the tensor."""
    if actual != expected:
        raise invalid(f"tensor {tensor!r} has the shape {actual}, not {expected}")


def invalid(problem: str) -> PermanentError:
    """The error of a file that is no such network."""
    return PermanentError(ErrorCode.BUNDLE_INVALID, problem)
