"""How long one crop takes a classifier, preprocessing left out.

    python -m benchmarks.classifier attribute_classifier --threads 2

Wall time, of which other work on the machine spoils the median before the least, and the time that
cores worked for it, which other work hardly changes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from classification.predictor import IMAGES, MAX_BATCH
from classification.preprocess import InputForm, batch_of
from vision.bundle import WEIGHTS_DIR, open_bundle, resolve
from vision.session import OnnxSession


def milliseconds_a_crop(folder: Path, threads: int, batch: int, rounds: int) -> dict[str, object]:
    """Milliseconds a crop over the rounds: median and least wall time, and the least core time."""
    bundle = open_bundle(folder, "classification")
    form = InputForm.from_metadata(bundle.input)
    noise = np.random.default_rng(0).integers(0, 256, (batch, *form.size_hw, 3), dtype=np.uint8)
    inputs = {IMAGES: batch_of(list(noise), form)}
    session = OnnxSession(bundle.graph_path, threads)
    wall, cores = [], []
    for _ in range(rounds + 2):
        start, worked = time.perf_counter(), time.process_time()
        session.run(inputs)
        wall.append((time.perf_counter() - start) * 1000 / batch)
        cores.append((time.process_time() - worked) * 1000 / batch)
    wall, cores = wall[2:], cores[2:]  # the first two load and warm up
    return {
        "model": bundle.name,
        "megabytes": round(bundle.graph_path.stat().st_size / 1e6, 1),
        "threads": threads,
        "batch": batch,
        "median_ms": round(statistics.median(wall), 2),
        "least_ms": round(min(wall), 2),
        "core_ms": round(min(cores), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--weights-dir", type=Path, default=WEIGHTS_DIR)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=MAX_BATCH)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    for model in given.models:
        folder = resolve(model, "classification", given.weights_dir)
        print(json.dumps(milliseconds_a_crop(folder, given.threads, given.batch, given.rounds)))


if __name__ == "__main__":
    main()
