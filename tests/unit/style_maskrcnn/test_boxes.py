from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
ops = pytest.importorskip("torchvision.ops")

from style_maskrcnn import boxes  # noqa: E402

UNIT = (1.0, 1.0, 1.0, 1.0)
NO_REGIONS = torch.zeros(0, 4)
RULE = boxes.MatchRule(positive_iou=0.5, negative_iou=0.3, every_instance=False)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    sizes = torch.rand(count, 2, generator=generator) * 50 + 1
    return torch.cat([corners, corners + sizes], dim=1)


def test_deltas_of_a_shifted_and_doubled_box() -> None:
    # From 10×20 at centre (5, 10) to 20×20 at centre (10, 15): half a width right, a quarter of a
    # height down, twice as wide.
    deltas = boxes.encode(
        torch.tensor([[0.0, 5.0, 20.0, 25.0]]), torch.tensor([[0.0, 0.0, 10.0, 20.0]]), UNIT
    )
    assert deltas[0].tolist() == pytest.approx([0.5, 0.25, 0.6931, 0.0], abs=1e-4)


def test_weights_scale_deltas() -> None:
    reference, box = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 0.0, 15.0, 10.0]])
    assert boxes.encode(box, reference, (10.0, 10.0, 5.0, 5.0))[0, 0].item() == pytest.approx(5.0)


def test_decoding_undoes_encoding() -> None:
    goal, reference = random_boxes(50, 1), random_boxes(50, 2)
    weights = (10.0, 10.0, 5.0, 5.0)
    again = boxes.decode(boxes.encode(goal, reference, weights), reference, weights)
    assert torch.allclose(again, goal, atol=1e-3)


def test_a_wild_delta_stays_finite() -> None:
    decoded = boxes.decode(
        torch.tensor([[0.0, 0.0, 1e9, 1e9]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]]), UNIT
    )
    # The size may grow by a factor of 1000 / 16 at most: 16 px become 1000 around centre 8.
    assert decoded[0].tolist() == pytest.approx([-492.0, -492.0, 508.0, 508.0], rel=1e-4)


def test_iou_and_clip_equal_torchvision() -> None:
    first, second = random_boxes(20, 3), random_boxes(30, 4) - 20
    assert torch.allclose(boxes.iou(first, second), ops.box_iou(first, second), atol=1e-6)
    assert torch.equal(boxes.clip(second, 60, 40), ops.clip_boxes_to_image(second, (60, 40)))


def test_iou_by_hand() -> None:
    # Two 10×10 boxes sharing 5×10: 50 / (100 + 100 − 50).
    value = boxes.iou(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]]))
    assert value.item() == pytest.approx(1 / 3)


def test_iou_of_empty_boxes_is_zero() -> None:
    flat = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert boxes.iou(flat, flat).item() == 0


def test_match_bands() -> None:
    instance = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    candidates = torch.tensor(
        [
            [0.0, 0.0, 10.0, 6.0],  # IoU .6: positive
            [0.0, 0.0, 10.0, 4.0],  # IoU .4: between the bounds
            [0.0, 0.0, 10.0, 2.0],  # IoU .2: background
        ]
    )
    matched = boxes.match(candidates, instance, NO_REGIONS, RULE)
    assert matched.tolist() == [0, boxes.IGNORED, boxes.NEGATIVE]


def test_every_instance_gets_its_best_box() -> None:
    instances = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    candidates = torch.tensor([[0.0, 0.0, 10.0, 2.0], [50.0, 50.0, 60.0, 54.0]])
    forced = boxes.MatchRule(positive_iou=0.5, negative_iou=0.3, every_instance=True)
    assert boxes.match(candidates, instances, NO_REGIONS, forced).tolist() == [0, 1]
    assert (boxes.match(candidates, instances, NO_REGIONS, RULE) < 0).all()


def test_an_instance_without_any_overlap_forces_nothing() -> None:
    forced = boxes.MatchRule(positive_iou=0.5, negative_iou=0.3, every_instance=True)
    matched = boxes.match(
        torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([[50.0, 50, 60, 60]]), NO_REGIONS, forced
    )
    assert matched.tolist() == [boxes.NEGATIVE]


def test_background_in_an_ignore_region_is_ignored_and_a_match_is_not() -> None:
    instance = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    region = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    candidates = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # the instance itself
            [20.0, 20.0, 30.0, 30.0],  # wholly in the region
            [32.0, 20.0, 52.0, 30.0],  # 40 % in it
        ]
    )
    matched = boxes.match(candidates, instance, region, RULE)
    assert matched.tolist() == [0, boxes.IGNORED, boxes.NEGATIVE]


def test_without_instances_all_is_background() -> None:
    assert boxes.match(random_boxes(3, 5), torch.zeros(0, 4), NO_REGIONS, RULE).tolist() == [-1] * 3


def test_sample_caps_positives_and_fills_with_negatives() -> None:
    matched = torch.tensor([0, 1, 2, 3, boxes.NEGATIVE, boxes.NEGATIVE, boxes.IGNORED])
    positives, negatives = boxes.sample(matched, count=4, positive_share=0.5)
    assert len(positives) == 2
    assert set(positives.tolist()) <= {0, 1, 2, 3}
    assert sorted(negatives.tolist()) == [4, 5]


def test_sample_takes_more_negatives_when_positives_are_few() -> None:
    matched = torch.tensor([0] + [boxes.NEGATIVE] * 20)
    positives, negatives = boxes.sample(matched, count=8, positive_share=0.5)
    assert (len(positives), len(negatives), len(set(negatives.tolist()))) == (1, 7, 7)
