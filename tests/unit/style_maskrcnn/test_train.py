from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")
pytest.importorskip("faster_coco_eval")

from style_maskrcnn.checkpoint import build, load_checkpoint  # noqa: E402
from style_maskrcnn.config import (  # noqa: E402
    Config,
    DataConfig,
    InputConfig,
    ScheduleConfig,
    load_config,
)
from style_maskrcnn.datasets import LabelSet  # noqa: E402
from style_maskrcnn.postprocess import OutputSpec  # noqa: E402
from style_maskrcnn.train import (  # noqa: E402
    Progression,
    Trainer,
    average,
    averaging_decay,
    learning_rate_factor,
    load_data,
    make_optimizer,
    start_from,
    train,
)
from tests.unit.style_maskrcnn.drawing import ccp_files, write_zip  # noqa: E402
from tests.unit.style_maskrcnn.networks import TINY, TINY_SEMANTIC  # noqa: E402
from training.split import split_of  # noqa: E402
from vision.bundle import WEIGHTS_DIR, open_bundle  # noqa: E402
from vision.errors import PermanentError  # noqa: E402
from vision.session import OnnxSession  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "style_maskrcnn"

FRACTIONS = {"train": 0.6, "validation": 0.4}
CONFIG = Config(
    network=TINY,
    input=InputConfig(long_side=96, train_long_sides=(96,)),
    data=DataConfig(min_instances=1, fractions=FRACTIONS, repeat_threshold=0.0),
    schedule=ScheduleConfig(
        epochs=2, batch_size=2, warmup_steps=2, evaluations=1, bf16=False, checkpoint_minutes=0.0
    ),
)


@pytest.fixture
def ccp(tmp_path: Path) -> Path:
    regions = {"dress": (10, 10, 40, 60), "bag": (44, 60, 60, 80)}
    photos = {f"{i:04}": regions for i in range(12)}
    return write_zip(tmp_path / "ccp.zip", ccp_files(photos))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    assert [learning_rate_factor(s, 4, 0.0) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate_factor(9, 4, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor(9, 4, 1.0) == pytest.approx(0.0)


def test_the_schedule_runs_by_the_clock_when_that_is_further(ccp: Path, tmp_path: Path) -> None:
    schedule = replace(CONFIG.schedule, max_minutes=10.0)
    trainer = Trainer(replace(CONFIG, schedule=schedule), load_data(ccp, CONFIG), tmp_path)
    trainer.at = Progression(step=trainer.total_steps // 2, minutes=1.0)
    assert trainer.progress == pytest.approx(0.5)
    trainer.at.minutes = 8.0
    assert trainer.progress == pytest.approx(0.8)
    trainer.at.minutes = 12.0
    assert trainer.progress == 1.0


def test_average_moves_by_one_minus_the_decay() -> None:
    assert averaging_decay(0, 0.998) == pytest.approx(0.1)
    assert averaging_decay(10**6, 0.998) == 0.998
    kept, current = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(kept.weight, 1.0)
    torch.nn.init.constant_(current.weight, 2.0)
    average(kept, current, 0.9)
    assert kept.weight.item() == pytest.approx(1.1)


def test_the_backbone_learns_slower_and_biases_do_not_decay(ccp: Path, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, load_data(ccp, CONFIG), tmp_path)
    optimizer = make_optimizer(trainer.network, CONFIG)
    rates = {group["base_lr"] for group in optimizer.param_groups}
    assert rates == {CONFIG.schedule.learning_rate, CONFIG.schedule.learning_rate * 0.25}
    for group in optimizer.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
        assert all(p.requires_grad for p in group["params"])


def test_the_train_split_alone_is_trained_on(ccp: Path) -> None:
    data = load_data(ccp, CONFIG)
    assert {split_of(s.photo_id, FRACTIONS) for s in data.train} == {"train"}
    assert {split_of(photo, FRACTIONS) for photo in data.truth} == {"validation"}
    assert data.labels.class_names == ("dress", "bag")


def test_a_run_ends_with_a_network_that_loads(ccp: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    best = train(CONFIG, ccp, run, threads=1)
    checkpoint = load_checkpoint(best)
    assert checkpoint.config == CONFIG
    assert checkpoint.labels.class_names == ("dress", "bag")
    assert set(checkpoint.facts["scores"]) >= {"fine_mask_AP", "coarse_mask_AP"}
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert {"fine_mask_AP", "coarse_box_AP50"} <= {row["name"] for row in rows}


def test_a_resumed_run_goes_on_as_if_never_stopped(ccp: Path, tmp_path: Path) -> None:
    data = load_data(ccp, CONFIG)
    torch.manual_seed(0)
    whole = Trainer(CONFIG, data, tmp_path / "a")
    (tmp_path / "b").mkdir()
    start = {k: v.clone() for k, v in whole.network.state_dict().items()}
    halved = Trainer(CONFIG, data, tmp_path / "b")
    for trainer in (whole, halved):
        trainer.network.load_state_dict(start)
        trainer.averaged.load_state_dict(start)
    losses = []
    for step in range(4):
        torch.manual_seed(step)  # which anchors are sampled
        losses.append(whole._step())
    for step in range(2):
        torch.manual_seed(step)
        halved._step()
    halved._save()
    resumed = Trainer(CONFIG, data, tmp_path / "b")
    assert resumed.at.step == 2
    for step in range(2, 4):
        torch.manual_seed(step)
        assert resumed._step() == pytest.approx(losses[step], rel=1e-4)
    for ours, theirs in zip(
        resumed.averaged.parameters(), whole.averaged.parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_other_tags_do_not_resume(ccp: Path, tmp_path: Path) -> None:
    Trainer(CONFIG, load_data(ccp, CONFIG), tmp_path)._save()
    files = ccp_files({f"{i:04}": {"dress": (10, 10, 40, 60)} for i in range(12)})
    other = load_data(write_zip(tmp_path / "other.zip", files), CONFIG)
    with pytest.raises(PermanentError, match="was trained on other tags"):
        Trainer(CONFIG, other, tmp_path)


def test_a_run_may_start_from_the_bundle_that_ships(tmp_path: Path) -> None:
    bundle = open_bundle(WEIGHTS_DIR / "style_mask_rcnn", "style")
    spec = OutputSpec.from_bundle(bundle)
    labels = LabelSet(spec.class_names, spec.coarse_of_class)
    config = load_config(CONFIGS / "ccp_efficientnet_lite0.yaml")
    network = build(config, labels).eval()

    start_from(network, "style_mask_rcnn", labels, tmp_path)

    image = np.random.default_rng(0).normal(size=(1, 3, 192, 128)).astype(np.float32)
    expected = OnnxSession(bundle.graph_path).run({"image": image})
    with torch.no_grad():
        found = network(torch.from_numpy(image))
    assert len(found.scores) == len(expected["scores"])
    np.testing.assert_allclose(found.scores.numpy(), expected["scores"], atol=1e-4)


def test_a_run_may_start_from_the_best_of_another_run(ccp: Path, tmp_path: Path) -> None:
    train(CONFIG, ccp, tmp_path / "first")
    first = load_checkpoint(tmp_path / "first" / "best.pt")
    sharper = replace(CONFIG, start_from="first", network=TINY_SEMANTIC)

    begun = Trainer(sharper, load_data(ccp, sharper), tmp_path / "second").network

    before, after = first.network.state_dict(), begun.state_dict()
    same = [n for n in after if n in before and torch.equal(before[n], after[n])]
    assert {n for n in before if not n.startswith("attribute_head.")} <= set(same)
    assert (after["semantic_head.logits.weight"] == 0).all()


def test_a_run_of_another_network_is_not_started_from(ccp: Path, tmp_path: Path) -> None:
    sharper = replace(CONFIG, network=TINY_SEMANTIC)
    train(sharper, ccp, tmp_path / "sharper")
    data = load_data(ccp, CONFIG)
    with pytest.raises(PermanentError, match=r"start_from: .*best\.pt is of another network"):
        Trainer(replace(CONFIG, start_from="sharper"), data, tmp_path / "plain")


def test_a_bundle_of_other_tags_is_not_started_from(tmp_path: Path) -> None:
    labels = LabelSet(("kimono",), ("dress",))
    network = build(Config(), labels)

    with pytest.raises(PermanentError, match=r"style_mask_rcnn knows other tags.* kimono"):
        start_from(network, "style_mask_rcnn", labels, tmp_path)


def test_too_few_photos_is_an_error(tmp_path: Path) -> None:
    photo = next(f"{i:04}" for i in range(99) if split_of(f"{i:04}", FRACTIONS) == "train")
    files = ccp_files({photo: {"dress": (10, 10, 40, 60)}})
    with pytest.raises(PermanentError, match="has 1 photos to train on"):
        train(CONFIG, write_zip(tmp_path / "one.zip", files), tmp_path / "run")


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="does not exist"):
        load_checkpoint(tmp_path / "best.pt")
