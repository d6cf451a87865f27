from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
ops = pytest.importorskip("torchvision.ops")

from style_maskrcnn.pooling import assign_levels, batch_rois, pool  # noqa: E402

STRIDES = (4, 8, 16, 32)


def square(size: float) -> list[float]:
    return [0.0, 0.0, 0.0, size, size]


def test_levels_double_with_the_size_and_are_clamped() -> None:
    rois = torch.tensor([square(s) for s in (1, 24, 47.9, 48, 95.9, 96, 191.9, 192, 5000)])
    assert assign_levels(rois, 4, 96.0).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_batch_rois_number_the_photos() -> None:
    rois = batch_rois([torch.ones(2, 4), torch.zeros(0, 4), torch.zeros(1, 4)])
    assert rois[:, 0].tolist() == [0, 0, 2]


def test_pool_equals_one_roi_align_a_box() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 3, 128 // s, 128 // s, generator=generator) for s in STRIDES]
    # From large to small, so that the levels' order is not the boxes' order.
    rois = torch.tensor(
        [[1.0, 0, 0, 127, 120], [0.0, 10, 10, 90, 100], [1.0, 3, 4, 30, 40], [0.0, 60, 60, 70, 66]]
    )
    together = pool(features, STRIDES, rois, 7, 96.0)
    for index, level in enumerate(assign_levels(rois, 4, 96.0).tolist()):
        alone = ops.roi_align(
            features[level], rois[index : index + 1], 7, 1 / STRIDES[level], 2, aligned=True
        )
        assert torch.allclose(together[index], alone[0], atol=1e-6)


def test_pool_of_no_box_is_empty() -> None:
    features = [torch.zeros(1, 3, 64 // s, 64 // s) for s in STRIDES]
    assert pool(features, STRIDES, torch.zeros(0, 5), 7, 96.0).shape == (0, 3, 7, 7)
