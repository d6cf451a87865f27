"""A head that learns the class of every pixel, in training only.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, https://arxiv.org/abs/1901.02446. A
few hundred photos teach the pyramid more by their masks than by their boxes alone.
Glossary: N photos, H and W their padded size, K classes, s the head's stride.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from detection.augmentation import UNKNOWN_PIXEL

# Levels that the head reads, the stride of its answer, and the share of its loss beside the others.
LEVELS = ("p3", "p4", "p5")
STRIDE = 8
WEIGHT = 0.5


def build_semantic_head(
    levels: Mapping[str, ShapeSpec], class_count: int, channels: int
) -> SemSegFPNHead | None:
    """The head over the pyramid's levels; None for no channels."""
    if not channels:
        return None
    head = SemSegFPNHead(
        {name: levels[name] for name in LEVELS},
        num_classes=class_count + 1,
        conv_dims=channels,
        common_stride=STRIDE,
        ignore_value=UNKNOWN_PIXEL,
    )
    # Random logits of a pyramid that has learnt are in the hundreds, and would spoil it.
    nn.init.zeros_(head.predictor.weight)
    return head


def semantic_losses(
    head: SemSegFPNHead | None,
    features: Mapping[str, torch.Tensor],
    batched_inputs: list[dict[str, Any]],
) -> dict[str, torch.Tensor]:
    """The head's loss, of photos that carry their pixels' classes as `sem_seg`; none without it."""
    if head is None:
        return {}
    logits = head.layers(features)
    classes = torch.stack([photo["sem_seg"] for photo in batched_inputs]).to(logits.device)
    return {"loss_semantic": WEIGHT * semantic_loss(logits, classes, STRIDE)}


def semantic_loss(logits: torch.Tensor, classes: torch.Tensor, stride: int) -> torch.Tensor:
    """Mean cross-entropy of (N, K + 1, H / s, W / s) logits, the last class being background.

    classes: (N, H, W) int64, `UNKNOWN_PIXEL` where nobody knows. A cell is what its middle shows.
    Detectron2 enlarges the logits instead, which takes longer than the rest of the head.
    """
    cells = classes[:, stride // 2 :: stride, stride // 2 :: stride]
    total = nn.functional.cross_entropy(
        logits.float(), cells, ignore_index=UNKNOWN_PIXEL, reduction="sum"
    )
    return total / (cells != UNKNOWN_PIXEL).sum().clamp(min=1)
