from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detection.config import ConfigError, config_from_mapping, config_to_mapping, load_config
from detection.rcnn.config import is_rcnn_config, load_rcnn_config

SHIPPED = Path("configs/detection/fcos_efficientnet_lite0.yaml")


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))


def test_every_shipped_configuration_is_valid_and_named_after_its_file() -> None:
    paths = sorted(SHIPPED.parent.glob("*.yaml"))

    assert SHIPPED in paths
    for path in paths:
        load = load_rcnn_config if is_rcnn_config(path) else load_config
        assert load(path).name == path.stem


def test_lists_become_tuples_and_come_back(content: dict[str, Any]) -> None:
    config = config_from_mapping(content)

    assert config.augmentation.canvas_wh == tuple(content["augmentation"]["canvas_wh"])
    assert config_from_mapping(config_to_mapping(config)) == config


def test_an_unknown_key_lists_the_known_ones(content: dict[str, Any]) -> None:
    content["network"]["fpn_chanels"] = 96
    with pytest.raises(ConfigError, match=r"network has unknown keys fpn_chanels; known: .*fpn_ch"):
        config_from_mapping(content)


def test_an_unknown_backbone_lists_the_known_ones(content: dict[str, Any]) -> None:
    content["network"]["backbone"] = "resnet50"
    with pytest.raises(ConfigError, match=r"'resnet50'; known: 'efficientnet_lite0'"):
        config_from_mapping(content)


def test_each_architecture_has_its_own_keys(content: dict[str, Any]) -> None:
    content["network"]["meta_architecture"] = "faster_rcnn"
    with pytest.raises(ConfigError, match=r"unknown keys center_.*; known: .*box_head_width"):
        config_from_mapping(content)
    for key in ("head_convs", "head_norm", "center_sampling_radius"):
        del content["network"][key]
    with pytest.raises(ConfigError, match="network lacks box_head_width, looks"):
        config_from_mapping(content)

    content["network"] |= {"box_head_width": 64, "looks": [2, 1]}
    config = config_from_mapping(content)
    assert config_from_mapping(config_to_mapping(config)) == config
    content["network"]["looks"] = [2, 0]
    with pytest.raises(ConfigError, match=r"network\.looks is 0"):
        config_from_mapping(content)


def test_an_unknown_architecture_lists_the_known_ones(content: dict[str, Any]) -> None:
    content["network"]["meta_architecture"] = "yolo"
    with pytest.raises(ConfigError, match=r"'yolo'; known: 'fcos', 'faster_rcnn'"):
        config_from_mapping(content)


def test_a_missing_key_is_named(content: dict[str, Any]) -> None:
    del content["schedule"]["epochs"], content["schedule"]["seed"]
    with pytest.raises(ConfigError, match="schedule lacks epochs, seed"):
        config_from_mapping(content)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("network", "head_norm", "BN", "known: '', 'GN'"),
        ("network", "frozen_stages", 8, r"must be in \[0, 7\]"),
        ("network", "fpn_channels", "many", "wrong type"),
        ("network", "fpn_channels", 32, "multiple of 32 from 64"),
        ("augmentation", "canvas_wh", [320, 450], "multiples of 32"),
        ("augmentation", "canvas_wh", [320], "two positive integers"),
        ("augmentation", "long_side", [600, 400], "least, greatest"),
        ("augmentation", "close_ups", 1.5, r"augmentation\.close_ups is 1\.5"),
        ("augmentation", "close_up_long_side", [600, 400], "close_up_long_side must be"),
        ("augmentation", "flip", 1.5, r"augmentation\.flip is 1\.5"),
        ("schedule", "batch_size", 0, r"schedule\.batch_size"),
        ("schedule", "ema_decay", 2.0, r"schedule\.ema_decay"),
        ("inference", "nms_iou", -0.1, r"inference\.nms_iou"),
        ("inference", "long_side", 8, r"inference\.long_side"),
    ],
)
def test_values_out_of_range_are_named(
    content: dict[str, Any], section: str, key: str, value: object, message: str
) -> None:
    content[section][key] = value
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not YAML"), ("- 1\n- 2\n", "must be a mapping"), ("network: 1\n", "lacks name")],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
