"""Attribute head: values of named groups for each instance.

Jia et al., "Fashionpedia: Ontology, Segmentation, and an Attribute Localization Dataset", ECCV 2020
(Attribute-Mask R-CNN). Two kinds: the values of a group exclude each other (softmax), as usages or
seasons do; of the attributes that Fashionpedia names an instance has any number (sigmoid), of those
that its category may have at all.

Dimension glossary
    R: instances; D: pyramid channels; G: groups; A: attributes of the second kind; V: values of all
    groups together, group by group, and then A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from style_maskrcnn.config import AttributeGroup

POOL_SIZE = 7
UNLABELLED = -1


class AttributeHead(nn.Module):
    """(R, D, 7, 7) → logits (R, V). With no groups V is 0 and nothing is computed."""

    def __init__(
        self,
        channels: int,
        groups: Sequence[AttributeGroup],
        width: int,
        dropout: float,
        attribute_count: int = 0,
    ) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.value_count = sum(len(group.values) for group in self.groups) + attribute_count
        self.layers: nn.Module | None = None
        if not self.value_count:
            return
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * POOL_SIZE**2, width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(width, self.value_count),
        )

    def forward(self, pooled: Tensor) -> Tensor:
        if self.layers is None:
            return pooled.flatten(1)[:, :0]  # a slice: its length stays dynamic when exported
        return self.layers(pooled).float()


def attribute_loss(
    logits: Tensor,
    labels: Tensor,
    groups: Sequence[AttributeGroup],
    weights: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Sum over groups of the mean cross-entropy of the labelled instances.

    logits: (R, V). labels: (R, G) int64, index of the value within its group or `UNLABELLED`.
    weights: group → (values,) class weights. A group that no instance has a label for adds 0.
    """
    total = logits.sum() * 0
    start = 0
    for column, group in enumerate(groups):
        stop = start + len(group.values)
        known = labels[:, column] != UNLABELLED
        if bool(known.any()):
            total = total + nn.functional.cross_entropy(
                logits[known, start:stop],
                labels[known, column],
                weight=None if weights is None else weights[group.name],
            )
        start = stop
    return total


def multi_label_loss(logits: Tensor, wanted: Tensor, allowed: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss of the attributes that each instance's category may have, a mean per instance.

    logits, wanted: (R, A), wanted 1 where an instance has the attribute. allowed: (R, A) bool. Most
    attributes are rare, so sure answers count little: Lin et al., "Focal Loss for Dense Object
    Detection", ICCV 2017. 0 without instances.
    """
    if not len(logits):
        return logits.sum() * 0
    losses = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = torch.where(wanted > 0, 1 - logits.sigmoid(), logits.sigmoid())
    return (losses * missed**gamma * allowed).sum() / len(logits)


def balanced_weights(labels: Tensor, value_count: int, power: float) -> Tensor:
    """(values,) class weights ∝ frequency^-power with mean 1 over the labelled (R,) instances.

    power 0 leaves every instance alike, 1 every value alike. Values never seen get 0.
    """
    known = labels[labels != UNLABELLED]
    counts = torch.bincount(known, minlength=value_count).float()
    raw = torch.where(counts > 0, counts.clamp(min=1) ** -power, torch.zeros_like(counts))
    return raw * (counts.sum() / (raw * counts).sum().clamp(min=1e-9))
