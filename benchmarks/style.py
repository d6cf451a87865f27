"""How long a photo takes style models, from pixels to masks at full size, in one run.

    python -m benchmarks.style weights/style_mask_rcnn OTHER_BUNDLE --data clothing-co-parsing.zip

A photo of the data set's `validation` split, scaled to 1000x1500 pixels; the models take turns, so
that other work on the machine hits all alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.detectors import core_and_wall_ms, timed_photo
from style_maskrcnn.predictor import StyleModel
from vision.bundle import open_bundle
from vision.image import RgbImage


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of style bundles.")],
    data: Annotated[Path, typer.Option(help="Clothing Co-Parsing, a folder or a zip.")],
    threads: Annotated[int, typer.Option(min=0, help="Cores a run may use.")] = 2,
) -> None:
    image = timed_photo(data, "validation")
    models = {str(folder): StyleModel(open_bundle(folder, "style"), threads) for folder in bundles}
    runs: dict[str, Callable[[RgbImage], object]] = {}
    for name, model in models.items():
        runs[name] = lambda photo, model=model: model.predict([photo])  # type: ignore[misc]
    for name, (cores, wall) in core_and_wall_ms(runs, image).items():
        garments = len(models[name].predict([image])[0])
        row = {"bundle": name, "garments": garments, "threads": threads}
        typer.echo(json.dumps({**row, "core_ms": round(cores, 1), "wall_ms": round(wall, 1)}))


if __name__ == "__main__":
    typer.run(main)
