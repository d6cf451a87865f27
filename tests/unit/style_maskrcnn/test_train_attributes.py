from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")

from style_maskrcnn.checkpoint import build, load_checkpoint, save_checkpoint  # noqa: E402
from style_maskrcnn.config import AttributeTrainingConfig, Config, DataConfig  # noqa: E402
from style_maskrcnn.datasets import LabelSet  # noqa: E402
from style_maskrcnn.train_attributes import calibrate, groups_of, train_attributes  # noqa: E402
from tests.unit.style_maskrcnn.drawing import product_files, write_zip  # noqa: E402
from tests.unit.style_maskrcnn.networks import CLASS_NAMES, COARSE, TINY  # noqa: E402
from vision.taxonomy import load_taxonomy  # noqa: E402

LABELS = LabelSet(CLASS_NAMES, COARSE)
CONFIG = Config(
    network=TINY,
    data=DataConfig(fractions={"train": 0.6, "calibration": 0.2, "test": 0.2}),
    attributes=AttributeTrainingConfig(
        products=150, object_sizes=(48.0, 52.0), epochs=40, batch_size=8, learning_rate=1e-3
    ),
)


def test_a_trunk_gets_a_head_that_tells_products_apart(tmp_path: Path) -> None:
    # Casual products are drawn blue, Sports orange; seasons are drawn alike.
    rows = [
        {
            "id": str(i),
            "usage": ("Casual", "Sports")[i % 2],
            "season": ("Summer", "Fall")[i // 2 % 2],
        }
        for i in range(240)
    ]
    data = write_zip(tmp_path / "products.zip", product_files(rows))
    torch.manual_seed(0)
    trunk = build(CONFIG, LABELS)
    save_checkpoint(tmp_path / "best.pt", trunk, CONFIG, LABELS, scores={"AP": 0.5})
    path = train_attributes(tmp_path / "best.pt", CONFIG, data, tmp_path, threads=1)
    trained = load_checkpoint(path)
    assert [g.name for g in trained.groups] == ["usage", "season"]
    assert trained.facts["scores"] == {"AP": 0.5}
    assert trained.facts["attribute_scores"]["usage"]["balanced_accuracy"] > 0.9
    assert set(trained.facts["confidence"]["season"]) == {"temperature", "min_confidence"}
    for name, tensor in trunk.state_dict().items():  # the trunk stayed as it was
        assert torch.equal(tensor, trained.network.state_dict()[name]), name


def test_an_unknown_attribute_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown attribute sleeve; known: gender"):
        groups_of(["sleeve"], load_taxonomy())


def test_calibration_cools_an_overconfident_head() -> None:
    # Says 98 % (logits ±2) and is right in 3 of 4: the fitting temperature makes that 75 %.
    logits = np.array([[4.0, 0.0]] * 4, np.float32)
    fitted = calibrate(logits, np.array([0, 0, 0, 1]))
    assert 4.0 / fitted["temperature"] == pytest.approx(np.log(3), rel=0.1)
    assert fitted["min_confidence"] == 0.0  # three of four right is enough for all answers


def test_calibration_refuses_answers_that_are_mostly_wrong() -> None:
    # Ten sure answers, nine right; ten unsure ones, one right: .5 of all, .9 of the sure ones.
    logits = np.array([[3.0, 0.0]] * 10 + [[0.5, 0.0]] * 10, np.float32)
    labels = np.array([0] * 9 + [1] + [0] + [1] * 9)
    fitted = calibrate(logits, labels)
    sure, unsure = (1 / (1 + np.exp(-v / fitted["temperature"])) for v in (3.0, 0.5))
    assert unsure < fitted["min_confidence"] == pytest.approx(sure, abs=1e-3)


def test_calibration_of_a_head_that_is_never_right_refuses_all_but_the_surest() -> None:
    fitted = calibrate(np.array([[3.0, 0.0], [1.0, 0.0]], np.float32), np.array([1, 1]))
    sure, unsure = (1 / (1 + np.exp(-v / fitted["temperature"])) for v in (3.0, 1.0))
    assert unsure < fitted["min_confidence"] == pytest.approx(sure, abs=1e-3)
