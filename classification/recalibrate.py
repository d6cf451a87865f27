"""Fit what a bundle says of its own answers on labelled photos; needs no training framework.

What is fitted is in `classification.calibrate`; an exported network gets it when it is exported, an
imported one, or one that shall serve other photos than it learnt from, by
`python -m classification calibrate`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classification.calibrate import calibrate
from classification.datasets import Sample
from classification.evaluate import accepted_labels, run
from classification.photos import Photos
from classification.postprocess import Decoder
from classification.predictor import AttributeClassifier
from vision.bundle import Bundle, write_bundle
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import load_taxonomy

LOGGER = logging.getLogger(__name__)


def calibrated(bundle: Bundle, photos: Photos, threads: int = 0) -> dict[str, Any]:
    """Temperatures, thresholds and hints, fitted on what the bundle's graph says of the
    `calibration` photos; what occurs together is counted in `train`.

    Raises `PermanentError` (`dataset_invalid`) when no photo of `calibration` can be used.
    """
    classifier = AttributeClassifier(bundle, threads)
    samples, logits, _ = run(classifier, photos, photos.split("calibration"))
    if not samples:
        raise PermanentError(ErrorCode.DATASET_INVALID, "no photo in split 'calibration'")
    decoder = classifier.decoder
    training = _encode(photos.split("train"), decoder)
    output = calibrate(decoder, logits, _encode(samples, decoder), training)
    LOGGER.info("calibrated on %d photos: %s", len(samples), output["temperatures"])
    return output


def recalibrate(bundle: Bundle, photos: Photos, threads: int = 0) -> Bundle:
    """Write the bundle anew with what `calibrated` fits, and without its figures, which are no
    longer true of it. Raises as `calibrated`.
    """
    return write_bundle(
        bundle.path,
        bundle.task,
        architecture=bundle.architecture,
        labels=bundle.labels,
        input=bundle.input,
        output={**bundle.output, **calibrated(bundle, photos, threads)},
        metrics={},
        data=bundle.data,
        licence=bundle.licence,
        command=bundle.command,
        parity=bundle.parity,
    )


def _encode(samples: Sequence[Sample], decoder: Decoder) -> dict[str, NDArray[np.float32]]:
    """Head → (N, C), 1 where a label is right; a bundle may have fewer labels than there are."""
    taxonomy = load_taxonomy()
    encoded = {}
    for head, labels in decoder.labels.items():
        index = {label: i for i, label in enumerate(labels)}
        rows = np.zeros((len(samples), len(labels)), np.float32)
        for row, names in zip(rows, accepted_labels(samples, head, taxonomy), strict=True):
            row[[index[name] for name in names if name in index]] = 1.0
        encoded[head] = rows
    return encoded
