from __future__ import annotations

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402

from detection.augmentation import UNKNOWN_PIXEL  # noqa: E402
from detection.semantic import semantic_loss  # noqa: E402


def test_semantic_loss_by_hand() -> None:
    classes = torch.full((1, 16, 16), UNKNOWN_PIXEL)
    classes[:, :8] = 2  # the upper two of four cells, their middles at (4, 4) and (4, 12)
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = semantic_loss(logits, classes, 8)
    assert loss.item() == pytest.approx(1.0986, rel=1e-3)  # log 3
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 1] == 0).all()
    assert (logits.grad[:, 2, 0] < 0).all()
    assert semantic_loss(logits, torch.full((1, 16, 16), UNKNOWN_PIXEL), 8).item() == 0
