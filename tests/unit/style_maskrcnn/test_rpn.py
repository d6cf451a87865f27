from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from style_maskrcnn.config import ProposalConfig  # noqa: E402
from style_maskrcnn.rpn import RegionProposalNetwork, RpnOutput  # noqa: E402
from style_maskrcnn.targets import Target  # noqa: E402

CONFIG = ProposalConfig(
    anchor_sizes=((16.0,), (32.0,)),
    anchor_ratios=(1.0,),
    before_nms=10,
    nms_iou=0.5,
    keep_test=3,
    min_size=2.0,
)


def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(4, (8, 16), CONFIG).eval()


def output(anchors: list[list[float]], logits: list[float], levels: list[int]) -> RpnOutput:
    return RpnOutput(
        logits=torch.tensor([logits]),
        deltas=torch.zeros(1, len(logits), 4),
        anchors=torch.tensor(anchors),
        levels=torch.tensor(levels, dtype=torch.float32),
    )


def target(boxes: list[list[float]], ignore: list[list[float]] | None = None) -> Target:
    return Target(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        class_ids=torch.zeros(len(boxes), dtype=torch.int64),
        masks=torch.zeros(len(boxes), 64, 64, dtype=torch.uint8),
        ignore_boxes=torch.tensor(ignore or []).reshape(-1, 4),
    )


def test_one_answer_for_each_anchor_of_each_level() -> None:
    answer = network()([torch.zeros(2, 4, 8, 6), torch.zeros(2, 4, 4, 3)])
    assert answer.logits.shape == (2, 8 * 6 + 4 * 3)
    assert answer.deltas.shape == (2, 60, 4)
    assert answer.anchors.shape == (60, 4)
    assert answer.levels.tolist() == [0] * 48 + [1] * 12


def test_answers_lie_in_the_order_of_their_anchors() -> None:
    net = network()
    for conv in (net.conv, net.objectness, net.deltas):
        torch.nn.init.zeros_(conv.weight)
    torch.nn.init.dirac_(net.conv.weight)
    net.objectness.weight.data[0, 0, 0, 0] = 1.0
    fine = torch.zeros(1, 4, 8, 6)
    fine[0, 0, 2, 5] = 7.0  # row 2, column 5, stride 8: centre (44, 20)
    answer = net([fine, torch.zeros(1, 4, 4, 3)])
    best = answer.anchors[answer.logits[0].argmax()]
    assert best.tolist() == [36, 12, 52, 28]


def test_proposals_are_suppressed_clipped_and_the_best_kept() -> None:
    anchors = [
        [0.0, 0, 10, 10],
        [0.0, 0, 10, 11],  # IoU .91 with the first: suppressed
        [50.0, 50, 80, 80],  # clipped to 64
        [70.0, 70, 90, 90],  # outside: nothing is left of it
        [20.0, 20, 30, 30],
        [40.0, 0, 50, 10],
    ]
    answer = output(anchors, [5.0, 6.0, 4.0, 9.0, 3.0, 2.0], [0] * 6)
    (found,) = network().proposals(answer, 64, 64)
    assert found.tolist() == [[0, 0, 10, 11], [50, 50, 64, 64], [20, 20, 30, 30]]


def test_levels_do_not_suppress_each_other() -> None:
    answer = output([[0.0, 0, 10, 10], [0.0, 0, 10, 10]], [1.0, 2.0], [0, 1])
    assert len(network().proposals(answer, 64, 64)[0]) == 2


def test_losses_by_hand() -> None:
    # One perfect anchor with logit 0 and one background anchor with logit 0: −log(1/2) each, no
    # box loss, over a sample of 128.
    answer = output([[0.0, 0, 10, 10], [40.0, 40, 50, 50]], [0.0, 0.0], [0, 0])
    losses = network().losses(answer, [target([[0.0, 0, 10, 10]])])
    assert losses["rpn_objectness"].item() == pytest.approx(2 * 0.6931 / 128, rel=1e-3)
    assert losses["rpn_box"].item() == 0


def test_an_anchor_in_an_ignore_region_costs_nothing() -> None:
    answer = output([[0.0, 0, 10, 10], [40.0, 40, 50, 50]], [0.0, 50.0], [0, 0])
    watched = target([[0.0, 0, 10, 10]])
    ignored = target([[0.0, 0, 10, 10]], [[38.0, 38, 55, 55]])
    loss = {
        name: network().losses(answer, [t])["rpn_objectness"].item()
        for name, t in (("watched", watched), ("ignored", ignored))
    }
    assert loss["watched"] == pytest.approx((0.6931 + 50) / 128, rel=1e-3)
    assert loss["ignored"] == pytest.approx(0.6931 / 128, rel=1e-3)


def test_anchor_levels_must_fit_the_pyramid() -> None:
    with pytest.raises(ValueError, match="anchor_sizes has 2 levels, the pyramid 3"):
        RegionProposalNetwork(4, (4, 8, 16), CONFIG)


def test_a_photo_without_instances_still_teaches_background() -> None:
    answer = output([[0.0, 0, 10, 10]], [0.0], [0])
    losses = network().losses(answer, [target([])])
    assert losses["rpn_objectness"].item() == pytest.approx(0.6931 / 128, rel=1e-3)
