"""Semantic head: which pixels of the photo belong to which garment class, whoever's they are.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, in a light form. A mask head sees
a coat on 14×14 cells, so its edges are blurred by a hand's breadth; this one sees every garment at
the pyramid's finest stride, and what it sees of a box is added to that box's mask.

Dimension glossary
    B: batch; D: pyramid channels; K: mask channels (garment classes); h, w: the finest level;
    R: boxes of all photos; M: instances of one photo; S: side of the refined mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from style_maskrcnn.pooling import SAMPLING_RATIO, batch_rois
from style_maskrcnn.targets import Target

REFINED_SIZE = 56


class SemanticHead(nn.Module):
    """Pyramid levels, fine to coarse → logits (B, K, h, w), each channel's yes or no.

    The last layer starts at zero, so that a network which gets this head goes on as it was.
    """

    def __init__(self, channels: int, level_count: int, width: int, class_channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for _ in range(level_count))
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.logits = nn.Conv2d(width, class_channels, 1)
        for conv in [*self.laterals, self.conv]:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        merged = self.laterals[-1](features[-1])
        for lateral, feature in zip(self.laterals[-2::-1], features[-2::-1], strict=True):
            upsampled = nn.functional.interpolate(merged, scale_factor=2.0, mode="bilinear")
            merged = lateral(feature) + upsampled
        hidden = nn.functional.relu(self.conv(nn.functional.relu(merged)))
        logits: Tensor = self.logits(hidden).float()
        return logits


def refined_masks(
    mask_logits: Tensor,
    semantic_logits: Tensor,
    boxes: Sequence[Tensor],
    channels: Tensor,
    stride: int,
) -> Tensor:
    """(R, S, S) mask logits: the mask head's, enlarged, plus the semantic ones of the same box.

    mask_logits: (R, s, s). semantic_logits: (B, K, h, w). boxes: of each photo, R together, in
    pixels of the input. channels: (R,) int64, the garment class of each. stride: of the semantic
    logits.
    """
    size = REFINED_SIZE
    enlarged = nn.functional.interpolate(mask_logits[:, None], size=(size, size), mode="bilinear")
    # Every channel as a photo of its own: pooling all K to keep one would cost K times as much.
    planes = semantic_logits.flatten(0, 1)[:, None]
    rois = batch_rois(boxes)
    plane = rois[:, :1] * semantic_logits.shape[1] + channels[:, None].to(rois.dtype)
    seen = roi_align(
        planes,
        torch.cat([plane, rois[:, 1:]], dim=1),
        size,
        1.0 / stride,
        SAMPLING_RATIO,
        aligned=True,
    )
    return (enlarged + seen)[:, 0]


def semantic_loss(
    logits: Tensor, targets: Sequence[Target], channel_of_class: Tensor, stride: int
) -> Tensor:
    """Binary cross-entropy of (B, K, h, w) logits, summed over channels, mean over counted cells.

    A cell is what its centre shows. Cells of ignore regions that no instance covers do not count.
    """
    wanted, counted = [], []
    for target in targets:
        cells, known = semantic_targets(target, channel_of_class, logits.shape[1], stride)
        wanted.append(cells)
        counted.append(known)
    loss = nn.functional.binary_cross_entropy_with_logits(
        logits, torch.stack(wanted), reduction="none"
    ).sum(dim=1)
    weights = torch.stack(counted).float()
    return (loss * weights).sum() / weights.sum().clamp(min=1)


def semantic_targets(
    target: Target, channel_of_class: Tensor, channel_count: int, stride: int
) -> tuple[Tensor, Tensor]:
    """(K, h, w) float32, 1 where a channel's garment is, and (h, w) bool, the cells that count."""
    cells = target.masks[:, stride // 2 :: stride, stride // 2 :: stride].float()
    height, width = cells.shape[1:]
    wanted = torch.zeros(channel_count, height, width)
    for channel, covered in zip(channel_of_class[target.class_ids].tolist(), cells, strict=True):
        wanted[channel] = torch.maximum(wanted[channel], covered)
    ignored = torch.zeros(height, width, dtype=torch.bool)
    for x1, y1, x2, y2 in (target.ignore_boxes / stride).round().long().tolist():
        ignored[y1:y2, x1:x2] = True
    return wanted, ~ignored | (wanted > 0).any(dim=0)
