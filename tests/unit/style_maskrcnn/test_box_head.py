from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from style_maskrcnn import boxes as box_ops  # noqa: E402
from style_maskrcnn.box_head import WEIGHTS, BoxHead, RoiSample  # noqa: E402
from style_maskrcnn.config import BoxHeadConfig  # noqa: E402
from style_maskrcnn.targets import Target  # noqa: E402

CLASSES = 3
BACKGROUND = CLASSES


def head(**changes: float) -> BoxHead:
    torch.manual_seed(0)
    config = BoxHeadConfig(width=8, dropout=0.0, **changes)  # type: ignore[arg-type]
    return BoxHead(2, CLASSES, config).eval()


def target() -> Target:
    return Target(
        boxes=torch.tensor([[0.0, 0, 20, 20], [40.0, 40, 60, 60]]),
        class_ids=torch.tensor([2, 0]),
        masks=torch.zeros(2, 64, 64, dtype=torch.uint8),
        ignore_boxes=torch.tensor([[100.0, 100, 140, 140]]),
    )


def logits_for(rows: list[dict[int, float]]) -> torch.Tensor:
    """Logits whose softmax gives the named classes their probability, background the rest."""
    probabilities = torch.full((len(rows), CLASSES + 1), 1e-6)
    for index, row in enumerate(rows):
        for class_id, value in row.items():
            probabilities[index, class_id] = value
        probabilities[index, BACKGROUND] = 1 - sum(row.values())
    return probabilities.log()


def test_shapes() -> None:
    logits, deltas = head()(torch.zeros(5, 2, 7, 7))
    assert logits.shape == (5, CLASSES + 1)
    assert deltas.shape == (5, 4)


def test_chosen_proposals_carry_their_instance_and_class() -> None:
    proposals = torch.tensor(
        [
            [1.0, 1, 20, 20],  # instance 0
            [70.0, 0, 80, 10],  # background
            [110.0, 110, 120, 120],  # in the ignore region: never chosen
        ]
    )
    (sample,) = head(sample=10, positive_share=0.5).choose([proposals], [target()])
    by_box = {
        tuple(b.tolist()): c for b, c in zip(sample.boxes, sample.class_ids.tolist(), strict=True)
    }
    assert by_box == {
        (0, 0, 20, 20): 2,  # the instances' own boxes take part
        (40, 40, 60, 60): 0,
        (1, 1, 20, 20): 2,
        (70, 0, 80, 10): BACKGROUND,
    }
    assert sample.positives.tolist() == [0, 1, 2]
    assert sorted(sample.matched.tolist()) == [box_ops.NEGATIVE, 0, 0, 1]


def test_losses_by_hand() -> None:
    sample = RoiSample(
        boxes=torch.tensor([[0.0, 0, 10, 20], [70.0, 0, 80, 10]]),
        matched=torch.tensor([0, box_ops.NEGATIVE]),
        class_ids=torch.tensor([2, BACKGROUND]),
    )
    losses = head().losses(torch.zeros(2, 4), torch.zeros(2, 4), [sample], [target()])
    assert losses["class"].item() == pytest.approx(1.3863, rel=1e-3)  # log 4
    # To the instance (0, 0, 20, 20): half a width right (×10 = 5), twice as wide (log 2 × 5).
    # Smooth L1 of 5 is 4.5 and of 3.466 is 2.966, over two proposals.
    assert losses["box"].item() == pytest.approx((4.5 + 2.966) / 2, rel=1e-3)


def test_losses_without_a_positive() -> None:
    sample = RoiSample(
        torch.tensor([[70.0, 0, 80, 10]]), torch.tensor([-1]), torch.tensor([BACKGROUND])
    )
    assert head().losses(torch.zeros(1, 4), torch.zeros(1, 4), [sample], [target()])["box"] == 0


def test_detections_are_thresholded_sorted_and_suppressed_within_a_class() -> None:
    proposals = torch.tensor([[0.0, 0, 20, 20], [0.0, 0, 20, 21], [30.0, 30, 50, 50]])
    logits = logits_for([{0: 0.6, 1: 0.3}, {0: 0.7}, {2: 0.02}])
    found = head(min_score=0.05).detect(logits, torch.zeros(3, 4), proposals, 64, 64)
    # Class 0 twice on nearly the same box: the surer stays. Class 1 on that box is another opinion.
    assert found.class_ids.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.7, 0.3], abs=1e-4)
    assert found.boxes.tolist() == [[0, 0, 20, 21], [0, 0, 20, 20]]


def test_at_most_max_detections() -> None:
    proposals = torch.tensor([[i * 10.0, 0, i * 10 + 8, 8] for i in range(6)])
    logits = logits_for([{0: 0.1 + 0.1 * i} for i in range(6)])
    found = head(max_detections=2).detect(logits, torch.zeros(6, 4), proposals, 64, 64)
    assert found.boxes[:, 0].tolist() == [50, 40]


def test_deltas_move_the_box_and_the_edge_cuts_it() -> None:
    # One width (10 px) to the right is a delta of 10 / 10 × weight 10.
    deltas = torch.tensor([[WEIGHTS[0], 0.0, 0.0, 0.0]])
    found = head().detect(logits_for([{1: 0.9}]), deltas, torch.tensor([[50.0, 0, 60, 10]]), 64, 64)
    assert found.boxes.tolist() == [[60, 0, 64, 10]]


def test_nothing_found_is_empty() -> None:
    found = head().detect(
        logits_for([{}]), torch.zeros(1, 4), torch.tensor([[0.0, 0, 9, 9]]), 64, 64
    )
    assert found.boxes.shape == (0, 4)
    assert len(found.scores) == len(found.class_ids) == 0
