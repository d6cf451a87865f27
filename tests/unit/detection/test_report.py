from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from detection.evaluate import Evaluation, evaluation_of, figures
from detection.report import curves, false_alarms, missed, write_report
from tests.drawn_ccp import ccp_files, tag_map, write_folder
from tests.pictures import encode
from tests.red_cells import write_red_cell_bundle
from vision.taxonomy import load_taxonomy

CLASSES = load_taxonomy().garment_classes


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    """A detector of red tops, on a photo with a top found, trousers missed, and red elsewhere."""
    tags = tag_map(
        {
            "shirt": (0, 0, 32, 32),
            "pants": (0, 64, 32, 96),
            "necklace": (32, 64, 64, 96),  # an ignore region
        }
    )
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[:32, :32] = pixels[32:64, 32:] = pixels[64:, 32:] = (255, 0, 0)
    files = ccp_files({"0001": tags}) | {"photos/0001.jpg": encode(pixels, "JPEG").data}
    bundle = write_red_cell_bundle(tmp_path / "weights" / "red", labels={"classes": list(CLASSES)})
    return evaluation_of(bundle, write_folder(tmp_path / "ccp", files), threads=1)


def test_what_is_missed_and_what_is_no_garment(evaluation: Evaluation) -> None:
    (trousers,) = missed(evaluation)
    assert (trousers.label, trousers.xyxy) == ("trousers", (0, 64, 32, 96))
    assert trousers.weight == pytest.approx(32 * 32 / (64 * 96))

    # Of the two red cells without a top, the one in the ignore region is no false alarm.
    (alarm,) = false_alarms(evaluation)
    assert (alarm.label, alarm.xyxy) == ("top", (32, 32, 64, 64))
    assert alarm.weight > 0.99


def test_curves_end_at_the_recall_that_is_reached(evaluation: Evaluation) -> None:
    top, trousers = curves(evaluation)

    assert (top.name, top.points[0], len(top.points)) == ("top", (0.0, 1.0), 101)
    assert (trousers.name, trousers.points) == ("trousers", ())


class Checker(HTMLParser):
    """Notes tags left open, and everything that a page would fetch or run."""

    VOID = ("meta", "img", "line", "polyline", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.outside: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.stack.append(tag)
        self.pictures += tag == "img"
        for name, value in attrs:
            if name in ("src", "href") and not str(value).startswith(("#", "data:image/jpeg")):
                self.outside.append(str(value))
        if tag in ("script", "iframe", "object"):
            self.outside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_the_page_stands_alone(evaluation: Evaluation, tmp_path: Path) -> None:
    page = write_report(evaluation, figures(evaluation), tmp_path / "report").read_text("utf-8")

    checker = Checker()
    checker.feed(page)
    assert checker.stack == []
    assert checker.outside == []
    assert checker.pictures == 2  # one missed, one false alarm
    assert "url(http" not in page
    rows = re.findall(r'<th scope="row">([a-z]+)</th><td>(\d+)</td>', page)
    assert [name for name, _ in rows] == list(CLASSES)
    assert dict(rows)["top"] == "1"
