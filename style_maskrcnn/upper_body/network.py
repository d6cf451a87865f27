"""The upper-body network: one cut-out region → a vote on every attribute.

    region → backbone → C5 → 1×1 to 1280 channels → for each group a weighted mean over the cells
    → for each group a linear layer

A collar is looked for at the neck and a pattern everywhere, so every group weighs the cells its own
way (attention pooling: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018).

Dimension glossary
    K: regions; h, w: input size, multiples of 32; C: cells; G: groups; V: values of all groups
    together, group by group; E: 1280.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from style_maskrcnn.backbone import ARCHITECTURE, Backbone, fold_batch_norm
from style_maskrcnn.upper_body.config import NetworkConfig
from style_maskrcnn.upper_body.dataset import UNLABELLED
from style_maskrcnn.upper_body.groups import VoteGroup
from training import efficientnet_lite_weights


class UpperBodyNetwork(nn.Module):
    """(K, 3, h, w) normalised regions → logits (K, V)."""

    def __init__(
        self, config: NetworkConfig, groups: Sequence[VoteGroup], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.backbone = Backbone(pretrained, config.frozen_stages)
        self.expansion, channels = _expansion(pretrained)
        self.attention = nn.Conv2d(channels, len(self.groups), kernel_size=1)
        self.dropout = nn.Dropout(config.dropout)
        self.votes = nn.ModuleList(nn.Linear(channels, len(g.values)) for g in self.groups)
        # Equal weights at first: the mean over all cells, which ImageNet's weights are used to.
        nn.init.zeros_(self.attention.weight)
        for vote in self.votes:
            nn.init.normal_(vote.weight, std=0.01)
            nn.init.zeros_(vote.bias)

    def forward(self, regions: Tensor) -> Tensor:
        cells = self.expansion(self.backbone(regions)[-1])
        weights = self.attention(cells).flatten(2).softmax(dim=2)
        pooled = self.dropout(weights @ cells.flatten(2).transpose(1, 2))
        logits = [vote(pooled[:, i]) for i, vote in enumerate(self.votes)]
        return torch.cat(logits, dim=1)


def adjusted_loss(
    logits: Tensor,
    labels: Tensor,
    groups: Sequence[VoteGroup],
    shares: Sequence[NDArray],  # type: ignore[type-arg]
    *,
    prior: float = 1.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean over groups of the logit-adjusted cross-entropy of the labelled regions.

    logits: (K, V). labels: (K, G) int64 or `UNLABELLED`. shares: for each group how often its
    values occur. Adding their logarithm while learning makes the bare logits answer as if all
    values were alike often, which is what balanced accuracy asks for (Menon et al., "Long-tail
    Learning via Logit Adjustment", ICLR 2021).
    """
    total = logits.sum() * 0
    start = 0
    for column, group in enumerate(groups):
        stop = start + len(group.values)
        known = labels[:, column] != UNLABELLED
        if bool(known.any()):
            offset = prior * torch.as_tensor(shares[column]).log().to(logits)
            total = total + nn.functional.cross_entropy(
                logits[known, start:stop] + offset,
                labels[known, column],
                label_smoothing=smoothing,
            )
        start = stop
    return total / len(groups)


def _expansion(pretrained: bool) -> tuple[nn.Module, int]:
    """The classifier's last convolution, to 1280 channels, and their number."""
    network = timm.create_model(ARCHITECTURE, pretrained=False)
    if pretrained:
        network.load_state_dict(efficientnet_lite_weights.renamed_like(network.state_dict()))
    expansion = nn.Sequential(network.conv_head, network.bn2)
    fold_batch_norm(expansion)
    return expansion, int(network.num_features)
