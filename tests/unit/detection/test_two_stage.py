from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from detection.augmentation import IGNORED  # noqa: E402
from detection.config import ConfigError  # noqa: E402
from detection.network import build_network  # noqa: E402
from detection.two_stage import (  # noqa: E402
    LEVELS,
    REGIONS,
    STRIDES,
    GarmentRcnn,
    LooksLinear,
    RegionOutputs,
)
from tests.unit.detection.small_run import TWO_STAGE  # noqa: E402

CONFIG = dataclasses.replace(TWO_STAGE, looks=(2, 1, 1))
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_semantic"}


@pytest.fixture
def network() -> GarmentRcnn:
    torch.manual_seed(0)
    built = build_network(CONFIG, class_count=3)
    assert isinstance(built, GarmentRcnn)
    return built


def test_strides_are_those_of_the_pyramid(network: GarmentRcnn) -> None:
    shapes = network.backbone.output_shape()
    assert tuple(shapes[name].stride for name in LEVELS) == STRIDES


def test_regions_carry_every_class(network: GarmentRcnn) -> None:
    with torch.inference_mode():
        boxes, probabilities = RegionOutputs(network.eval())(torch.randn(1, 3, 96, 64))

    assert 0 < boxes.shape[1] <= REGIONS[1]
    assert probabilities.shape == (1, boxes.shape[1], 3)
    assert (boxes >= 0).all()
    assert (boxes[..., 0::2] <= 64).all()
    assert (boxes[..., 1::2] <= 96).all()
    # What is missing to 1 is no garment.
    assert ((probabilities.sum(dim=2) > 0) & (probabilities.sum(dim=2) < 1)).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_losses_and_gradients_are_finite(network: GarmentRcnn, bf16: bool) -> None:
    garment, nothing = Instances((96, 64)), Instances((96, 64))
    garment.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 50.0, 60.0]]))
    garment.gt_classes = torch.tensor([1])
    nothing.gt_boxes = Boxes(torch.zeros(0, 4))
    nothing.gt_classes = torch.zeros(0, dtype=torch.int64)
    classes = torch.full((96, 64), 3)
    photos = [
        {"image": image, "instances": instances, "sem_seg": classes}
        for image, instances in zip(
            torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8),
            (garment, nothing),
            strict=True,
        )
    ]

    with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = network.train()(photos)
    sum(losses.values()).backward()

    assert set(losses) == LOSSES
    assert all(value.dtype == torch.float32 and value > 0 for value in losses.values())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 100
    assert all(torch.isfinite(g).all() for g in gradients)


def test_what_lies_in_an_ignore_region_is_no_background(network: GarmentRcnn) -> None:
    everywhere = Instances((96, 64))
    everywhere.gt_boxes = Boxes(torch.tensor([[-300.0, -300.0, 400.0, 400.0]]))
    everywhere.gt_classes = torch.tensor([IGNORED])
    photo = {
        "image": torch.full((3, 96, 64), 90, dtype=torch.uint8),
        "instances": everywhere,
        "sem_seg": torch.full((96, 64), 3),
    }

    with EventStorage():
        losses = network.train()([photo])

    assert losses["loss_rpn_cls"] == 0
    assert losses["loss_rpn_loc"] == 0


def test_a_class_is_as_likely_as_its_looks_together() -> None:
    layer = LooksLinear(1, looks=(2, 1))
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0], [3.0], [2.0], [2.0]]).log())
        layer.linear.bias.zero_()

    # Looks of e^log 1, e^log 3 and e^log 2, and 2 of the background: 4, 2 and 2 of 8.
    shares = torch.softmax(layer(torch.ones(1, 1)), dim=1)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.25, 0.25]]))
    layer(torch.ones(1, 1))[0, 0].backward()
    assert layer.linear.weight.grad is not None
    # What a class learns goes to its likeliest look most, and to no other class.
    torch.testing.assert_close(
        layer.linear.weight.grad, torch.tensor([[0.25], [0.75], [0.0], [0.0]])
    )


def test_looks_must_be_of_every_class() -> None:
    with pytest.raises(ConfigError, match=r"looks has 3 classes, not 14"):
        build_network(CONFIG, class_count=14)
