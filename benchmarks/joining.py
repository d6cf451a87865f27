"""How sure a style instance must be when the detector did not confirm it.

    python -m benchmarks.joining --data clothing-co-parsing.zip

Runs detector and style model on the `validation` and `calibration` photos of Clothing Co-Parsing
and prints precision, recall and F1 of all garments for each threshold of what is left over after
joining. `MIN_LEFT_OVER_SCORE` in services/pipeline/join.py is where F1 stops rising.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from detection.datasets import AnnotatedPhoto, ids_of_split, read_photo
from services.bootstrap import build_pipeline
from services.pipeline.join import FoundGarment, join
from services.settings import Settings
from training.ccp import CcpDataset
from vision.boxes import pairwise_iou
from vision.taxonomy import load_taxonomy

SPLITS = ("validation", "calibration")
THRESHOLDS = (0.31, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.01)
# Overlap that makes a found garment the true one, and that lays it in an ignore region.
RIGHT_IOU = 0.5
IGNORED_IOU = 0.3


def main(
    data: Annotated[Path, typer.Option(help="Clothing Co-Parsing, a folder or a zip.")],
) -> None:
    pipeline, dataset, taxonomy = build_pipeline(Settings()), CcpDataset(data), load_taxonomy()
    ids = [photo_id for split in SPLITS for photo_id in ids_of_split(dataset, split)]
    photos: list[tuple[AnnotatedPhoto, Sequence[FoundGarment]]] = []
    for photo_id in track(ids, "predicting", console=Console(stderr=True), transient=True):
        photo = read_photo(dataset, photo_id)
        (detections,) = pipeline.detector.predict([photo.image])
        (style,) = pipeline.style_model.predict([photo.image])
        photos.append((photo, join(detections, style, taxonomy, min_left_over_score=0.0)))
    table = Table("threshold", "precision", "recall", "F1", title=f"{len(ids)} photos")
    for threshold in THRESHOLDS:
        counts = np.sum([count(*photo, threshold) for photo in photos], axis=0)
        right, wrong, there = (int(value) for value in counts)
        f1 = 2 * right / (right + wrong + there)
        figures = (threshold, right / (right + wrong), right / there, f1)
        table.add_row(*(f"{figure:.3f}" for figure in figures))
    Console().print(table)


def count(
    photo: AnnotatedPhoto, found: Sequence[FoundGarment], threshold: float
) -> tuple[int, int, int]:
    """Found garments that are right and that are wrong, and how many there are."""
    names = load_taxonomy().garment_classes
    free = [truth for truth in photo.truth if truth.class_id is not None]
    ignored = [truth for truth in photo.truth if truth.class_id is None]
    there, right, wrong = len(free), 0, 0
    kept = [g for g in found if g.source == "detection" or (g.score or 0) >= threshold]
    for garment in sorted(kept, key=lambda g: -(g.score or 0)):
        hits = [
            truth
            for truth in free
            if truth.class_id is not None
            and names[truth.class_id] == garment.category
            and overlap(garment.xyxy, truth.xyxy) >= RIGHT_IOU
        ]
        if hits:
            free.remove(hits[0])
            right += 1
        elif not any(overlap(garment.xyxy, truth.xyxy) > IGNORED_IOU for truth in ignored):
            wrong += 1
    return right, wrong, there


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    boxes = np.array([first, second], np.float32)
    return float(pairwise_iou(boxes[:1], boxes[1:])[0, 0])


if __name__ == "__main__":
    typer.run(main)
