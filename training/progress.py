"""A progress bar on stderr, where somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def with_progress(items: Sequence[Item], task: str) -> Iterable[Item]:
    """The items, with a bar that says `task` while they are gone through."""
    watched = sys.stderr.isatty()
    return track(items, task, console=Console(stderr=True), disable=not watched)
