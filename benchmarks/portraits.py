"""How a detector does on people seen in part: whole photos cut below the chest or the waist.

    python -m benchmarks.portraits --data clothing-co-parsing.zip --model default

Clothing Co-Parsing shows people from head to foot; what shops send often does not. Each photo of
the `validation` and `calibration` splits is cut around its garments, from above the head down to a
share of their height, and the boxes that are left are judged by COCO's definitions. A garment of
which the cut leaves less than three tenths of its pixels is an ignore region.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from detection.datasets import AnnotatedPhoto, ids_of_split, read_photo
from detection.evaluate import as_found
from detection.predictor import GarmentDetector, evaluation_min_score
from training.ccp import CcpDataset
from training.coco_scores import TrueInstance, coco_scores
from vision.bundle import WEIGHTS_DIR, open_bundle, resolve
from vision.image import RgbImage

SPLITS = ("validation", "calibration")
# How far down the garments' height a photo goes: to about the waist and the chest.
SHARES = (0.5, 0.3)
# In units of the garments' height and width: room for a head above them, and at the sides.
ROOM_ABOVE, ROOM_BESIDE = 0.15, 0.1
LEAST_VISIBLE = 0.3


def cut(photo: AnnotatedPhoto, share: float) -> tuple[RgbImage, tuple[TrueInstance, ...]] | None:
    """The upper `share` of a photo's garments and the boxes in it; None without garments."""
    boxes = np.array([t.xyxy for t in photo.truth if t.class_id is not None])
    if not len(boxes):
        return None
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    height, width = bottom - top, right - left
    y1, y2 = max(0, int(top - ROOM_ABOVE * height)), int(top + share * height)
    x1, x2 = max(0, int(left - ROOM_BESIDE * width)), int(right + ROOM_BESIDE * width)
    pixels = np.ascontiguousarray(photo.image.pixels[y1:y2, x1:x2])
    rows, columns = pixels.shape[:2]
    truth = []
    for number, instance in enumerate(photo.truth, start=1):
        if instance.class_id is None:
            corners = np.array(instance.xyxy) - (x1, y1, x1, y1)
            a, b, c, d = np.clip(corners, 0, (columns, rows, columns, rows)).tolist()
            if a < c and b < d:
                truth.append(TrueInstance(None, (a, b, c, d)))
            continue
        visible = photo.owners[y1:y2, x1:x2] == number
        ys, xs = np.nonzero(visible)
        if len(ys):
            enough = len(ys) >= LEAST_VISIBLE * np.count_nonzero(photo.owners == number)
            box = (float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
            truth.append(TrueInstance(instance.class_id if enough else None, box))
    return RgbImage(pixels, sha256=""), tuple(truth)


def main(
    data: Annotated[Path, typer.Option(help="Clothing Co-Parsing, a folder or a zip.")],
    model: Annotated[str, typer.Option(help="A bundle's folder under the weights.")] = "default",
    weights_dir: Annotated[Path, typer.Option(help="Folder of the bundles.")] = WEIGHTS_DIR,
) -> None:
    bundle = open_bundle(resolve(model, "detection", weights_dir), "detection")
    detector = GarmentDetector(bundle, min_score=evaluation_min_score(bundle))
    dataset = CcpDataset(data)
    photos = [read_photo(dataset, i) for split in SPLITS for i in ids_of_split(dataset, split)]
    for share in SHARES:
        cuts = [found for photo in photos if (found := cut(photo, share)) is not None]
        found = [as_found(detector.predict([image])[0]) for image, _ in cuts]
        scores = coco_scores([truth for _, truth in cuts], found, detector.class_names)
        figures = {name: scores[name] for name in ("AP", "AP50", "AP75")}
        typer.echo(json.dumps({"model": bundle.name, "share": share, **figures}))


if __name__ == "__main__":
    typer.run(main)
