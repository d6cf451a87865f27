from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402

from detection.backbone import PIXEL_MEAN, PIXEL_STD  # noqa: E402
from detection.config import ConfigError, load_config  # noqa: E402
from detection.export import INPUT_NAME  # noqa: E402
from detection.network import build_network, graph_form, raw_outputs  # noqa: E402
from detection.preprocess import InputFormat, prepare  # noqa: E402
from detection.train import load_checkpoint, save_atomically  # noqa: E402
from detection.warm_start import BEST_CHECKPOINT, start_from  # noqa: E402
from tests.unit.detection.small_run import TWO_STAGE, small_config  # noqa: E402
from training.graph_weights import graph_weights  # noqa: E402
from vision.boxes import pairwise_iou  # noqa: E402
from vision.bundle import GRAPH, WEIGHTS_DIR, open_bundle  # noqa: E402
from vision.errors import PermanentError  # noqa: E402
from vision.image import EncodedImage, decode  # noqa: E402
from vision.session import OnnxSession  # noqa: E402
from vision.taxonomy import load_taxonomy  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
CONFIG_DIR = ROOT / "configs" / "detection"
SAMPLES = ROOT / "samples"


def test_a_run_may_start_from_the_averaged_weights_of_anothers_best(tmp_path: Path) -> None:
    average = build_network(small_config().network, class_count=14).state_dict()
    (tmp_path / "first").mkdir()
    save_atomically({"average": average, "step": 7}, tmp_path / "first" / BEST_CHECKPOINT)

    network = build_network(small_config().network, class_count=14)
    start_from(network, "first", tmp_path)

    torch.testing.assert_close(network.state_dict(), average)


def test_a_run_may_start_from_the_bundle_that_ships(tmp_path: Path) -> None:
    config = load_config(CONFIG_DIR / "faster_rcnn_efficientnet_lite0.yaml")
    network = build_network(config.network, class_count=14)

    start_from(network, "garment_detector", tmp_path)

    images = torch.randn(1, 3, 96, 64)
    session = OnnxSession(WEIGHTS_DIR / "garment_detector" / GRAPH)
    expected = session.run({INPUT_NAME: images.numpy()})
    with torch.no_grad():
        actual = raw_outputs(network)(images)
    for name, value in zip(graph_form(network).names, actual, strict=True):
        torch.testing.assert_close(value, torch.from_numpy(expected[name]), atol=1e-3, rtol=1e-3)


def test_a_semantic_head_may_come_or_go(tmp_path: Path) -> None:
    plain = dataclasses.replace(small_config().network, semantic_channels=0)
    without, semantic = build_network(plain, 14), build_network(small_config().network, 14)
    for name, network in (("without", without), ("semantic", semantic)):
        save_atomically({"average": network.state_dict()}, checkpoint_at(tmp_path / name))

    start_from(semantic, "without", tmp_path)
    for name, weight in without.state_dict().items():
        assert torch.equal(semantic.state_dict()[name], weight)
    start_from(without, "semantic", tmp_path)
    saved = load_checkpoint(tmp_path / "semantic" / BEST_CHECKPOINT)["average"]
    for name, weight in without.state_dict().items():
        assert torch.equal(saved[name], weight)


def test_a_run_of_another_network_is_not_started_from(tmp_path: Path) -> None:
    network = build_network(small_config().network, 14)
    for name, change in (("deeper", {"head_convs": 2}), ("wider", {"fpn_channels": 96})):
        other = dataclasses.replace(small_config().network, **change)
        weights = build_network(other, 14).state_dict()
        save_atomically({"average": weights}, checkpoint_at(tmp_path / name))
        with pytest.raises(ConfigError, match=rf"{name}.* is of another network"):
            start_from(network, name, tmp_path)


def checkpoint_at(folder: Path) -> Path:
    folder.mkdir()
    return folder / BEST_CHECKPOINT


def test_two_stages_may_start_from_the_style_model(tmp_path: Path) -> None:
    config = load_config(CONFIG_DIR / "faster_rcnn_efficientnet_lite0.yaml")
    network = build_network(config.network, class_count=14)
    start_from(network, "style_mask_rcnn", tmp_path)

    pixels = decode(EncodedImage((SAMPLES / "astronaut.png").read_bytes())).pixels
    photo = prepare(pixels, InputFormat(256, PIXEL_MEAN, PIXEL_STD)).tensor[None]
    theirs = OnnxSession(WEIGHTS_DIR / "style_mask_rcnn" / GRAPH).run({"image": photo})["boxes"]
    with torch.no_grad():
        boxes, probabilities = raw_outputs(network)(torch.from_numpy(photo))

    # It finds every box of the style model: the same regions, moved alike.
    assert len(theirs) > 3
    assert pairwise_iou(theirs, boxes[0].numpy()).max(axis=1).min() > 0.99
    assert (probabilities.sum(dim=2) < 1).all()


def test_every_tag_becomes_a_look_of_its_class(tmp_path: Path) -> None:
    config = load_config(CONFIG_DIR / "faster_rcnn_efficientnet_lite0.yaml")
    network = build_network(config.network, class_count=14)
    start_from(network, "style_mask_rcnn", tmp_path)

    bundle = open_bundle(WEIGHTS_DIR / "style_mask_rcnn", "style")
    tags, taxonomy = list(bundle.labels["classes"]), load_taxonomy()
    weights = graph_weights(bundle.graph_path)
    rows = weights["network.box_head.classes.weight"]
    shift = weights["network.box_head.classes.bias"]
    features = torch.randn(5, rows.shape[1])
    of_tags = torch.softmax(features @ rows.T + shift, dim=1)
    with torch.no_grad():
        logits = network.roi_heads.box_predictor.cls_score(features)
    # A class is as likely as its tags together.
    for class_id, name in enumerate(taxonomy.garment_classes):
        members = [i for i, tag in enumerate(tags) if taxonomy.class_of_tag[tag] == name]
        assert len(members) == config.network.looks[class_id]
        expected = of_tags[:, members].sum(dim=1)
        torch.testing.assert_close(torch.softmax(logits, dim=1)[:, class_id], expected)


def test_two_stages_of_other_sizes_do_not_start_from_the_style_model(tmp_path: Path) -> None:
    network = build_network(TWO_STAGE, class_count=14)
    with pytest.raises(ConfigError, match=r"has no backbone\.fpn_lateral2\.weight of \(16, 24"):
        start_from(network, "style_mask_rcnn", tmp_path)


def test_one_stage_does_not_start_from_the_style_model(tmp_path: Path) -> None:
    network = build_network(small_config().network, class_count=14)
    with pytest.raises(PermanentError, match="is for 'style', not 'detection'"):
        start_from(network, "style_mask_rcnn", tmp_path)
