"""Feature pyramid: every level sees the photo's context at its own resolution.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

Dimension glossary
    B: batch; C_l: the backbone's channels at level l; D: the pyramid's channels at every level.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """[(B, C_l, H_l, W_l)] fine to coarse, each half the last → [(B, D, H_l, W_l)]."""

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        for conv in [*self.lateral, *self.output]:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        merged = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = merged[level - 1] + nn.functional.interpolate(
                merged[level], scale_factor=2.0, mode="nearest"
            )
        return [conv(x) for conv, x in zip(self.output, merged, strict=True)]
