"""Splits by a hash of the id, so that adding or reordering rows never moves one across."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

Fractions = Mapping[str, float]

# `train` fits weights, `validation` chooses the checkpoint, `calibration` fits temperatures and
# thresholds, and `test` is read once, for the model card.
DEFAULT_FRACTIONS: Fractions = {
    "train": 0.85,
    "validation": 0.05,
    "calibration": 0.04,
    "test": 0.06,
}


def split_of(item_id: str, fractions: Fractions = DEFAULT_FRACTIONS, salt: str = "") -> str:
    """Name of the split that `item_id` belongs to.

    `fractions` maps names to shares in [0, 1] that add up to 1, in a fixed order. `salt` gives an
    independent draw. The hash is SHA-1 of the text, so it is the same on every machine.

    Raises `ValueError` when the shares do not add up to 1.
    """
    if abs(sum(fractions.values()) - 1.0) > 1e-9:
        raise ValueError(f"fractions must add up to 1: {dict(fractions)}")
    digest = hashlib.sha1(f"{salt}{item_id}".encode(), usedforsecurity=False).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    upper = 0.0
    for name, share in fractions.items():
        upper += share
        if position < upper:
            return name
    return next(reversed(list(fractions)))
