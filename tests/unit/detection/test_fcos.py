from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402
from torch import nn  # noqa: E402

from detection.augmentation import IGNORED  # noqa: E402
from detection.fcos import (  # noqa: E402
    STRIDES,
    CoarseLevels,
    FcosOutputs,
    GarmentFcos,
    silenced,
)
from detection.network import build_network  # noqa: E402
from detection.postprocess import locations  # noqa: E402
from tests.unit.detection.small_run import small_config  # noqa: E402

CONFIG = dataclasses.replace(small_config().network, semantic_channels=0)
SEMANTIC = small_config().network


@pytest.mark.parametrize("resolution_wh", [(64, 96), (160, 32)])
def test_raw_outputs_follow_the_locations_of_postprocessing(
    resolution_wh: tuple[int, int],
) -> None:
    width, height = resolution_wh
    network = build_network(CONFIG, class_count=3).eval()
    with torch.inference_mode():
        logits, distances, centerness = FcosOutputs(network)(torch.zeros(2, 3, height, width))

    count = len(locations(resolution_wh, STRIDES)[0])
    assert logits.shape == (2, count, 3)
    assert distances.shape == (2, count, 4)
    assert centerness.shape == (2, count)


def test_strides_are_those_of_the_pyramid() -> None:
    pyramid = build_network(CONFIG, class_count=3).backbone.output_shape()

    assert tuple(level.stride for level in pyramid.values()) == STRIDES


def test_frozen_stages_get_no_gradient() -> None:
    network = build_network(dataclasses.replace(CONFIG, frozen_stages=2), class_count=3)
    backbone = network.backbone.bottom_up

    assert not any(p.requires_grad for p in backbone.stem.parameters())
    trained = [any(p.requires_grad for p in stage.parameters()) for stage in backbone.stages]
    assert trained == [False] * 2 + [True] * 5


@pytest.mark.parametrize("bf16", [False, True])
def test_losses_and_gradients_are_finite(bf16: bool) -> None:
    torch.manual_seed(0)
    network = build_network(CONFIG, class_count=3).train()
    garment, nothing = Instances((96, 64)), Instances((96, 64))
    garment.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 50.0, 60.0]]))
    garment.gt_classes = torch.tensor([1])
    nothing.gt_boxes = Boxes(torch.zeros(0, 4))
    nothing.gt_classes = torch.zeros(0, dtype=torch.int64)
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)

    with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = network(
            [
                {"image": image, "instances": instances}
                for image, instances in zip(images, (garment, nothing), strict=True)
            ]
        )
    sum(losses.values()).backward()

    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    assert all(value.dtype == torch.float32 and value > 0 for value in losses.values())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 100
    assert all(torch.isfinite(g).all() for g in gradients)


def test_the_semantic_head_learns_beside_the_others() -> None:
    torch.manual_seed(0)
    network = build_network(SEMANTIC, class_count=3).train()
    truth = Instances((96, 64))
    truth.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 50.0, 60.0]]))
    truth.gt_classes = torch.tensor([1])
    classes = torch.full((96, 64), 3)
    classes[8:60, 8:50] = 1
    image = torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8)

    with EventStorage(), torch.autocast("cpu", torch.bfloat16):
        losses = network([{"image": image, "instances": truth, "sem_seg": classes}])
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_semantic"}
    losses["loss_semantic"].backward()

    assert losses["loss_semantic"].dtype == torch.float32
    # Half the weight of log 4: it starts without an opinion.
    assert losses["loss_semantic"].item() == pytest.approx(0.6931, rel=1e-3)
    learning = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None}
    assert learning == {"semantic_head", "backbone"}


def test_semantics_do_not_ship() -> None:
    network = build_network(SEMANTIC, class_count=3).eval()
    images = torch.zeros(1, 3, 96, 64)
    with torch.inference_mode():
        before = FcosOutputs(network)(images)
        network.semantic_head = None
        for ours, theirs in zip(FcosOutputs(network)(images), before, strict=True):
            assert torch.equal(ours, theirs)


def losses_of(network: GarmentFcos, *instances: tuple[tuple[float, ...], int]) -> dict[str, float]:
    """The losses on one photo with these boxes and classes."""
    truth = Instances((96, 64))
    truth.gt_boxes = Boxes(torch.tensor([box for box, _ in instances]).reshape(-1, 4))
    truth.gt_classes = torch.tensor([class_id for _, class_id in instances], dtype=torch.int64)
    image = torch.full((3, 96, 64), 90, dtype=torch.uint8)
    vars(network).pop("loss_normalizer", None)  # a moving average over steps
    with EventStorage():
        losses = network([{"image": image, "instances": truth}])
    return {name: value.item() for name, value in losses.items()}


def test_what_lies_in_an_ignore_region_is_not_judged() -> None:
    torch.manual_seed(0)
    # No normalisation with state, so that two runs over the same photo are the same.
    network = build_network(CONFIG, class_count=3).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    # The coarsest location, at (64, 64), is beside the photo.
    everywhere, garment = (0.0, 0.0, 128.0, 128.0), ((8.0, 8.0, 50.0, 60.0), 1)

    nothing = losses_of(network, (everywhere, IGNORED))
    plain = losses_of(network, garment)
    ignored = losses_of(network, garment, (everywhere, IGNORED))
    beside = losses_of(network, garment, ((0.0, 0.0, 1.0, 1.0), IGNORED))

    assert nothing["loss_fcos_cls"] == 0
    # The garment's own locations are judged as ever, also inside the region.
    assert ignored["loss_fcos_loc"] == pytest.approx(plain["loss_fcos_loc"], abs=1e-5)
    assert ignored["loss_fcos_ctr"] == pytest.approx(plain["loss_fcos_ctr"], abs=1e-5)
    assert 0 < ignored["loss_fcos_cls"] < plain["loss_fcos_cls"]
    # No location lies in a region of one pixel at the corner: the first one is at (4, 4).
    assert beside == pytest.approx(plain, abs=1e-5)


def test_nothing_flows_back_to_what_is_silenced() -> None:
    logits = [torch.zeros(1, 4, 2, requires_grad=True), torch.zeros(1, 1, 2, requires_grad=True)]
    unjudged = torch.tensor([[False, True, False, False, True]])

    replaced = silenced(logits, unjudged)
    torch.cat(replaced, dim=1).sigmoid().sum().backward()

    assert replaced[0].sigmoid()[0, :, 0].tolist() == [0.5, 0.0, 0.5, 0.5]
    assert logits[0].grad is not None
    assert logits[0].grad[0, :, 0].tolist() == [0.25, 0.0, 0.25, 0.25]
    assert logits[1].grad is not None
    assert not logits[1].grad.any()


def test_a_map_one_pixel_wide_has_the_gradients_of_float32() -> None:
    torch.manual_seed(0)
    levels = CoarseLevels(64, 64, in_feature="p5")
    p5 = torch.randn(2, 64, 3, 2)

    gradients = []
    for bf16 in (False, True):
        levels.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            p6, p7 = levels(p5)
        (p6.square().sum() + p7.square().sum()).backward()
        gradients.append((levels.p6.weight.grad, levels.p7.weight.grad))

    assert p7.shape == (2, 64, 1, 1)
    torch.testing.assert_close(gradients[1], gradients[0])
