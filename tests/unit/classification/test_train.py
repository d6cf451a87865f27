from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from classification.augment import GREY, Augmentation
from classification.config import TrainConfig
from classification.datasets import open_dataset
from classification.preprocess import normalise
from tests.drawn_ccp import write_folder
from tests.pictures import picture
from training.split import split_of
from vision.errors import PermanentError
from vision.taxonomy import load_taxonomy

keras = pytest.importorskip("keras")

from classification import train as training  # noqa: E402
from classification.train import (  # noqa: E402
    AcceptedAccuracy,
    AcceptedLabelsLoss,
    Batches,
    OneCycle,
    PlainBatches,
    SoftTargetsLoss,
    Source,
    load_source,
    phases,
    to_backend_layout,
)

CONFIG = TrainConfig(name="n", backbone="efficientnet_lite0", heads={"gender": 1.0})


def loss_of(p: list[float], accepted: list[int], smoothing: float = 0.0) -> float:
    """The loss of one row with probabilities `p`."""
    logits = np.log(np.array([p], np.float32)) + 3  # logits are free up to a constant
    loss = AcceptedLabelsLoss(smoothing)
    return float(loss(np.array([accepted], np.float32), logits))


def test_one_accepted_label_is_cross_entropy() -> None:
    assert loss_of([0.5, 0.25, 0.25], [0, 1, 0]) == pytest.approx(-np.log(0.25), abs=1e-5)


def test_accepted_labels_share_their_probability() -> None:
    assert loss_of([0.5, 0.25, 0.25], [1, 1, 0]) == pytest.approx(-np.log(0.75), abs=1e-5)


def test_smoothing_adds_the_mean_of_all_labels() -> None:
    # .9·(-ln .25) + .1·mean(-ln .5, -ln .25, -ln .25) = 1.24766 + .11552
    assert loss_of([0.5, 0.25, 0.25], [0, 1, 0], 0.1) == pytest.approx(1.36318, abs=1e-4)


def test_an_unlabelled_row_counts_nothing() -> None:
    logits = np.array([[2.0, 0.0], [9.0, -9.0]], np.float32)
    accepted = np.array([[0, 1], [0, 0]], np.float32)
    alone = float(AcceptedLabelsLoss()(accepted[:1], logits[:1]))

    # The mean of two rows, the second of which is nothing.
    assert float(AcceptedLabelsLoss()(accepted, logits)) == pytest.approx(alone / 2)


def test_accuracy_counts_labelled_rows_only() -> None:
    metric = AcceptedAccuracy()
    accepted = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    logits = np.array([[0, 5, 1], [3, 0, 1], [1, 2, 3]], np.float32)

    metric.update_state(accepted, logits)

    assert float(metric.result()) == pytest.approx(0.5)


def test_one_cycle_rises_to_its_peak_and_falls_to_nothing() -> None:
    cycle = OneCycle(peak=2.0, steps=100, warm_up=0.2)
    rates = [float(cycle(step)) for step in range(101)]

    assert np.argmax(rates) == 20
    assert rates[20] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)  # half-way down the cosine
    assert rates[100] == pytest.approx(0.0, abs=1e-6)
    assert 0 < rates[0] < 0.2


def source(value: int, count: int, gender: int) -> Source:
    """Photos whose pixels are value, value + 1, …; all of one gender."""
    images = np.empty((count, 8, 6, 3), np.uint8)
    images[:] = (value + np.arange(count, dtype=np.uint8))[:, None, None, None]
    accepted = np.zeros((count, 5), np.float32)
    accepted[:, gender] = 1
    return Source(images, {"gender": accepted}, Augmentation())


def batches(first_round: int = 0) -> Batches:
    return Batches(
        [(source(0, 10, 0), 4), (source(100, 3, 1), 2)],
        size_hw=(8, 6),
        steps=5,
        first_round=first_round,
        seed=7,
    )


def values_in(batch: np.ndarray) -> list[int]:
    """The grey value of each photo of a normalised batch."""
    return [int(v) for v in np.round((batch.reshape(len(batch), -1)[:, 0] + 1) * 127.5)]


def test_every_batch_mixes_the_sources_in_their_shares() -> None:
    images, targets = batches()[0]

    values = values_in(images)
    assert len(values) == 6
    assert all(value < 100 for value in values[:4])
    assert all(value >= 100 for value in values[4:])
    assert targets["gender"].argmax(axis=1).tolist() == [0, 0, 0, 0, 1, 1]


def test_every_photo_comes_once_before_any_comes_twice() -> None:
    seen = [value for index in range(5) for value in values_in(batches()[index][0])[:4]]

    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]


def test_a_later_round_goes_on_where_the_first_ended() -> None:
    running, resumed = batches(), batches(first_round=1)
    running.on_epoch_end()

    np.testing.assert_array_equal(running[2][0], resumed[2][0])
    assert (batches()[2][0] != resumed[2][0]).any()


def test_plain_batches_keep_order_and_leave_nothing_out() -> None:
    plain = PlainBatches(source(0, 10, 0), (8, 6), batch=4)

    assert [len(plain[i][0]) for i in range(len(plain))] == [4, 4, 2]
    assert values_in(plain[2][0]) == [8, 9]
    assert plain.labelled_heads == ("gender",)


def test_phases_change_the_size_at_a_round() -> None:
    config = replace(CONFIG, epochs=2.5, first_hw=(96, 72), first_share=0.9)

    assert phases(config) == [((96, 72), 0, 9), ((128, 96), 9, 10)]
    assert phases(CONFIG) == [((128, 96), 0, 16)]


STYLES = """id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage
1,Men,Apparel,Topwear,Tshirts,Blue,Summer,2012,Casual
2,Women,Footwear,Shoes,Heels,Red,Summer,2012,Casual
"""


def test_a_broken_image_is_left_out_and_reported(tmp_path: Path) -> None:
    files = {"images/1.jpg": picture().data[:60], "images/2.jpg": picture().data}
    dataset = open_dataset(write_folder(tmp_path, {"styles.csv": STYLES.encode(), **files}))

    loaded, skipped = load_source(dataset, "all", ("gender",), load_taxonomy())

    assert [entry.item_id for entry in skipped] == ["1"]
    assert loaded.images.shape == (1, 80, 60, 3)
    assert loaded.accepted["gender"].tolist() == [[0, 1, 0, 0, 0]]


def test_home_photos_that_are_wanted_must_be_given(tmp_path: Path) -> None:
    files = {f"images/{i}.jpg": picture().data for i in (1, 2)}
    dataset = open_dataset(write_folder(tmp_path, {"styles.csv": STYLES.encode(), **files}))

    # TensorFlow takes a number of threads only before its first computation.
    config = replace(CONFIG, photos_per_batch={"products": 2, "home_photos": 2}, threads=0)
    with pytest.raises(PermanentError, match="trains on home_photos; none are given"):
        training.train(config, [dataset], tmp_path / "run")


def test_another_configs_run_is_not_gone_on_with(tmp_path: Path) -> None:
    state = {"rounds": 3, "config": json.loads(json.dumps(asdict(CONFIG)))}
    (tmp_path / "state.json").write_text(json.dumps(state), encoding="utf-8")

    with pytest.raises(PermanentError, match=r"another config .*learning_rate"):
        training.train(replace(CONFIG, learning_rate=1e-4), [], tmp_path)


def test_a_warm_restart_takes_the_weights_and_not_the_optimisers_steps(tmp_path: Path) -> None:
    untrained = replace(CONFIG, pretrained=False)
    first = training._network(untrained, tmp_path / "first", steps=10)
    first.optimizer.iterations.assign(7)
    (tmp_path / "first").mkdir()
    first.save_weights(tmp_path / "first" / training.WEIGHTS)

    restarted = replace(untrained, start_from="first")
    second = training._network(restarted, tmp_path / "second", steps=10)

    for expected, weight in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert int(second.optimizer.iterations) == 0


def test_a_warm_restart_needs_the_finished_run(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="finish that run first"):
        training._network(replace(CONFIG, start_from="first"), tmp_path / "second", steps=10)


def test_frozen_layers_keep_their_weights_and_statistics(tmp_path: Path) -> None:
    config = replace(CONFIG, freeze_until="block15_expand")
    network = training._network(config, tmp_path, steps=10)
    before = [weight.copy() for weight in network.get_layer("stem_bn").get_weights()]
    learning = network.get_layer("block15_expand").get_weights()[0].copy()
    images = to_backend_layout(np.random.default_rng(0).random((4, 32, 32, 3), np.float32))
    labels = len(load_taxonomy().labels_of("gender"))

    network.train_on_batch(images, {"gender": np.eye(labels, dtype=np.float32)[[0, 1, 0, 1]]})

    for expected, weight in zip(before, network.get_layer("stem_bn").get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert np.any(network.get_layer("block15_expand").get_weights()[0] != learning)


def test_an_unknown_layer_to_freeze_until_lists_the_known_ones(tmp_path: Path) -> None:
    config = replace(CONFIG, freeze_until="conv9")
    with pytest.raises(PermanentError, match=r"no layer 'conv9'; known: .*block3_expand"):
        training._network(config, tmp_path, steps=10)


def test_soft_targets_are_met_by_cross_entropy() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25]], np.float32)) + 3

    # .8·(-ln .5) + .2·(-ln .25) = .55452 + .27726
    targets = np.array([[0.8, 0.2, 0.0]], np.float32)
    assert float(SoftTargetsLoss()(targets, logits)) == pytest.approx(0.83178, abs=1e-4)


def test_a_frequent_label_gets_a_start_that_is_not_learnt() -> None:
    # Nine photos of the first label to one of the second; an undecided network.
    logits = np.zeros((1, 2), np.float32)
    config = replace(CONFIG, class_balance=1.0, label_smoothing=0.0)
    counts = np.array([8999, 999])  # one more each, so that none is impossible
    for teacher in (None, "attribute_classifier"):
        loss = training._loss(replace(config, teacher=teacher), counts)
        frequent = float(loss(np.array([[1, 0]], np.float32), logits))
        rare = float(loss(np.array([[0, 1]], np.float32), logits))
        assert frequent == pytest.approx(-np.log(0.9), abs=1e-3)
        assert rare == pytest.approx(-np.log(0.1), abs=1e-3)
        again = type(loss).from_config(loss.get_config())
        assert float(again(np.array([[0, 1]], np.float32), logits)) == pytest.approx(rare)

    plain = training._loss(replace(config, class_balance=0.0), counts)
    assert float(plain(np.array([[1, 0]], np.float32), logits)) == pytest.approx(np.log(2))


def test_labels_of_the_train_split_are_counted(tmp_path: Path) -> None:
    ids = [str(i) for i in range(40)]
    rows = [f"{i},Women,Footwear,Shoes,Heels,Red,Summer,2012,Casual" for i in ids]
    files = {f"images/{i}.jpg": picture().data for i in ids}
    table = "\n".join([STYLES.splitlines()[0], *rows]).encode()
    dataset = open_dataset(write_folder(tmp_path, {"styles.csv": table, **files}))

    _, _, counts = training._load_sources(CONFIG, [dataset])

    women = load_taxonomy().labels_of("gender").index("Women")
    in_train = sum(split_of(i) == "train" for i in ids)
    assert 0 < in_train < 40
    assert counts["gender"].nonzero()[0].tolist() == [women]
    assert counts["gender"][women] == in_train


def test_photos_that_are_not_augmented_come_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    source = Source(images, {"a": np.eye(4, dtype=np.float32)}, GREY)
    batches = Batches([(source, 4)], size_hw=(28, 28), steps=1, first_round=0, seed=0, augment=0.0)

    seen, targets = batches[0]

    order = targets["a"].argmax(axis=1)
    np.testing.assert_array_equal(seen, to_backend_layout(normalise(images[order])))


def test_a_run_goes_on_when_settings_were_added_since(tmp_path: Path) -> None:
    config = json.loads(json.dumps(asdict(CONFIG)))
    del config["augment"]
    (tmp_path / "state.json").write_text(json.dumps({"rounds": 3, "config": config}))

    assert training._finished_rounds(tmp_path, CONFIG) == 3
