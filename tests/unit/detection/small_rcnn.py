"""One of Detectron2's own networks, small enough to build and train within a test."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from detection.rcnn.config import RcnnConfig
from tests.drawn_ccp import write_folder
from tests.drawn_deepfashion2 import deepfashion2_files, item

SMALL_NETWORK = {
    "MODEL": {
        "MASK_ON": True,
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {
            "DEPTH": 50,
            "STEM_OUT_CHANNELS": 8,
            "WIDTH_PER_GROUP": 4,
            "RES2_OUT_CHANNELS": 8,
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 8},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TRAIN": 50,
            "PRE_NMS_TOPK_TEST": 50,
            "POST_NMS_TOPK_TRAIN": 20,
            "POST_NMS_TOPK_TEST": 20,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "BATCH_SIZE_PER_IMAGE": 16,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_FC": 1,
            "FC_DIM": 8,
            "POOLER_RESOLUTION": 3,
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 1,
            "CONV_DIM": 8,
            "POOLER_RESOLUTION": 4,
        },
    },
    "INPUT": {"MIN_SIZE_TRAIN": [48, 64], "MAX_SIZE_TRAIN": 64, "MIN_SIZE_TEST": 64},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 2,
        "BASE_LR": 0.001,
        "MAX_ITER": 2,
        "STEPS": [],
        "CHECKPOINT_PERIOD": 1,
    },
    "TEST": {"EVAL_PERIOD": 2},
    "VERSION": 2,
}


def small_rcnn_config(**solver: object) -> RcnnConfig:
    network = SMALL_NETWORK | {"SOLVER": SMALL_NETWORK["SOLVER"] | solver}
    return RcnnConfig("small", "deepfashion2", "train", "validation", False, 0.55, network)


def write_small_deepfashion2(folder: Path) -> Path:
    """Four photos to train on and one to validate, each of a short sleeve top and trousers."""
    ids = [*(f"train/{n:06d}" for n in range(1, 5)), "validation/000001"]
    garments = [item(1, 10, 4, 50, 30), item(8, 14, 30, 46, 62)]
    return write_folder(folder, deepfashion2_files(dict.fromkeys(ids, garments)))


def write_checkpoint(folder: Path, class_count: int = 13) -> tuple[Path, Path]:
    """`config.yaml` and `model_final.pth` as a training with Detectron2 leaves them."""
    from detectron2.config import CfgNode, get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(SMALL_NETWORK))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = class_count
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    network = build_model(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    # Written on a machine with a GPU and for weights that nobody here has.
    content = yaml.safe_load(cfg.dump())
    content["MODEL"] |= {"DEVICE": "cuda", "WEIGHTS": "detectron2://ImageNetPretrained/R-50.pkl"}
    (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    saved = {"model": network.state_dict(), "optimizer": {"state": {}}, "iteration": 7}
    torch.save(saved, folder / "model_final.pth")
    return folder / "config.yaml", folder / "model_final.pth"
