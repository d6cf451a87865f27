from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from style_maskrcnn.anchors import cell_anchors, level_anchors  # noqa: E402


def test_cell_anchors_have_the_area_and_the_ratio() -> None:
    anchors = cell_anchors((16.0, 32.0), (0.25, 1.0, 4.0))
    sizes = anchors[:, 2:] - anchors[:, :2]
    # Area 16² and height/width 1/4: 32 wide, 8 high.
    assert sizes.tolist() == [[32, 8], [16, 16], [8, 32], [64, 16], [32, 32], [16, 64]]
    assert torch.equal(anchors[:, :2], -anchors[:, 2:])


def test_level_anchors_sit_on_cell_centres_row_by_row() -> None:
    cell = cell_anchors((4.0,), (1.0,))
    placed = level_anchors(cell, torch.zeros(1, 8, 2, 3), stride=8)
    assert placed.tolist() == [
        [2, 2, 6, 6],
        [10, 2, 14, 6],
        [18, 2, 22, 6],
        [2, 10, 6, 14],
        [10, 10, 14, 14],
        [18, 10, 22, 14],
    ]


def test_anchors_of_a_cell_stay_together() -> None:
    placed = level_anchors(cell_anchors((4.0, 8.0), (1.0,)), torch.zeros(1, 1, 1, 2), stride=16)
    centres = (placed[:, 0] + placed[:, 2]) / 2
    assert centres.tolist() == [8, 8, 24, 24]
