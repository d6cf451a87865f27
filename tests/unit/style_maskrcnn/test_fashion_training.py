from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")

from style_maskrcnn.attribute_head import multi_label_loss  # noqa: E402
from style_maskrcnn.checkpoint import load_checkpoint  # noqa: E402
from style_maskrcnn.config import (  # noqa: E402
    Config,
    DataConfig,
    InputConfig,
    ScheduleConfig,
    load_config,
)
from style_maskrcnn.datasets import make_view  # noqa: E402
from style_maskrcnn.evaluate import evaluate  # noqa: E402
from style_maskrcnn.export import export  # noqa: E402
from style_maskrcnn.predictor import StyleModel  # noqa: E402
from style_maskrcnn.train import load_data, train  # noqa: E402
from tests.unit.style_maskrcnn.drawing import draw, jpeg, write_folder  # noqa: E402
from tests.unit.style_maskrcnn.networks import TINY  # noqa: E402
from training.split import split_of  # noqa: E402

ROOT = Path(__file__).parents[3]
CATEGORIES = [{"id": 0, "name": "dress"}, {"id": 1, "name": "sleeve"}, {"id": 2, "name": "tie"}]
ATTRIBUTES = [{"id": 5, "name": "mini"}, {"id": 7, "name": "puff"}, {"id": 9, "name": "plain"}]
CONFIG = Config(
    network=TINY,
    input=InputConfig(long_side=64, train_long_sides=(64,)),
    data=DataConfig(layout="fashionpedia", min_instances=2, min_attributes=2),
    schedule=ScheduleConfig(epochs=1, batch_size=4, warmup_steps=1, evaluations=1, bf16=False),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine photos of a mini dress with a puffed sleeve; in one a tie, too rare to learn."""
    files, images, annotations = {}, [], []
    ids = [i for i in range(100) if split_of(str(i)) == "train"][:8]
    ids.append(next(i for i in range(100) if split_of(str(i)) == "validation"))
    for photo_id in ids:
        files[f"train/{photo_id}.jpg"] = jpeg(draw({"dress": (20, 20, 50, 70)})[0])
        images.append({"id": photo_id, "file_name": f"{photo_id}.jpg", "height": 96, "width": 64})
        shapes = [(0, [5], 20, 20, 50, 70), (1, [7, 5], 10, 20, 22, 40)]
        shapes += [(2, [], 30, 20, 36, 40)] if photo_id == ids[0] else []
        for category, attributes, x1, y1, x2, y2 in shapes:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": photo_id,
                    "category_id": category,
                    "attribute_ids": attributes,
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES,
        "attributes": ATTRIBUTES,
    }
    files["annotations.json"] = json.dumps(content).encode()
    return write_folder(tmp_path / "set", files)


def test_the_focal_loss_by_hand() -> None:
    # Probability a half everywhere: the focus is a quarter, the cross-entropy ln 2; of the first
    # instance two attributes may be asked, of the second one.
    logits, wanted = torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    allowed = torch.tensor([[True, True, False], [False, False, True]])
    loss = multi_label_loss(logits, wanted, allowed)
    assert float(loss) == pytest.approx(3 * 0.25 * np.log(2) / 2)
    assert float(multi_label_loss(logits[:0], wanted[:0], allowed[:0])) == 0


def test_each_category_has_its_own_attributes(data: Path) -> None:
    loaded = load_data(data, CONFIG)
    labels = loaded.labels
    assert labels.class_names == ("dress", "sleeve")
    assert labels.coarse_of_class == ("dress", "sleeve")  # the taxonomy knows no sleeve
    assert labels.attribute_names == ("mini", "puff", "plain")
    assert labels.attributes_of_class == ((0,), (0, 1))
    with_tie = next(s for s in loaded.train if len(s.ignore_boxes))
    assert with_tie.ignore_boxes.tolist() == [[30, 20, 36, 40]]
    assert with_tie.attribute_ids == ((0,), (1, 0))
    (photo,) = loaded.truth
    assert [(i.tag, i.xyxy) for i in loaded.truth[photo]] == [
        ("dress", (20, 20, 50, 70)),
        ("sleeve", (10, 20, 22, 40)),
    ]


def test_attributes_stay_with_their_instance_when_another_is_cropped_away(data: Path) -> None:
    sample = next(s for s in load_data(data, CONFIG).train if not len(s.ignore_boxes))
    views = [make_view(sample, 64, np.random.default_rng(seed)) for seed in range(40)]
    for view in views:
        expected = [((0,), (1, 0))[class_id] for class_id in view.class_ids]
        assert list(view.attribute_ids) == expected
    assert len(make_view(sample, 64, None).attribute_ids) == 2


def test_masks_and_attributes_are_learnt_with_one_command(tmp_path: Path, data: Path) -> None:
    best = train(CONFIG, data, tmp_path / "run", threads=1)
    log = (tmp_path / "run" / "log.csv").read_text()
    assert "fine_mask_AP" in log
    assert "coarse_mask_AP" not in log
    trained = load_checkpoint(best)
    assert trained.labels.attributes_of_class == ((0,), (0, 1))
    assert trained.network.allowed.tolist() == [[True, False, False], [True, True, False]]
    bundle = export(best, CONFIG, data, tmp_path / "weights" / "drawn", 1)
    spec = StyleModel(bundle, 1).output
    assert (spec.attribute_names, spec.attributes_of_class) == (
        ("mini", "puff", "plain"),
        ((0,), (0, 1)),
    )
    assert bundle.parity["measured"]["attributes"] <= bundle.parity["tolerance"]["attributes"]
    assert bundle.metrics["validation"]["photos"] == 1
    figures = evaluate(bundle, data, "all", 1)
    assert figures["photos"] == 9
    assert figures["categories"]["mask"]["instances"] == 18  # the ties are neither found nor missed


@pytest.mark.parametrize("layout", ["fashionpedia", "imaterialist"])
def test_the_shipped_configs_can_be_read(layout: str) -> None:
    config = load_config(ROOT / "configs" / "style_maskrcnn" / f"{layout}.yaml")
    assert config.data.layout == layout
