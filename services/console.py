"""Reports as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from vision.garments import UNKNOWN

if TYPE_CHECKING:
    from services.store.records import StoredAnalysis

Json = Mapping[str, Any]

MIN_WIDTH = 180
_ATTRIBUTE_COLUMNS = ("article_type", "base_colour", "gender", "season", "usage")


def wide_console() -> Console:
    """Standard output; as wide as the terminal, or wide enough for a table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, MIN_WIDTH))


def report_table(photo: str, report: Json) -> Table:
    """One row a garment; a confidence stands behind every answer."""
    image = report["image"]
    heading = f"{photo} · {image['width']}×{image['height']}"
    if report["classified_whole"]:
        heading += " · nothing detected, classified whole"
    table = Table(title=heading, title_justify="left")
    names = (name.replace("_", " ") for name in _ATTRIBUTE_COLUMNS)
    for column in ("garment", *names, "colours", "style"):
        table.add_column(column)
    for garment in report["garments"]:
        table.add_row(*_row(garment))
    return table


def stored_table(stored: StoredAnalysis) -> Table:
    """What the database holds of an analysis, one row a garment."""
    table = Table(title=f"analysis {stored.id}", title_justify="left")
    for column in ("garment id", "category", "article type", "confidence", "mask px", "embedding"):
        table.add_column(column, no_wrap=True)
    for garment_id, garment in zip(stored.garment_ids, stored.report.garments, strict=True):
        labels = garment.labels
        answer = None if labels is None else labels.attributes["article_type"]
        table.add_row(
            str(garment_id),
            garment.category or "whole photo",
            "" if answer is None else answer.label,
            "" if answer is None else f"{answer.confidence:.2f}",
            "" if garment.mask is None else str(garment.mask.area),
            "" if labels is None else f"{len(labels.embedding)}-d",
        )
    return table


def _row(garment: Json) -> list[str]:
    attributes = garment["attributes"]
    style = garment["style"]
    return [
        _scored(garment["category"] or "whole photo", garment["score"]),
        *(_answer(attributes.get(name)) for name in _ATTRIBUTE_COLUMNS),
        ", ".join(f"{colour['name']} {colour['share']:.0%}" for colour in garment["colours"]),
        "" if style is None else _scored(style["label"], style["score"]),
    ]


def _answer(answer: Json | None) -> str:
    """The label, or with a question mark the likeliest where the answer is `unknown`."""
    if answer is None:
        return ""
    unknown = answer["label"] == UNKNOWN and answer["alternatives"]
    label = f"{answer['alternatives'][0]['label']}?" if unknown else answer["label"]
    return _scored(label, answer["confidence"])


def _scored(label: str, score: float | None) -> str:
    return label if score is None else f"{label} {score:.2f}"
