"""How many photos a second the three models do, with nothing around them.

    python -m benchmarks.models_alone --photos 60   # prints photos a second

Photos are decoded and garments cut out beforehand. As in `Pipeline.analyze_many` a photo is in one
lane for each core, and crops are classified sixteen at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from benchmarks.photo_server import photos
from services.bootstrap import build_pipeline
from services.pipeline.crop import crop
from services.pipeline.lanes import Lanes, usable_cores
from services.pipeline.run import CROPS_AT_ONCE, GROUP_PHOTOS, Pipeline
from services.settings import Settings
from vision.garments import Crop
from vision.image import EncodedImage, RgbImage, decode


def photos_per_s(count: int, width: int, height: int) -> float:
    pipeline, lanes = build_pipeline(Settings()), Lanes(usable_cores())
    ready = [_ready(pipeline, EncodedImage(data)) for data in photos(width, height)]
    work = [ready[number % len(ready)] for number in range(count)]
    began = time.perf_counter()
    for start in range(0, count, GROUP_PHOTOS):
        _predict(pipeline, lanes, work[start : start + GROUP_PHOTOS])
    seconds = time.perf_counter() - began
    lanes.close()
    return count / seconds


def _ready(pipeline: Pipeline, encoded: EncodedImage) -> tuple[RgbImage, list[Crop]]:
    image = decode(encoded)
    return image, [crop(image, garment.xyxy) for garment in pipeline.analyze(encoded).garments]


def _predict(
    pipeline: Pipeline, lanes: Lanes, group: Sequence[tuple[RgbImage, list[Crop]]]
) -> None:
    def look(image: RgbImage) -> None:
        pipeline.detector.predict([image])
        pipeline.style_model.predict([image])

    lanes.map(look, [image for image, _ in group])
    crops = [cut for _, cuts in group for cut in cuts]
    batches = [
        crops[start : start + CROPS_AT_ONCE] for start in range(0, len(crops), CROPS_AT_ONCE)
    ]
    lanes.map(pipeline.classifier.predict, batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--width", type=int, default=600)
    parser.add_argument("--height", type=int, default=800)
    arguments = parser.parse_args()
    print(photos_per_s(arguments.photos, arguments.width, arguments.height))


if __name__ == "__main__":
    main()
