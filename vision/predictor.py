"""The contract between a trained model and whoever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out")


class Predictor(Protocol[In, Out]):
    """A model ready to serve.

    `load` may be called again and from several threads: the first call loads, the others wait.
    `predict` loads when needed, gives one output per input in the same order, and an empty list
    for an empty batch; it is safe to call from several threads. After `close` it loads anew.
    """

    @property
    def name(self) -> str:
        """The bundle's name."""
        ...

    @property
    def version(self) -> str:
        """Digest of everything that decides an answer: weights, labels, thresholds."""
        ...

    def load(self) -> None: ...

    def predict(self, batch: Sequence[In]) -> list[Out]: ...

    def close(self) -> None: ...
