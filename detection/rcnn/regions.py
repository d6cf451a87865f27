"""Ignore regions in the training of Detectron2's R-CNNs, which would take them for background.

An ignore region is an instance of class `IGNORED` on its way through the network. Anchors and
proposals that lie in one by half and find no garment are neither right nor wrong. Configurations
keep Detectron2's names, so that what is trained runs wherever Detectron2 does.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou

from detection.augmentation import IGNORED

# A box lies in a region from this share of its area on.
INSIDE = 0.5
# Detectron2's parts and what they are replaced by in training.
_REPLACED = {"RPN": "RegionAwareRPN", "StandardROIHeads": "RegionAwareROIHeads"}


def is_supported(cfg: CfgNode) -> bool:
    """Whether the network has only parts that can leave regions be."""
    parts = (cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.ROI_HEADS.NAME)
    return cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and all(p in _REPLACED for p in parts)


def region_aware(cfg: CfgNode) -> CfgNode:
    """The configuration of the same network that leaves regions be; weights fit either."""
    aware = cfg.clone()
    aware.defrost()
    aware.MODEL.PROPOSAL_GENERATOR.NAME = _REPLACED[cfg.MODEL.PROPOSAL_GENERATOR.NAME]
    aware.MODEL.ROI_HEADS.NAME = _REPLACED[cfg.MODEL.ROI_HEADS.NAME]
    return aware


class RegionMapper(DatasetMapper):  # type: ignore[misc]  # Detectron2 has no types
    """`DatasetMapper` that hands on crowds, which it leaves out, as ignore regions."""

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        dataset_dict["annotations"] = [_as_region(a) for a in dataset_dict["annotations"]]
        super()._transform_annotations(dataset_dict, transforms, image_shape)


@PROPOSAL_GENERATOR_REGISTRY.register()
class RegionAwareRPN(RPN):  # type: ignore[misc]
    """Anchors in ignore regions are no background."""

    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        garments, regions = split(gt_instances)
        labels, matched = super().label_and_sample_anchors(anchors, garments)
        every = Boxes.cat(anchors)
        for own, of_photo in zip(labels, regions, strict=True):
            own[(own == 0) & lies_in(every, of_photo)] = -1
        return labels, matched


@ROI_HEADS_REGISTRY.register()
class RegionAwareROIHeads(StandardROIHeads):  # type: ignore[misc]
    """Proposals in ignore regions that find no garment are not learnt from."""

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        garments, regions = split(targets)
        judged = [
            photo[~lies_in(photo.proposal_boxes, of_photo) | self._finds(photo, garment)]
            for photo, garment, of_photo in zip(proposals, garments, regions, strict=True)
        ]
        sampled: list[Instances] = super().label_and_sample_proposals(judged, garments)
        return sampled

    def _finds(self, proposals: Instances, garments: Instances) -> torch.Tensor:
        """(R,) bool: which proposals are of a garment."""
        overlaps = pairwise_iou(garments.gt_boxes, proposals.proposal_boxes)
        found: torch.Tensor = self.proposal_matcher(overlaps)[1] == 1
        return found


def split(instances: list[Instances]) -> tuple[list[Instances], list[Boxes]]:
    """Each photo's garments, and the boxes of its ignore regions."""
    garments = [photo[photo.gt_classes != IGNORED] for photo in instances]
    regions = [photo.gt_boxes[photo.gt_classes == IGNORED] for photo in instances]
    return garments, regions


def lies_in(boxes: Boxes, regions: Boxes) -> torch.Tensor:
    """(R,) bool: which boxes lie in one of the regions by `INSIDE` of their area."""
    if not len(regions):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    shares: torch.Tensor = pairwise_ioa(regions, boxes)
    return shares.amax(dim=0) >= INSIDE


def _as_region(annotation: dict[str, Any]) -> dict[str, Any]:
    if not annotation.get("iscrowd", 0):
        return annotation
    x1, y1, x2, y2 = annotation["bbox"]
    outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return annotation | {"iscrowd": 0, "category_id": IGNORED, "segmentation": outline}
