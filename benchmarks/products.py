"""Which garment of a photo is its product: how often each rule finds it.

    python -m benchmarks.products --data fashion-product-images-small.zip [--photos N] [--json]

Runs the pipeline on `validation` and `calibration` photos of the Fashion Product Images, each of
which shows one product and often more. Of the photos in which several classes of garment were
found, one of them right, it prints the share in which a rule picks the right one; a class is right
when the product's article type may be of it. A rule weighs each garment by a product of `score`,
`area` (part of the photo), `centrality` and `confidence` (of the article type); `chance` weighs all
alike. `services/pipeline/merge.py` uses the best.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from classification.datasets import open_dataset
from services.bootstrap import build_pipeline
from services.pipeline.merge import centrality, certainty
from services.settings import Settings
from vision.garments import Garment, ImageReport
from vision.image import EncodedImage
from vision.taxonomy import load_taxonomy

SPLITS = ("validation", "calibration")
LEAF = "article_type"

Feature = Callable[[Garment, tuple[int, int]], float]


def area(garment: Garment, resolution_wh: tuple[int, int]) -> float:
    x1, y1, x2, y2 = garment.xyxy
    return (x2 - x1) * (y2 - y1) / prod(resolution_wh)


FEATURES: dict[str, Feature] = {
    "score": lambda garment, _: garment.score or 0.0,
    "area": area,
    "centrality": centrality,
    "confidence": lambda garment, _: certainty(garment),
}


def main(
    data: Annotated[Path, typer.Option(help="Fashion Product Images, a folder or a zip.")],
    photos: Annotated[int, typer.Option(min=50)] = 1000,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    pipeline, dataset, taxonomy = build_pipeline(Settings()), open_dataset(data), load_taxonomy()
    samples = [s for split in SPLITS for s in dataset.split(split) if LEAF in s.accepted][:photos]
    seen: list[tuple[ImageReport, frozenset[str]]] = []
    for sample in track(samples, "analysing", console=Console(stderr=True), transient=True):
        (article,) = sample.accepted[LEAF]
        right = {k for k, v in taxonomy.article_types_of_class.items() if article in v}
        report = pipeline.analyze(EncodedImage(dataset.archive.read(sample.file)))
        categories = {garment.category for garment in report.garments}
        if len(categories) > 1 and right & categories:
            seen.append((report, frozenset(right)))
    rules = {
        " × ".join(names) or "chance": round(_share_right(names, seen), 3)
        for size in range(len(FEATURES) + 1)
        for names in combinations(FEATURES, size)
    }
    figures = {"photos": len(samples), "with_a_choice": len(seen), "right": rules}
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("rule", "right", title=f"{len(seen)} of {len(samples)} photos leave a choice")
    for name, share in sorted(rules.items(), key=lambda entry: -entry[1]):
        table.add_row(name, f"{share:.1%}")
    Console().print(table)


def _share_right(names: tuple[str, ...], seen: list[tuple[ImageReport, frozenset[str]]]) -> float:
    """With ties counted by halves, thirds and so on."""
    total = 0.0
    for report, right in seen:
        shares: dict[str | None, float] = {}
        for garment in report.garments:
            weight = prod(FEATURES[name](garment, report.resolution_wh) for name in names)
            shares[garment.category] = shares.get(garment.category, 0.0) + weight
        best = [name for name, share in shares.items() if share == max(shares.values())]
        total += sum(name in right for name in best) / len(best)
    return total / len(seen)


if __name__ == "__main__":
    typer.run(main)
