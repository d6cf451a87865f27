"""Mask head: which pixels of its box an instance covers.

He et al., "Mask R-CNN", ICCV 2017. A mask channel belongs to a garment class, not to a fine tag:
a blouse and a shirt are cut out the same way, and rare tags learn from the frequent ones.

Dimension glossary
    R: positive proposals of all photos; M: instances of one photo; D: pyramid channels;
    K: mask channels; C: classes; S: side of the mask that is learnt, 28 for this head's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

POOL_SIZE = 14
MASK_SIZE = 28


class MaskHead(nn.Module):
    """(R, D, 14, 14) and (R,) class ids → mask logits (R, 28, 28).

    channel_of_class: C mask channels, one for each class; classes may share one.
    """

    def __init__(
        self, channels: int, width: int, depth: int, channel_of_class: Sequence[int]
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [
                nn.Conv2d(channels if index == 0 else width, width, 3, padding=1),
                nn.ReLU(inplace=True),
            ]
        self.convs = nn.Sequential(*layers)
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, max(channel_of_class) + 1, 1)
        self.register_buffer("channel_of_class", torch.tensor(list(channel_of_class)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.logits.weight, std=0.001)

    def forward(self, pooled: Tensor, class_ids: Tensor) -> Tensor:
        hidden = nn.functional.relu(self.upsample(self.convs(pooled)))
        channels = self.channel_of_class[class_ids]
        every = self.logits(hidden).float()
        index = channels[:, None, None, None].expand(-1, 1, MASK_SIZE, MASK_SIZE)
        return every.gather(1, index).squeeze(1)


def mask_targets(masks: Tensor, boxes: Tensor, matched: Tensor, size: int = MASK_SIZE) -> Tensor:
    """(R, S, S) float, 1 inside: each box's view of its instance's mask.

    masks: (M, H, W) uint8. boxes: (R, 4). matched: (R,) index into the M instances.
    """
    rois = torch.cat([matched[:, None].to(boxes.dtype), boxes], dim=1)
    seen = roi_align(masks[:, None].float(), rois, size, 1.0, 2, aligned=True)
    return (seen[:, 0] >= 0.5).float()


def mask_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean binary cross-entropy of (R, S, S) logits; 0 when no proposal is positive."""
    if len(logits) == 0:
        return logits.sum() * 0
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted)
