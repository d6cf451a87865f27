from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from style_maskrcnn.semantic_head import (  # noqa: E402
    REFINED_SIZE,
    SemanticHead,
    refined_masks,
    semantic_loss,
    semantic_targets,
)
from style_maskrcnn.targets import Target  # noqa: E402

STRIDE = 4


def target(
    masks: list[tuple[int, int, int, int]],
    class_ids: list[int],
    ignore: tuple[tuple[float, ...], ...] = (),
) -> Target:
    """Rectangles (x1, y1, x2, y2) on 32×32 pixels, 8×8 cells."""
    planes = torch.zeros(len(masks), 32, 32, dtype=torch.uint8)
    for plane, (x1, y1, x2, y2) in zip(planes, masks, strict=True):
        plane[y1:y2, x1:x2] = 1
    return Target(
        boxes=torch.tensor(masks, dtype=torch.float32).reshape(-1, 4),
        class_ids=torch.tensor(class_ids, dtype=torch.int64),
        masks=planes,
        ignore_boxes=torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
    )


def test_it_starts_without_an_opinion() -> None:
    head = SemanticHead(4, 2, 8, 3)
    logits = head([torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)])
    assert logits.shape == (2, 3, 8, 8)
    assert (logits == 0).all()


def test_every_level_is_seen_at_the_finest_stride() -> None:
    head = SemanticHead(1, 3, 1, 1)
    for layer in [*head.laterals, head.logits]:
        torch.nn.init.ones_(layer.weight)
    torch.nn.init.zeros_(head.conv.weight)
    head.conv.weight.data[0, 0, 1, 1] = 1
    levels = [torch.full((1, 1, side, side), value) for side, value in ((8, 1.0), (4, 20.0))]
    levels.append(torch.full((1, 1, 2, 2), 300.0))
    assert torch.equal(head(levels), torch.full((1, 1, 8, 8), 321.0))


def test_without_semantics_a_mask_is_only_enlarged() -> None:
    mask = torch.randn(1, 28, 28)
    refined = refined_masks(
        mask, torch.zeros(1, 2, 8, 8), [torch.tensor([[0.0, 0, 32, 32]])], torch.tensor([1]), STRIDE
    )
    size = (REFINED_SIZE, REFINED_SIZE)
    expected = torch.nn.functional.interpolate(mask[None], size=size, mode="bilinear")[0]
    assert torch.allclose(refined, expected, atol=1e-6)


def test_each_box_reads_its_own_photo_and_class() -> None:
    semantics = torch.arange(6.0).reshape(2, 3, 1, 1).expand(2, 3, 8, 8)
    boxes = [torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([[4.0, 4, 20, 20], [8.0, 0, 24, 30]])]
    refined = refined_masks(
        torch.zeros(3, 28, 28), semantics, boxes, torch.tensor([2, 0, 1]), STRIDE
    )
    assert [round(float(plane.mean()), 4) for plane in refined] == [2, 3, 4]
    assert (refined.amax(dim=(1, 2)) - refined.amin(dim=(1, 2))).max() < 1e-4


def test_an_edge_lies_where_the_semantics_have_it() -> None:
    semantics = torch.full((1, 1, 8, 8), -9.0)
    semantics[..., :4] = 9.0  # the left 16 of 32 pixels
    box = torch.tensor([[8.0, 8, 24, 24]])
    refined = refined_masks(
        torch.zeros(1, 28, 28), semantics, [box], torch.zeros(1, dtype=torch.int64), STRIDE
    )
    assert (refined[0] > 0)[:, : REFINED_SIZE // 2].all()
    assert (refined[0] < 0)[:, REFINED_SIZE // 2 :].all()


def test_targets_join_instances_of_a_channel_and_leave_out_ignored_cells() -> None:
    # Classes 0 and 2 share channel 0; the ignore region covers three rows, two of them dressed.
    found = target([(0, 0, 8, 8), (24, 0, 32, 8), (0, 16, 32, 32)], [0, 2, 1], ((0, 12, 32, 24),))
    wanted, counted = semantic_targets(found, torch.tensor([0, 1, 0]), 2, STRIDE)
    assert wanted[0].sum() == 8
    assert (wanted[0, :2, :2] == 1).all()
    assert (wanted[0, :2, 6:] == 1).all()
    assert wanted[1].sum() == 32
    assert counted.logical_not().nonzero()[:, 0].unique().tolist() == [3]


def test_loss_by_hand() -> None:
    channels = torch.tensor([0, 1])
    undecided = torch.zeros(1, 2, 8, 8)
    dressed = target([(0, 0, 32, 16)], [0])
    # log 2 for each of two channels.
    assert semantic_loss(undecided, [dressed], channels, STRIDE).item() == pytest.approx(
        1.3863, rel=1e-3
    )
    wrong = undecided.clone()
    wrong[:, :, 4:] = 20.0
    ignored = target([(0, 0, 32, 16)], [0], ((0, 16, 32, 32),))
    assert semantic_loss(wrong, [ignored], channels, STRIDE).item() == pytest.approx(
        1.3863, rel=1e-3
    )
    # Half the cells cost 2 × 20 each.
    assert semantic_loss(wrong, [dressed], channels, STRIDE).item() == pytest.approx(
        20.693, rel=1e-3
    )


def test_a_photo_without_garments_teaches_background() -> None:
    logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
    semantic_loss(logits, [target([], [])], torch.tensor([0, 1]), STRIDE).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()
