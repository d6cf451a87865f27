from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402
from torch import nn  # noqa: E402

from detection.config import ConfigError, config_to_mapping  # noqa: E402
from detection.export import export, export_graph, measure_parity, restored_network  # noqa: E402
from detection.network import GarmentFcos, RawOutputs, build_network  # noqa: E402
from detection.predictor import GarmentDetector  # noqa: E402
from detection.train import BEST_CHECKPOINT, train  # noqa: E402
from tests.unit.detection.small_run import small_config, write_small_set  # noqa: E402
from vision.bundle import open_bundle  # noqa: E402
from vision.image import RgbImage  # noqa: E402
from vision.session import OnnxSession  # noqa: E402
from vision.taxonomy import load_taxonomy  # noqa: E402

CONFIG = small_config()


@pytest.fixture
def network() -> GarmentFcos:
    """Random weights with opinions: a fresh head gives every place the same low score."""
    torch.manual_seed(0)
    fresh = build_network(CONFIG.network, len(load_taxonomy().garment_classes))
    nn.init.normal_(fresh.head.cls_score.weight, std=0.2)
    nn.init.constant_(fresh.head.cls_score.bias, -2.0)
    nn.init.normal_(fresh.head.bbox_pred.weight, std=0.05)
    nn.init.constant_(fresh.head.bbox_pred.bias, 1.5)
    checkpoint = {"average": fresh.state_dict()}
    return restored_network(CONFIG, checkpoint)


def drawn_photo(width: int, height: int, seed: int) -> RgbImage:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return RgbImage(np.kron(noise, np.ones((8, 8, 1), np.uint8)), "0" * 64)


@pytest.mark.parametrize(("count", "height", "width"), [(1, 96, 64), (3, 64, 160), (2, 256, 192)])
def test_the_graph_takes_any_batch_and_size(
    network: GarmentFcos, tmp_path: Path, count: int, height: int, width: int
) -> None:
    export_graph(network, tmp_path / "model.onnx")
    images = torch.randn(count, 3, height, width)

    outputs = OnnxSession(tmp_path / "model.onnx", threads=1).run({"images": images.numpy()})
    with torch.inference_mode():
        expected = RawOutputs(network)(images)

    assert list(outputs) == ["class_logits", "distances", "centerness"]
    for actual, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=1e-3, atol=1e-3)


def test_a_small_run_becomes_a_bundle_that_agrees_with_detectron2(
    network: GarmentFcos, tmp_path: Path
) -> None:
    data = write_small_set(tmp_path / "ccp.zip")
    checkpoint = tmp_path / "best.pt"
    torch.save({"average": network.state_dict(), "config": config_to_mapping(CONFIG)}, checkpoint)

    bundle = export(checkpoint, CONFIG, data, tmp_path / "weights" / "small")

    assert bundle == open_bundle(tmp_path / "weights" / "small", "detection")
    assert bundle.parity["detections"] > 0
    assert bundle.parity["unmatched"] == 0
    assert bundle.metrics["test"]["photos"] == 1
    photos = [drawn_photo(120, 200, seed) for seed in range(3)]
    parity = measure_parity(network, GarmentDetector(bundle, min_score=0.05), photos, 96)
    assert parity.holds
    assert parity.detections > 30


def test_a_graph_of_other_weights_does_not_pass(network: GarmentFcos, tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "ccp.zip")
    checkpoint = tmp_path / "best.pt"
    torch.save({"average": network.state_dict(), "config": config_to_mapping(CONFIG)}, checkpoint)
    bundle = export(checkpoint, CONFIG, data, tmp_path / "weights" / "small")
    with torch.no_grad():
        network.head.bbox_pred.bias += 0.5

    parity = measure_parity(network, GarmentDetector(bundle), [drawn_photo(120, 200, 0)], 96)

    assert not parity.holds


def test_what_training_writes_can_be_exported(tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "ccp.zip")
    best = train(CONFIG, data, tmp_path / "runs")
    assert best.name == BEST_CHECKPOINT

    bundle = export(best, CONFIG, data, tmp_path / "weights" / "small")

    assert bundle.labels["classes"] == list(load_taxonomy().garment_classes)
    assert 0 < float(bundle.output["min_score"]) < 1


def test_a_checkpoint_of_another_network_is_refused(network: GarmentFcos, tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.pt"
    torch.save({"average": network.state_dict(), "config": config_to_mapping(CONFIG)}, checkpoint)
    other = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, head_convs=3))

    with pytest.raises(ConfigError, match="another network"):
        export(checkpoint, other, tmp_path / "none.zip", tmp_path / "weights")
