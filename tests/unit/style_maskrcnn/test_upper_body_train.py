from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")

from style_maskrcnn.evaluate import evaluate  # noqa: E402
from style_maskrcnn.predictor import StyleModel  # noqa: E402
from style_maskrcnn.upper_body.config import (  # noqa: E402
    NetworkConfig,
    ScheduleConfig,
    UpperBodyConfig,
    load_config,
)
from style_maskrcnn.upper_body.export import calibrated, export_upper_body  # noqa: E402
from style_maskrcnn.upper_body.groups import GROUPS, VoteGroup  # noqa: E402
from style_maskrcnn.upper_body.network import UpperBodyNetwork, adjusted_loss  # noqa: E402
from style_maskrcnn.upper_body.predictor import UpperBodyModel  # noqa: E402
from style_maskrcnn.upper_body.region import RegionSpec  # noqa: E402
from style_maskrcnn.upper_body.train import (  # noqa: E402
    FINAL,
    LAST,
    Trainer,
    load_checkpoint,
    load_data,
    make_view,
    plain_spec,
    train,
)
from tests.unit.style_maskrcnn.bundles import DRESS, two_garments  # noqa: E402
from tests.unit.style_maskrcnn.drawing import voted_files, write_zip  # noqa: E402
from vision.bundle import Bundle  # noqa: E402
from vision.errors import PermanentError  # noqa: E402

CONFIG = UpperBodyConfig(
    region=RegionSpec(height=64, width=32),
    network=NetworkConfig(pretrained=False, frozen_stages=2),
    schedule=ScheduleConfig(epochs=2, batch_size=8, warmup_steps=2, evaluate_every=1),
)
PAIR = (VoteGroup("collar", "collar", ("no", "yes")), VoteGroup("scarf", "scarf", ("no", "yes")))


@pytest.fixture
def style(tmp_path: Path) -> Bundle:
    return two_garments(tmp_path / "style")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = {
        f"{i:06d}": {"sleevelength": str(i % 3 + 1), "pattern_stripe": str(i % 2 + 1)}
        for i in range(30)
    }
    return write_zip(tmp_path / "votes.zip", voted_files(rows))


def test_the_loss_allows_for_rare_values_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
    labels = torch.tensor([[1, -1]])
    shares = [np.array([0.75, 0.25]), np.array([0.5, 0.5])]
    # Alike logits plus the shares' logarithms are the shares: the loss is -ln .25, half of it since
    # of the two groups the other has no vote.
    loss = adjusted_loss(logits, labels, PAIR, shares)
    assert float(loss) == pytest.approx(-np.log(0.25) / 2)
    assert float(adjusted_loss(logits, labels, PAIR, shares, prior=0.0)) == pytest.approx(
        np.log(2) / 2
    )


def test_no_vote_at_all_costs_nothing() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    loss = adjusted_loss(logits, torch.full((2, 2), -1), PAIR, [np.ones(2) / 2] * 2)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_every_group_weighs_the_cells_its_own_way() -> None:
    torch.manual_seed(0)
    network = UpperBodyNetwork(NetworkConfig(pretrained=False), PAIR).eval()
    regions = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        before = network(regions)
        cells = network.expansion(network.backbone(regions)[-1]).mean(dim=(2, 3))
        assert torch.allclose(
            before[:, :2], network.votes[0](cells), atol=1e-5
        )  # the mean at first
        network.attention.weight[1] = 1.0
        after = network(regions)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:], atol=1e-6)


def test_only_what_may_learn_changes_and_a_stopped_run_goes_on(
    tmp_path: Path, style: Bundle, data: Path
) -> None:
    torch.manual_seed(CONFIG.schedule.seed)
    model = StyleModel(style, 1, believed_only=False)
    run = tmp_path / "run"
    run.mkdir()
    loaded = load_data(data, model, CONFIG, run)
    assert loaded.train[0].boxes[0].tolist() == list(map(float, DRESS))
    stopped = Trainer(CONFIG, loaded, run)
    before = {name: value.clone() for name, value in stopped.network.state_dict().items()}
    stopped._step()
    after = stopped.network.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"attention", "backbone", "expansion", "votes"}
    assert torch.equal(before["backbone.stem.0.weight"], after["backbone.stem.0.weight"])
    stopped._save()
    resumed = Trainer(CONFIG, loaded, run)
    assert resumed.step == 1
    losses = stopped._step(), resumed._step()
    assert losses[0] != 0
    stop, go_on = (trainer._batch()[0] for trainer in (stopped, resumed))
    assert torch.equal(stop, go_on)


def test_from_photos_to_a_bundle_that_answers(tmp_path: Path, style: Bundle, data: Path) -> None:
    run, weights = tmp_path / "run", tmp_path / "weights"
    model = StyleModel(style, 1, believed_only=False)
    checkpoint = train(CONFIG, data, model, run, threads=1)
    assert checkpoint == run / FINAL
    assert {path.name for path in run.iterdir()} == {LAST, FINAL, "log.csv", "upper_bodies.json"}
    log = (run / "log.csv").read_text()
    assert log.count("validation_balanced_accuracy") == 2
    bundle = export_upper_body(checkpoint, data, model, weights / "drawn", run)
    assert bundle.parity["measured"]["logits"] <= bundle.parity["tolerance"]["logits"]
    assert bundle.licence.startswith("research only")
    figures = evaluate(style, data, "all", 1, UpperBodyModel(bundle, 1))
    assert (figures["photos"], figures["upper_body_found"], figures["upper_body_believed"]) == (
        30,
        1.0,
        1.0,
    )
    assert figures["attributes"]["sleeve_length"]["instances"] == 30
    assert figures["attributes"]["necktie"]["balanced_accuracy"] is None
    with pytest.raises(PermanentError, match="no bundle of them is named"):
        evaluate(style, data, "all", 1, None)


def test_too_few_photos_are_a_clear_error(tmp_path: Path, style: Bundle) -> None:
    data = write_zip(tmp_path / "few.zip", voted_files({"000001": {"collar": "1"}}))
    model = StyleModel(style, 1, believed_only=False)
    with pytest.raises(PermanentError, match="photos to train on"):
        train(CONFIG, data, model, tmp_path / "run", threads=1)
    with pytest.raises(PermanentError, match="does not exist"):
        load_checkpoint(tmp_path / "run" / FINAL)


def test_views_differ_but_repeat_for_a_seed(tmp_path: Path, style: Bundle, data: Path) -> None:
    model = StyleModel(style, 1, believed_only=False)
    (tmp_path / "run").mkdir()
    sample = load_data(data, model, CONFIG, tmp_path / "run").train[0]

    def view(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return make_view(sample, CONFIG.region, CONFIG.augmentation, rng)

    assert view(1).shape == (64, 32, 3)
    assert np.array_equal(view(1), view(1))
    assert not np.array_equal(view(1), view(2))


def test_calibration_cools_an_overconfident_vote() -> None:
    # Logits ±2 say 98 %; of each value three in four are right, so the fitting odds are three.
    count = sum(len(group.values) for group in GROUPS)
    logits = np.zeros((8, count), np.float32)
    collar = [group.name for group in GROUPS].index("collar")
    start = sum(len(group.values) for group in GROUPS[:collar])
    logits[:, start : start + 2] = [[2, -2]] * 3 + [[-2, 2]] + [[-2, 2]] * 3 + [[2, -2]]
    labels = np.full((8, len(GROUPS)), -1)
    labels[:, collar] = [0] * 4 + [1] * 4
    spec = calibrated(plain_spec(), logits, labels)
    assert 4 / spec.groups[collar].temperature == pytest.approx(np.log(3), rel=0.1)
    assert spec.groups[0].temperature == 1.0  # nobody voted


def test_a_config_names_its_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("schedule: {epoch: 3}\n")
    with pytest.raises(ValueError, match=r"wrong\.yaml: unknown key epoch .*known: epochs"):
        load_config(path)
