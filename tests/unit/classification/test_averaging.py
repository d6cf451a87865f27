from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402

from classification.averaging import averaged, measure_batch_norms  # noqa: E402

RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(size=(64, 1)).astype(np.float32) for _ in range(3)]


def small_network(factor: float = 1.0) -> keras.Model:
    """X·factor through a batch norm."""
    given = keras.Input((1,))
    scaled = layers.Dense(1, use_bias=False, name="scaled")
    network = keras.Model(given, layers.BatchNormalization(name="norm")(scaled(given)))
    scaled.set_weights([np.array([[factor]], np.float32)])
    return network


def statistics(network: keras.Model) -> tuple[float, float]:
    """Mean and variance that the batch norm answers with."""
    *_, mean, variance = network.get_layer("norm").get_weights()
    return float(mean[0]), float(variance[0])


def test_every_batch_counts_alike() -> None:
    network = small_network(factor=2.0)

    measure_batch_norms(network, BATCHES)

    mean, variance = statistics(network)
    assert mean == pytest.approx(2 * np.mean([b.mean() for b in BATCHES]), abs=1e-5)
    assert variance == pytest.approx(4 * np.mean([b.var() for b in BATCHES]), rel=1e-4)
    assert network.get_layer("norm").momentum == 0.99


def test_what_is_left_be_keeps_its_statistics() -> None:
    network = small_network(factor=2.0)
    network.get_layer("norm").trainable = False

    measure_batch_norms(network, BATCHES)

    assert statistics(network) == (0.0, 1.0)


def test_without_photos_nothing_changes() -> None:
    network = small_network()
    measure_batch_norms(network, [])
    assert statistics(network) == (0.0, 1.0)


def test_averaged_weights_answer_with_statistics_of_their_own() -> None:
    network = small_network(factor=1.0)
    optimizer = keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5)
    network.compile(optimizer=optimizer, loss="mse")
    optimizer.build(network.trainable_variables)
    # One step without a rate makes the average the weights of now; then they move away.
    network.train_on_batch(BATCHES[0], BATCHES[0])
    network.get_layer("scaled").set_weights([np.array([[9.0]], np.float32)])
    before = statistics(network)

    with averaged(network, BATCHES):
        assert network.get_layer("scaled").get_weights()[0].item() == pytest.approx(1.0)
        _, variance = statistics(network)
        answers = network.predict(np.concatenate(BATCHES), verbose=0)
    assert variance == pytest.approx(np.mean([b.var() for b in BATCHES]), rel=1e-4)
    assert answers.std() == pytest.approx(1.0, abs=0.05)

    assert network.get_layer("scaled").get_weights()[0].item() == pytest.approx(9.0)
    assert statistics(network) == before
