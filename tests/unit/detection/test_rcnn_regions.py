"""Ignore regions in Detectron2's R-CNNs: neither garment nor background."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.structures import Boxes, BoxMode, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402
from PIL import Image  # noqa: E402

from detection.augmentation import IGNORED  # noqa: E402
from detection.rcnn.regions import RegionMapper, is_supported, lies_in, region_aware  # noqa: E402
from tests.unit.detection.small_rcnn import SMALL_NETWORK  # noqa: E402

GARMENT, REGION = [0.0, 0.0, 20.0, 20.0], [40.0, 0.0, 60.0, 20.0]


@pytest.fixture
def settings() -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(copy.deepcopy(SMALL_NETWORK)))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def truth() -> Instances:
    boxes = Boxes(torch.tensor([GARMENT, REGION]))
    return Instances((64, 64), gt_boxes=boxes, gt_classes=torch.tensor([2, IGNORED]))


def test_a_box_lies_in_a_region_by_half_its_own_area() -> None:
    boxes = Boxes(torch.tensor([[50.0, 0, 70, 20], [51.0, 0, 71, 20], [45.0, 5, 50, 10]]))

    assert lies_in(boxes, Boxes(torch.tensor([REGION]))).tolist() == [True, False, True]
    assert lies_in(boxes, Boxes(torch.zeros(0, 4))).tolist() == [False] * 3


def test_anchors_in_a_region_are_no_background(settings: CfgNode) -> None:
    anchors = [Boxes(torch.tensor([GARMENT, REGION, [42.0, 2, 50, 10], [0.0, 40, 20, 60]]))]
    plain = build_model(settings).proposal_generator
    aware = build_model(region_aware(settings)).proposal_generator

    (labels,), (matched,) = aware.label_and_sample_anchors(anchors, [truth()])

    assert labels.tolist() == [1, -1, -1, 0]
    assert matched[0].tolist() == GARMENT
    # Without it the region is an object to propose.
    assert plain.label_and_sample_anchors(anchors, [truth()])[0][0].tolist() == [1, 1, 0, 0]


def test_proposals_in_a_region_are_not_learnt_from(settings: CfgNode) -> None:
    heads = build_model(region_aware(settings)).roi_heads
    heads.proposal_append_gt = False
    boxes = torch.tensor([GARMENT, [42.0, 2, 50, 10], [0.0, 40, 20, 60]])
    proposals = Instances(
        (64, 64), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes))
    )

    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals], [truth()])

    found = {
        tuple(box.tolist()): int(c)
        for box, c in zip(sampled.proposal_boxes, sampled.gt_classes, strict=True)
    }
    assert found == {tuple(GARMENT): 2, (0.0, 40.0, 20.0, 60.0): 3}


def test_a_garment_in_a_region_is_still_learnt(settings: CfgNode) -> None:
    heads = build_model(region_aware(settings)).roi_heads
    heads.proposal_append_gt = False
    inside = [45.0, 5, 55, 15]
    target = Instances((64, 64))
    target.gt_boxes = Boxes(torch.tensor([inside, REGION]))
    target.gt_classes = torch.tensor([1, IGNORED])
    proposals = Instances((64, 64), proposal_boxes=Boxes(torch.tensor([inside])))

    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals], [target])

    assert sampled.gt_classes.tolist() == [1]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_crowds_reach_the_network_as_regions(
    settings: CfgNode, tmp_path: Path, mask_format: str
) -> None:
    settings.INPUT.MASK_FORMAT = mask_format
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    outline = [[0.0, 0, 20, 0, 20, 20, 0, 20]]
    annotations = [
        {"bbox": GARMENT, "category_id": 2, "segmentation": outline, "iscrowd": 0},
        {"bbox": REGION, "category_id": 0, "segmentation": [], "iscrowd": 1},
    ]
    for annotation in annotations:
        annotation["bbox_mode"] = BoxMode.XYXY_ABS
    record = {"file_name": str(path), "height": 64, "width": 64, "annotations": annotations}

    instances = RegionMapper(settings, is_train=True)(record)["instances"]

    assert instances.gt_classes.tolist() == [2, IGNORED]
    assert len(instances.gt_masks) == 2
    model = build_model(region_aware(settings))
    with EventStorage():
        losses = model([RegionMapper(settings, is_train=True)(record)])
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())


def test_other_networks_are_left_as_they_are(settings: CfgNode) -> None:
    assert is_supported(settings)
    settings.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    assert not is_supported(settings)
