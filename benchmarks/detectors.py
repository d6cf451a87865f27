"""Average precision against milliseconds: the detector at several input sizes, in one run.

    python -m benchmarks.detectors --data clothing-co-parsing.zip --split validation --detectron2

Times are of one photo, scaled to 1000x1500 pixels, on two cores, from pixels to boxes; variants
take turns, so that other work on the machine hits all alike. It is the first photo of the split or,
without data, of samples/: a detector of two stages takes longer where it sees more. More names
after `--model` are timed at the size they serve. `--detectron2` times Detectron2's Faster R-CNN
with ResNet-50 and FPN at its own 800 pixels beside them, with random weights: what it would cost,
and nothing about how well it would do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from detection.datasets import ids_of_split
from detection.evaluate import as_found, predict_split
from detection.predictor import GarmentDetector, evaluation_min_score
from training.ccp import CcpDataset
from training.coco_scores import coco_scores
from vision.bundle import WEIGHTS_DIR, Bundle, open_bundle, resolve
from vision.image import EncodedImage, RgbImage, decode
from vision.taxonomy import load_taxonomy

R50_FPN = (
    Path(__file__).parent.parent / "configs" / "detection" / "deepfashion2_faster_rcnn_r50_fpn.yaml"
)
PHOTO_HW = (1500, 1000)
SAMPLE = Path(__file__).parent.parent / "samples" / "grace_hopper.jpg"
SIZES = (320, 416, 480, 544, 640)
ROUNDS = 12


def at_size(bundle: Bundle, long_side: int) -> Bundle:
    """The same bundle with its photos scaled to another long side."""
    return replace(bundle, input={**bundle.input, "long_side": long_side})


def detectron2_r50(threads: int) -> Callable[[RgbImage], object]:
    """Detectron2's own Faster R-CNN R50-FPN, short side 800, as its predictor runs it."""
    import torch
    from detectron2.engine import DefaultPredictor

    from detection.rcnn.config import load_rcnn_config
    from detection.rcnn.settings import training_settings

    torch.set_num_threads(threads)
    run = replace(load_rcnn_config(R50_FPN), pretrained=False)
    config = training_settings(run, len(load_taxonomy().garment_classes), Path("runs"))
    config.MODEL.DEVICE = "cpu"
    predictor = DefaultPredictor(config)
    return lambda image: predictor(image.pixels[..., ::-1])


def timed_photo(data: Path | None, split: str) -> RgbImage:
    """The first photo of Clothing Co-Parsing's split or, without data, a sample; at `PHOTO_HW`."""
    if data is None:
        content = SAMPLE.read_bytes()
    else:
        dataset = CcpDataset(data)
        content = dataset.photo_bytes(ids_of_split(dataset, split)[0])
    pixels = decode(EncodedImage(content)).pixels
    return RgbImage(np.asarray(cv2.resize(pixels, PHOTO_HW[::-1]), np.uint8), sha256="")


def core_and_wall_ms(
    runs: dict[str, Callable[[RgbImage], object]], image: RgbImage
) -> dict[str, tuple[float, float]]:
    """Name → median milliseconds of core time and of wall time, one photo a turn."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 2):
        for name, run in runs.items():
            cores, wall = time.process_time(), time.perf_counter()
            run(image)
            both = (time.process_time() - cores) * 1000, (time.perf_counter() - wall) * 1000
            if turn >= 2:  # the first two load and warm up
                spent[name].append(both)
    return {
        name: (statistics.median(c for c, _ in times), statistics.median(w for _, w in times))
        for name, times in spent.items()
    }


def precision(bundle: Bundle, data: Path, split: str, threads: int) -> dict[str, float]:
    """AP and AP50 of one variant on Clothing Co-Parsing."""
    detector = GarmentDetector(bundle, threads, evaluation_min_score(bundle))
    predicted = predict_split(detector, CcpDataset(data), split)
    found = [as_found(photo) for photo in predicted.found]
    scores = coco_scores(predicted.truth, found, detector.class_names)
    return {"AP": scores["AP"], "AP50": scores["AP50"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["default"])
    parser.add_argument("--weights-dir", type=Path, default=WEIGHTS_DIR)
    parser.add_argument("--data", type=Path, help="Clothing Co-Parsing; without it, times only")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--detectron2", action="store_true")
    given = parser.parse_args()
    bundle, *others = (
        open_bundle(resolve(name, "detection", given.weights_dir), "detection")
        for name in given.model
    )
    variants = {f"{bundle.name} at {size}": at_size(bundle, size) for size in SIZES}
    variants |= {f"{b.name} at {b.input['long_side']}": b for b in others}
    runs: dict[str, Callable[[RgbImage], object]] = {}
    for name, variant in variants.items():
        detector = GarmentDetector(variant, given.threads)
        runs[name] = lambda image, detector=detector: detector.predict([image])  # type: ignore[misc]
    if given.detectron2:
        runs["Detectron2 Faster R-CNN R50-FPN at 800"] = detectron2_r50(given.threads)
    for name, (cores, wall) in core_and_wall_ms(runs, timed_photo(given.data, given.split)).items():
        row = {"variant": name, "core_ms": round(cores, 1), "wall_ms": round(wall, 1)}
        if given.data is not None and name in variants:
            row |= precision(variants[name], given.data, given.split, given.threads)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
