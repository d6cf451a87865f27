from __future__ import annotations

import csv
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

from torch import nn  # noqa: E402

from detection.config import ConfigError, DetectionConfig  # noqa: E402
from detection.network import build_network  # noqa: E402
from detection.train import (  # noqa: E402
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    MovingAverage,
    build_optimizer,
    learning_rate_factor,
    load_checkpoint,
    train,
)
from tests.unit.detection.small_run import (  # noqa: E402
    small_config,
    small_two_stage_config,
    write_small_set,
)


def column(path: Path, name: str) -> list[float]:
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("config_of", "losses"),
    [
        (small_config, ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr")),
        (small_two_stage_config, ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg")),
    ],
)
def test_a_run_is_continued_where_it_stopped(
    tmp_path: Path, config_of: Callable[..., DetectionConfig], losses: tuple[str, ...]
) -> None:
    data = write_small_set(tmp_path / "ccp.zip")

    best = train(config_of(epochs=1), data, tmp_path / "runs")
    folder = best.parent
    first = load_checkpoint(folder / LAST_CHECKPOINT)
    train(config_of(epochs=3), data, tmp_path / "runs")
    second = load_checkpoint(folder / LAST_CHECKPOINT)

    # Four photos in batches of two are two steps an epoch.
    assert (first["next_step"], second["next_step"]) == (2, 6)
    assert column(folder / "losses.csv", "step") == [1, 2, 3, 4, 5, 6]
    for loss in (*losses, "loss_semantic"):
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
