"""How often the first colour of a product's garment is the one its catalogue gives.

    python -m benchmarks.colours --products fashion-product-images-small.zip --split test

Takes packshots through the whole pipeline, as the service does, and counts those whose first colour
lies in the group of the catalogue's colour. The garment is the one with the largest box. Beside it,
the same garments with colours named from their pixels alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from services.bootstrap import build_pipeline
from services.pipeline.assemble import garment_colours
from services.pipeline.run import Photo, Pipeline
from services.settings import Settings
from training.products import ProductDataset
from training.split import DEFAULT_FRACTIONS
from vision.errors import PermanentError
from vision.garments import Colour, Garment
from vision.image import EncodedImage, decode
from vision.taxonomy import load_taxonomy

AT_A_TIME = 64


def main(
    products: Annotated[Path, typer.Option(help="The Myntra catalogue, a folder or a zip.")],
    split: Annotated[
        str, typer.Option(help="train, validation, calibration, test or all.")
    ] = "test",
    limit: Annotated[int, typer.Option(help="At most so many products; 0 for all.")] = 0,
) -> None:
    taxonomy, dataset = load_taxonomy(), ProductDataset(products)
    group_of_label = {c: g for g, colours in taxonomy.colour_groups.items() for c in colours}
    group_of_name = {n: g for g, names in taxonomy.palette_groups.items() for n in names}
    wanted, photos = [], []
    for product in dataset.of_split(split, DEFAULT_FRACTIONS, ""):
        if product.attributes.get("baseColour") in group_of_label:
            wanted.append(group_of_label[product.attributes["baseColour"]])
            photos.append(Photo(EncodedImage(dataset.photo_bytes(product))))
    if limit:
        wanted, photos = wanted[:limit], photos[:limit]
    answers = list(first_colours(build_pipeline(Settings()), photos))
    right = [
        [colour is not None and group_of_name[colour.name] == group for colour in of_garment]
        for of_garment, group in zip(answers, wanted, strict=True)
    ]
    with_evidence, alone = (
        round(sum(column) / len(right), 4) for column in zip(*right, strict=True)
    )
    content = {"photos": len(right), "in_group": with_evidence, "from_pixels_alone": alone}
    typer.echo(json.dumps({"split": split, **content}))


def first_colours(
    pipeline: Pipeline, photos: list[Photo]
) -> Iterator[tuple[Colour | None, Colour | None]]:
    """Of each photo's largest garment the first colour as reported, and from its pixels alone."""
    starts = range(0, len(photos), AT_A_TIME)
    for start in track(starts, "products", console=Console(stderr=True), transient=True):
        batch = photos[start : start + AT_A_TIME]
        for photo, report in zip(batch, pipeline.analyze_many(batch), strict=True):
            if isinstance(report, Exception):
                if not isinstance(report, PermanentError):
                    raise report
                yield None, None
                continue
            garment = max(report.garments, key=area)
            image = decode(photo.encoded)
            unaided = garment_colours(image, garment.xyxy, garment.mask, labels=None)
            yield garment.colours[0], unaided[0]


def area(garment: Garment) -> float:
    """Of its box, in pixels."""
    x1, y1, x2, y2 = garment.xyxy
    return (x2 - x1) * (y2 - y1)


if __name__ == "__main__":
    typer.run(main)
