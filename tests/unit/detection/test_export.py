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
from detection.network import DetectorNetwork, build_network, raw_outputs  # noqa: E402
from detection.predictor import GarmentDetector  # noqa: E402
from detection.train import BEST_CHECKPOINT, train  # noqa: E402
from tests.unit.detection.small_run import (  # noqa: E402
    small_config,
    small_two_stage_config,
    write_small_set,
)
from vision.bundle import open_bundle  # noqa: E402
from vision.image import RgbImage  # noqa: E402
from vision.session import OnnxSession  # noqa: E402
from vision.taxonomy import load_taxonomy  # noqa: E402

CONFIG = small_config()
TWO_STAGE = small_two_stage_config()


@pytest.fixture
def network() -> DetectorNetwork:
    """Random weights with opinions: a fresh head gives every place the same low score."""
    torch.manual_seed(0)
    fresh = build_network(CONFIG.network, len(load_taxonomy().garment_classes))
    nn.init.normal_(fresh.head.cls_score.weight, std=0.2)
    nn.init.constant_(fresh.head.cls_score.bias, -2.0)
    nn.init.normal_(fresh.head.bbox_pred.weight, std=0.05)
    nn.init.constant_(fresh.head.bbox_pred.bias, 1.5)
    checkpoint = {"average": fresh.state_dict()}
    return restored_network(CONFIG, checkpoint)


@pytest.fixture
def two_stages() -> DetectorNetwork:
    """As `network`, with two stages."""
    torch.manual_seed(0)
    fresh = build_network(TWO_STAGE.network, len(load_taxonomy().garment_classes))
    predictor = fresh.roi_heads.box_predictor
    nn.init.normal_(fresh.proposal_generator.rpn_head.objectness_logits.weight, std=0.5)
    nn.init.normal_(predictor.cls_score.linear.weight, std=3.0)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.5)
    return restored_network(TWO_STAGE, {"average": fresh.state_dict()})


def drawn_photo(width: int, height: int, seed: int) -> RgbImage:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return RgbImage(np.kron(noise, np.ones((8, 8, 1), np.uint8)), "0" * 64)


@pytest.mark.parametrize(("count", "height", "width"), [(1, 96, 64), (3, 64, 160), (2, 256, 192)])
def test_the_graph_takes_any_batch_and_size(
    network: DetectorNetwork, tmp_path: Path, count: int, height: int, width: int
) -> None:
    export_graph(network, tmp_path / "model.onnx")
    images = torch.randn(count, 3, height, width)

    outputs = OnnxSession(tmp_path / "model.onnx", threads=1).run({"images": images.numpy()})
    with torch.inference_mode():
        expected = raw_outputs(network)(images)

    assert list(outputs) == ["class_logits", "distances", "centerness"]
    for actual, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(96, 64), (64, 160), (256, 192)])
def test_the_graph_of_two_stages_takes_any_size(
    two_stages: DetectorNetwork, tmp_path: Path, height: int, width: int
) -> None:
    export_graph(two_stages, tmp_path / "model.onnx")
    images = torch.randn(1, 3, height, width)

    outputs = OnnxSession(tmp_path / "model.onnx", threads=1).run({"images": images.numpy()})
    with torch.inference_mode():
        expected = raw_outputs(two_stages)(images)

    assert list(outputs) == ["boxes", "probabilities"]
    assert len(outputs["boxes"][0]) > 20
    for actual, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=1e-3, atol=1e-3)


def test_two_stages_agree_with_detectron2(two_stages: DetectorNetwork, tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "ccp.zip")
    checkpoint = tmp_path / "best.pt"
    content = {"average": two_stages.state_dict(), "config": config_to_mapping(TWO_STAGE)}
    torch.save(content, checkpoint)

    bundle = export(checkpoint, TWO_STAGE, data, tmp_path / "weights" / "small")

    assert bundle.architecture.startswith("Detectron2 Faster R-CNN")
    detector = GarmentDetector(bundle, min_score=0.05)
    photos = [drawn_photo(120, 200, seed) for seed in range(3)] + [drawn_photo(200, 120, 3)]
    parity = measure_parity(two_stages, detector, photos, 96)
    assert parity.holds
    assert parity.detections > 30
    # Photos of one size are asked one by one, and answered in their order.
    together = detector.predict(photos)
    for photo, found in zip(photos, together, strict=True):
        (alone,) = detector.predict([photo])
        np.testing.assert_array_equal(found.xyxy, alone.xyxy)


def test_a_small_run_becomes_a_bundle_that_agrees_with_detectron2(
    network: DetectorNetwork, tmp_path: Path
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


def test_a_graph_of_other_weights_does_not_pass(network: DetectorNetwork, tmp_path: Path) -> None:
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


def test_a_checkpoint_of_another_network_is_refused(
    network: DetectorNetwork, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "best.pt"
    torch.save({"average": network.state_dict(), "config": config_to_mapping(CONFIG)}, checkpoint)
    other = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, head_convs=3))

    with pytest.raises(ConfigError, match="another network"):
        export(checkpoint, other, tmp_path / "none.zip", tmp_path / "weights")
