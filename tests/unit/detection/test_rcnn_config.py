from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from detection.config import ConfigError
from detection.rcnn.config import is_rcnn_config, load_rcnn_config
from detection.rcnn.labels import labels_of, read_labels
from detection.serving import open_detector
from vision.bundle import write_bundle
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import load_taxonomy

CONFIGS = Path("configs/detection")
NAMES = ("deepfashion2_faster_rcnn_r50_fpn", "deepfashion2_mask_rcnn_r50_fpn")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configurations(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"

    config = load_rcnn_config(path)

    assert is_rcnn_config(path)
    assert (config.name, config.layout, config.min_score) == (name, "deepfashion2", 0.55)
    assert config.detectron2["MODEL"]["MASK_ON"] == ("mask" in name)
    assert not is_rcnn_config(CONFIGS / "fcos_efficientnet_lite0.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layout: deepfashion2", "layout: voc", "layout is 'voc'; known: ccp, coco, deepfashion2"),
        ("min_score: 0.55", "min_score: 1.5", r"min_score is 1.5, must be in \[0, 1\]"),
        ("min_score: 0.55", "min_score: high", "wrong type"),
        ("min_score: 0.55", "score: 0.5", "unknown keys score; known: name, layout"),
        ("pretrained: true\n", "", "lacks pretrained"),
        ("  MODEL:", "#", "not YAML"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    text = (CONFIGS / f"{NAMES[0]}.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace(old, new), encoding="utf-8")

    with pytest.raises(ConfigError, match=message):
        load_rcnn_config(path)


def test_deepfashion2s_names_in_both_spellings(tmp_path: Path) -> None:
    by_id = read_labels("deepfashion2")
    assert by_id.classes[:4] == ("top", "top", "outerwear", "outerwear")
    assert by_id.classes[-1] == "dress"
    assert by_id.class_ids[7] == load_taxonomy().garment_classes.index("trousers")

    path = tmp_path / "labels.txt"
    path.write_text("short_sleeved_shirt\n\n sling dress\nbag\n", encoding="utf-8")
    labels = read_labels(str(path))
    assert labels.names == ("short_sleeved_shirt", "sling dress", "bag")
    assert labels.classes == ("top", "dress", "bag")
    assert read_labels("garments").classes == load_taxonomy().garment_classes


def test_unknown_labels_are_named() -> None:
    with pytest.raises(PermanentError, match="no garment class for toga, cloak; known: top"):
        labels_of(("top", "toga", "cloak"))
    with pytest.raises(PermanentError, match="neither deepfashion2, garments nor a file"):
        read_labels("deepfashion3")


@pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is not None, reason="Detectron2 is installed"
)
def test_a_bundle_of_detectron2_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name).write_bytes(b"?")
    bundle = write_bundle(
        tmp_path,
        "detection",
        runtime="detectron2",
        architecture="any",
        labels={},
        input={},
        output={},
        metrics={},
        data=[],
        licence="any",
        command="none",
        parity={},
    )

    with pytest.raises(PermanentError, match="detectron2 is not installed") as caught:
        open_detector(bundle)
    assert caught.value.code == ErrorCode.MODEL_UNAVAILABLE
