from __future__ import annotations

import csv
import dataclasses
import itertools
import math
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402
from torch import nn  # noqa: E402

from detection.config import ConfigError, load_config  # noqa: E402
from detection.export import INPUT_NAME, OUTPUT_NAMES  # noqa: E402
from detection.network import RawOutputs, build_network  # noqa: E402
from detection.train import (  # noqa: E402
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    MovingAverage,
    _start_from,
    build_optimizer,
    learning_rate_factor,
    load_checkpoint,
    save_atomically,
    train,
)
from tests.unit.detection.small_run import small_config, write_small_set  # noqa: E402
from vision.bundle import GRAPH, WEIGHTS_DIR  # noqa: E402
from vision.session import OnnxSession  # noqa: E402

CONFIG_DIR = Path(__file__).resolve().parents[3] / "configs" / "detection"


def column(path: Path, name: str) -> list[float]:
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_a_run_is_continued_where_it_stopped(tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "ccp.zip")

    best = train(small_config(epochs=1), data, tmp_path / "runs")
    folder = best.parent
    first = load_checkpoint(folder / LAST_CHECKPOINT)
    train(small_config(epochs=3), data, tmp_path / "runs")
    second = load_checkpoint(folder / LAST_CHECKPOINT)

    # Four photos in batches of two are two steps an epoch.
    assert (first["next_step"], second["next_step"]) == (2, 6)
    assert column(folder / "losses.csv", "step") == [1, 2, 3, 4, 5, 6]
    for loss in ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"):
        assert all(math.isfinite(value) for value in column(folder / "losses.csv", loss))
    moments = second["optimizer"]["state"].values()
    assert {int(state["step"]) for state in moments} == {6}
    assert best == folder / BEST_CHECKPOINT
    assert set(load_checkpoint(best)["validation"]) >= {"AP", "AP50", "per_class"}


def test_a_finished_run_is_left_alone_and_another_configuration_refused(tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "ccp.zip")
    config = small_config(epochs=1)
    best = train(config, data, tmp_path / "runs")
    before = (best.parent / LAST_CHECKPOINT).read_bytes()

    train(config, data, tmp_path / "runs")

    assert (best.parent / LAST_CHECKPOINT).read_bytes() == before
    other = dataclasses.replace(config, network=dataclasses.replace(config.network, head_convs=2))
    with pytest.raises(ValueError, match="another configuration"):
        train(other, data, tmp_path / "runs")


def test_a_run_may_start_from_the_averaged_weights_of_anothers_best(tmp_path: Path) -> None:
    average = build_network(small_config().network, class_count=14).state_dict()
    (tmp_path / "first").mkdir()
    save_atomically({"average": average, "step": 7}, tmp_path / "first" / BEST_CHECKPOINT)

    network = build_network(small_config().network, class_count=14)
    _start_from(network, "first", tmp_path)

    torch.testing.assert_close(network.state_dict(), average)


def test_a_run_may_start_from_the_bundle_that_ships(tmp_path: Path) -> None:
    config = load_config(CONFIG_DIR / "fcos_efficientnet_lite0_mixed.yaml")
    network = build_network(config.network, class_count=14)

    _start_from(network, "garment_detector", tmp_path)

    images = torch.randn(1, 3, 96, 64)
    session = OnnxSession(WEIGHTS_DIR / "garment_detector" / GRAPH)
    expected = session.run({INPUT_NAME: images.numpy()})
    with torch.no_grad():
        actual = RawOutputs(network).eval()(images)
    for name, value in zip(OUTPUT_NAMES, actual, strict=True):
        torch.testing.assert_close(value, torch.from_numpy(expected[name]), atol=1e-3, rtol=1e-3)


def test_the_run_to_start_from_must_be_there(tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "ccp.zip")
    config = dataclasses.replace(small_config(), start_from="nowhere")
    with pytest.raises(ConfigError, match=r"start_from: .*nowhere.* is missing"):
        train(config, data, tmp_path / "runs")


def test_rows_behind_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "ccp.zip")
    folder = train(small_config(epochs=1), data, tmp_path / "runs").parent
    log = folder / "losses.csv"
    log.write_text(log.read_text() + "3,9.9,1,1,1\n4,9.9,1,1,1\n", encoding="utf-8")

    train(small_config(epochs=2), data, tmp_path / "runs")

    assert column(log, "step") == [1, 2, 3, 4]
    assert 9.9 not in column(log, "seconds")


def test_learning_rate_rises_and_falls() -> None:
    factors = [learning_rate_factor(step, steps=100, warmup_steps=20) for step in range(101)]

    assert factors[0] == 1 / 20
    assert factors[9] == 0.5
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.5)  # half of the remaining 80 steps
    assert factors[100] == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[20:]))


def test_moving_average() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    average = MovingAverage(network, decay=0.9)
    nn.init.constant_(network.weight, 2.0)

    average.update(network, step=0)  # decay 1/10: 0.1·1 + 0.9·2
    assert average.network.weight.item() == pytest.approx(1.9)
    average.update(network, step=10_000)  # decay .9: 0.9·1.9 + 0.1·2
    assert average.network.weight.item() == pytest.approx(1.91)
    assert not average.network.weight.requires_grad


def test_backbone_and_biases_are_treated_apart() -> None:
    config = small_config()
    network = build_network(config.network, class_count=3)

    groups = build_optimizer(network, config.schedule).param_groups

    settings = {(group["lr"], group["weight_decay"]) for group in groups}
    assert settings == {
        (rate, decay)
        for rate in (config.schedule.learning_rate, config.schedule.backbone_learning_rate)
        for decay in (config.schedule.weight_decay, 0.0)
    }
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
