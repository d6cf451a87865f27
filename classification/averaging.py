"""What ships is a moving average of the weights, and its batch norms need statistics of their own.

Those that training leaves are what the last weights saw. The average lies elsewhere while the
learning rate is high, and answers by chance with them. Measured anew they fit (Izmailov et al.,
"Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2,
https://arxiv.org/abs/1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

Photos = Sequence[NDArray[np.float32]]


def measure_batch_norms(network: keras.Model, batches: Photos) -> None:
    """Give every batch norm that learns the mean statistics of these batches, in place.

    batches: photos as training shows them; some hundreds. A batch norm that is left be keeps what
    it has. Nothing happens without batches.
    """
    norms = _learning(network)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        for number, images in enumerate(batches):
            for norm in norms:
                # 0, 1/2, 2/3, …: each batch counts alike.
                norm.momentum = number / (number + 1)
            network(images, training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def averaged(network: keras.Model, batches: Photos) -> Iterator[None]:
    """The network as it would ship now: averaged weights, and batch norms measured with them.

    Its own weights and statistics are back when the context ends.
    """
    norms = _learning(network)
    before = [norm.get_weights() for norm in norms]
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(network)
    swap.on_test_begin()
    try:
        measure_batch_norms(network, batches)
        yield
    finally:
        swap.on_test_end()
        for norm, (*_, mean, variance) in zip(norms, before, strict=True):
            scale_and_shift = norm.get_weights()[:-2]
            norm.set_weights([*scale_and_shift, mean, variance])


def _learning(network: keras.Model) -> list[layers.BatchNormalization]:
    found = (layer for layer in network.layers if isinstance(layer, layers.BatchNormalization))
    return [layer for layer in found if layer.trainable]
