"""Detectron2's own networks: trained, imported and served, all with a tiny Mask R-CNN."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402
from detectron2 import model_zoo  # noqa: E402
from detectron2.engine import DefaultPredictor  # noqa: E402

from detection.config import ConfigError  # noqa: E402
from detection.rcnn.config import load_rcnn_config  # noqa: E402
from detection.rcnn.importing import Checkpoint, import_checkpoint  # noqa: E402
from detection.rcnn.labels import labels_of, read_labels  # noqa: E402
from detection.rcnn.predictor import Detectron2Detector  # noqa: E402
from detection.rcnn.settings import (  # noqa: E402
    class_count_of,
    served_settings,
    set_min_score,
    training_settings,
)
from detection.rcnn.train import train_rcnn  # noqa: E402
from detection.rcnn.weights import read_weights  # noqa: E402
from detection.serving import open_detector  # noqa: E402
from tests.unit.detection.small_rcnn import (  # noqa: E402
    small_rcnn_config,
    write_checkpoint,
    write_small_deepfashion2,
)
from vision.bundle import Bundle, open_bundle  # noqa: E402
from vision.errors import ErrorCode, PermanentError  # noqa: E402
from vision.image import RgbImage  # noqa: E402
from vision.taxonomy import load_taxonomy  # noqa: E402

CLASSES = load_taxonomy().garment_classes


def imported(tmp_path: Path, **changes: object) -> Bundle:
    config, weights = write_checkpoint(tmp_path / "run")
    checkpoint = Checkpoint(config, weights, read_labels("deepfashion2"), 0.55, "unknown")
    checkpoint = dataclasses.replace(checkpoint, **changes)  # type: ignore[arg-type]
    return import_checkpoint(checkpoint, tmp_path / "weights" / "mine", "none")


def photo(width: int = 60, height: int = 64) -> RgbImage:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return RgbImage(pixels, "0" * 64)


def test_train_continue_import_and_serve(tmp_path: Path) -> None:
    data = write_small_deepfashion2(tmp_path / "df2")

    final = train_rcnn(small_rcnn_config(), data, tmp_path / "runs")
    first = torch.load(final, weights_only=True)["iteration"]
    train_rcnn(small_rcnn_config(MAX_ITER=3), data, tmp_path / "runs")

    # Detectron2 counts from 0 and says which step it finished last.
    assert (first, torch.load(final, weights_only=True)["iteration"]) == (1, 2)
    assert (final.parent / "labels.txt").read_text().splitlines()[0] == "short sleeve top"
    assert set(torch.load(final.parent / "model_best.pth", weights_only=True)) >= {"model"}
    labels = read_labels(str(final.parent / "labels.txt"))
    checkpoint = Checkpoint(final.parent / "config.yaml", final, labels, 0.0, "unknown")
    bundle = import_checkpoint(checkpoint, tmp_path / "weights" / "mine", "none")
    (found,) = open_detector(bundle).predict([photo()])
    assert found.class_names == CLASSES
    assert (found.scores >= 0).all()


def test_both_files_are_served_as_they_are(tmp_path: Path) -> None:
    bundle = imported(tmp_path)

    for name in ("config.yaml", "model_final.pth"):
        assert (bundle.path / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert open_bundle(bundle.path, "detection").runtime == "detectron2"
    assert bundle.output["min_score"] == 0.55


def test_answers_are_those_of_detectron2s_own_predictor(tmp_path: Path) -> None:
    bundle = imported(tmp_path)
    detector = open_detector(bundle, min_score=0.02, native=True)
    cfg = served_settings(bundle.path / "config.yaml")
    set_min_score(cfg, 0.02)
    cfg.MODEL.WEIGHTS = str(bundle.path / "model_final.pth")
    image = photo(90, 64)

    (found,) = detector.predict([image])
    expected = DefaultPredictor(cfg)(image.pixels[:, :, ::-1])["instances"].to("cpu")

    assert len(found) > 2
    assert detector.class_names == tuple(load_taxonomy().class_of_deepfashion2)
    order = np.argsort(-expected.scores.numpy(), kind="stable")
    np.testing.assert_allclose(found.scores, expected.scores.numpy()[order], atol=1e-5)
    np.testing.assert_allclose(found.xyxy, expected.pred_boxes.tensor.numpy()[order], atol=1e-3)


def test_the_networks_classes_become_garment_classes(tmp_path: Path) -> None:
    bundle = imported(tmp_path)
    detector = Detectron2Detector(bundle)
    box = np.array([[0, 0, 20, 20], [0, 0, 20, 19], [40, 40, 60, 60]], np.float32)

    # Short and long sleeve top at one place are one top; vest dress is a dress.
    found = detector._detections(
        box, np.array([0.7, 0.9, 0.8], np.float32), np.array([0, 1, 11], np.int64)
    )

    assert found.labels == ("top", "dress")
    np.testing.assert_allclose(found.scores, [0.9, 0.8])


def test_predictor_keeps_order_and_loads_anew_after_close(tmp_path: Path) -> None:
    detector = open_detector(imported(tmp_path), threads=1, min_score=0.02)
    photos = [photo(60, 64), photo(64, 40)]

    together = detector.predict(photos)
    detector.close()

    assert detector.predict([]) == []
    for one, image in zip(together, photos, strict=True):
        (alone,) = detector.predict([image])
        np.testing.assert_allclose(one.xyxy, alone.xyxy, atol=1e-3)
        assert (one.xyxy[:, 2] <= image.resolution_wh[0]).all()


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("was-run"),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["model_final.pth", "model_final.pkl"])
def test_no_code_in_a_checkpoint_is_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": {"a": torch.zeros(1).numpy()}, "hook": Harmful()}
    with Path(name).open("wb") as file:
        pickle.dump(content, file) if name.endswith("pkl") else torch.save(content, file)

    with pytest.raises(PermanentError, match="holds more than weights") as caught:
        read_weights(tmp_path / name)

    assert caught.value.code == ErrorCode.BUNDLE_INVALID
    assert not Path("was-run").exists()


@pytest.mark.parametrize("name", ["model_final.pth", "model_final.pkl"])
def test_numpy_arrays_of_the_model_zoo_are_read(tmp_path: Path, name: str) -> None:
    content = {"model": {"a.weight": np.eye(2, dtype=np.float32)}, "__author__": "Detectron2"}
    with (tmp_path / name).open("wb") as file:
        pickle.dump(content, file) if name.endswith("pkl") else torch.save(content, file)

    weights = read_weights(tmp_path / name)

    torch.testing.assert_close(weights, {"a.weight": torch.eye(2)})


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    _, weights = write_checkpoint(tmp_path / "other", class_count=5)

    with pytest.raises(PermanentError, match=r"is of another network: .*size mismatch"):
        imported(tmp_path, weights=weights)
    assert not (tmp_path / "weights" / "mine").exists()

    content = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    del content["model"]["backbone.fpn_lateral2.weight"]
    torch.save(content, tmp_path / "less.pth")
    with pytest.raises(PermanentError, match=r"it lacks 1: backbone.fpn_lateral2.weight"):
        imported(tmp_path, weights=tmp_path / "less.pth")


def test_labels_must_be_as_many_as_classes(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="2 labels for a network of 13 classes") as caught:
        imported(tmp_path, labels=labels_of(("top", "bag")))
    assert caught.value.code == ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("VERSION: 2\nMODEL: {BACKBONE: {NAME: build_vgg}}", "'build_vgg'; known: .*build_resnet"),
        ("VERSION: 2\nMODEL: {COLOUR: red}", "MODEL.COLOUR"),
        ("_BASE_: /etc/base.yaml", "builds on another file"),
        ("VERSION: 1\n", "of version 1"),
        ("- 1", "no mapping"),
        ("x: !!python/object/apply:pathlib.Path.touch [was-run]", "could not determine a constr"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(PermanentError, match=message) as caught:
        served_settings(path)
    assert caught.value.code == ErrorCode.BUNDLE_INVALID


@pytest.mark.parametrize(
    ("name", "zoo"),
    [
        ("deepfashion2_faster_rcnn_r50_fpn", "COCO-Detection/faster_rcnn_R_50_FPN_3x"),
        ("deepfashion2_mask_rcnn_r50_fpn", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"),
    ],
)
def test_shipped_configurations_are_detectron2s(tmp_path: Path, name: str, zoo: str) -> None:
    config = load_rcnn_config(Path("configs/detection") / f"{name}.yaml")

    cfg = training_settings(config, 13, tmp_path)
    scratch = training_settings(dataclasses.replace(config, pretrained=False), 13, tmp_path)

    assert class_count_of(cfg) == 13
    weights = cfg.MODEL.WEIGHTS.removeprefix("detectron2://")
    assert model_zoo.get_checkpoint_url(f"{zoo}.yaml").endswith(weights)
    assert (scratch.MODEL.WEIGHTS, scratch.MODEL.BACKBONE.FREEZE_AT) == ("", 0)


def test_weights_that_cannot_be_fetched_are_named(tmp_path: Path) -> None:
    data = write_small_deepfashion2(tmp_path / "df2")
    config = small_rcnn_config()
    model = config.detectron2["MODEL"] | {"WEIGHTS": "http://127.0.0.1:9/R-50.pkl"}
    config = dataclasses.replace(
        config, pretrained=True, detectron2=config.detectron2 | {"MODEL": model}
    )

    with pytest.raises(PermanentError, match=r"not be fetched.*`pretrained: false`") as caught:
        train_rcnn(config, data, tmp_path / "runs")
    assert caught.value.code == ErrorCode.MODEL_UNAVAILABLE


def test_an_unknown_key_or_backbone_is_named(tmp_path: Path) -> None:
    data = write_small_deepfashion2(tmp_path / "df2")
    for model, message in (
        ({"BACKBONE": {"NAME": "build_vgg"}}, "MODEL.BACKBONE.NAME is 'build_vgg'; known: "),
        ({"COLOUR": 1}, "MODEL.COLOUR"),
    ):
        config = dataclasses.replace(small_rcnn_config(), detectron2={"MODEL": model})
        with pytest.raises(ConfigError, match=message):
            train_rcnn(config, data, tmp_path / "runs")
