"""A tiny network with random weights that all network tests use. Needs torch and timm."""

from __future__ import annotations

from dataclasses import replace

from style_maskrcnn.config import (
    AttributeGroup,
    AttributeHeadConfig,
    BoxHeadConfig,
    MaskHeadConfig,
    NetworkConfig,
    ProposalConfig,
    SemanticHeadConfig,
)

GROUPS = (
    AttributeGroup("season", ("Summer", "Winter")),
    AttributeGroup("sleeve", ("none", "short", "long"), categories=("dress",)),
)
CLASS_NAMES = ("dress", "wedges", "bag")
COARSE = ("dress", "footwear", "bag")

TINY = NetworkConfig(
    pretrained=False,
    channels=8,
    canonical_size=48,
    proposals=ProposalConfig(
        anchor_sizes=((12.0,), (24.0,), (48.0,), (80.0,)),
        anchor_ratios=(0.5, 2.0),
        before_nms=100,
        keep_train=40,
        keep_test=20,
    ),
    box_head=BoxHeadConfig(width=16, dropout=0.0, sample=16, max_detections=10),
    mask_head=MaskHeadConfig(width=8, depth=1),
    attribute_head=AttributeHeadConfig(width=32, dropout=0.0),
)
# The same with a semantic head.
TINY_SEMANTIC = replace(TINY, semantic_head=SemanticHeadConfig(width=8))
