from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from classification.datasets import Sample
from classification.evaluate import figures, measure
from classification.report import (
    confusion,
    coverage_curve,
    reliability,
    top_losses,
    write_report,
)
from classification.scores import HeadAnswers
from tests.drawn_ccp import write_zip
from tests.pictures import encode
from tests.unit.classification.mean_colour import write_mean_colour_bundle
from training.page import data_uri
from vision.image import EncodedImage, decode

RED, BLUE = (255, 0, 0), (0, 0, 255)
VOID = {"meta", "img", "link", "br", "hr", "input"}
STYLES = """id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage
1,Women,Apparel,Topwear,Tshirts,Red,Summer,2012,Casual
2,Men,Apparel,Bottomwear,Jeans,Blue,Winter,2012,Casual
3,Men,Apparel,Bottomwear,Jeans,Red,Winter,2012,Casual
4,Men,Apparel,Bottomwear,Jeans,Blue,Winter,2012,Casual
"""


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def head(
    truth: list[str], best: list[str], right: list[float] | None = None, coarse: bool = False
) -> HeadAnswers:
    """Answers whose class is the one right label, after the data set's own and a colon if any."""
    names = [entry.rpartition(":") for entry in truth]
    return HeadAnswers(
        accepted=tuple((label,) if label else () for _, _, label in names),
        truth=tuple(own or label for own, _, label in names),
        best=tuple(best),
        confidence=np.ones(len(best)),
        right=np.array(right or [1.0] * len(best)),
        threshold=0.5,
        coarse=coarse,
    )


def test_the_page_shows_every_head_and_stands_alone(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    # Product 4 has no image.
    files = {
        f"images/{i}.jpg": encode(np.full((80, 60, 3), RED if i == 1 else BLUE, np.uint8)).data
        for i in (1, 2, 3)
    }
    data = write_zip(tmp_path / "p.zip", {"styles.csv": STYLES.encode(), **files})
    evaluation = measure(bundle, data)

    path = write_report(evaluation, figures(evaluation), tmp_path / "deep" / "report")

    page = Page(path.read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {"gender", "article_type", "base_colour_grouped", "skipped"} <= set(ids)
    # The one wrong colour is shown: product 3, labelled red, is blue.
    (picture, grouped) = page.all("img")
    assert picture["alt"] == "Photo 3: labelled Red, answered Blue"
    assert grouped["alt"] == "Photo 3: labelled red, answered blue"
    assert "image is missing" in page.text
    # Nothing is fetched: all links stay on the page, all pictures are in it.
    assert not page.all("script")
    assert not page.all("link")
    assert all(str(a["href"]).startswith("#") for a in page.all("a"))
    assert {a["href"][1:] for a in page.all("a") if a["href"]} <= set(ids)
    assert all(str(image["src"]).startswith("data:image/jpeg;") for image in page.all("img"))
    labelled = {a.get("aria-labelledby") for _, a in page.elements} - {None}
    assert labelled <= set(ids)


def test_home_photos_have_a_page_too(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    rows = "image,sender_id,label,kids\na,1,T-Shirt,False\n<i>b,1,Shoes,False\n"
    photo = encode(np.full((80, 60, 3), RED, np.uint8)).data
    names = ("images/a.jpg", "images/<i>b.jpg")
    data = write_zip(
        tmp_path / "h.zip", {"images.csv": rows.encode(), **dict.fromkeys(names, photo)}
    )
    evaluation = measure(bundle, data)

    path = write_report(evaluation, figures(evaluation), tmp_path)

    page = Page(path.read_text(encoding="utf-8"))
    assert "accept several answers each" in page.text
    assert "<i>b · loss" in page.text  # a file's name is text, not markup
    assert not page.all("i")


def test_bins_hold_their_answers() -> None:
    # Of ten bins: .95 and .98 in the last, one right; .15 in the second, wrong.
    bins = list(reliability(np.array([0.95, 0.98, 0.15]), np.array([True, False, False]), bins=10))

    assert [(b.low, b.high, b.count, b.accuracy) for b in bins] == [
        (0.1, 0.2, 1, 0.0),
        (0.9, 1.0, 2, 0.5),
    ]
    assert [b.confidence for b in bins] == pytest.approx([0.15, 0.965])


def test_the_curve_ends_with_everything_answered() -> None:
    # Surest first: right, right, wrong, right.
    confidence, correct = np.array([0.9, 0.3, 0.8, 0.5]), np.array([True, True, True, False])

    curve = list(coverage_curve(confidence, correct))

    assert curve == [(0.25, 1.0), (0.5, 1.0), (0.75, 2 / 3), (1.0, 0.75)]


def test_a_confusion_matrix_keeps_the_most_frequent_classes() -> None:
    answers = head(["A", "A", "A", "B", "B", "C"], ["A", "B", "C", "B", "B", "A"])

    table = confusion(answers, most=2)

    assert (table.columns, table.left_out) == (("A", "B"), 1)
    first, second = table.rows
    assert (first.truth, first.support, first.others) == ("A", 3, 1)
    assert [(c.count, c.right) for c in first.cells] == [(1, True), (1, False)]
    assert [c.share for c in first.cells] == pytest.approx([1 / 3, 1 / 3])
    assert [c.count for c in second.cells] == [0, 2]


def test_classes_of_their_own_are_set_against_the_answers() -> None:
    answers = head(["Polo:Tshirts", "Polo:Tshirts"], ["Tshirts", "Shirts"], coarse=True)

    table = confusion(answers)

    assert table.columns == ("Tshirts", "Shirts")
    assert [(c.count, c.right) for c in table.rows[0].cells] == [(1, True), (1, False)]


class Drawn:
    """Photos whose shade is their id."""

    layout = "drawn"
    skipped = ()

    def split(self, name: str) -> tuple[Sample, ...]:
        return ()

    def pixels(self, sample: Sample) -> np.ndarray:
        return np.full((80, 60, 3), int(sample.item_id), np.uint8)


def test_the_worst_losses_come_first_and_right_answers_not_at_all() -> None:
    answers = head(["A", "A", "B", ""], ["B", "A", "A", "A"], right=[0.4, 0.1, 0.01, 0.0])
    samples = [Sample("f", str(shade), "x", {}) for shade in (10, 20, 30, 40)]

    losses = list(top_losses(answers, samples, Drawn()))

    assert [(loss.item_id, loss.truth, loss.answer) for loss in losses] == [
        ("30", "B", "A"),
        ("10", "A", "B"),
    ]
    assert losses[0].loss == pytest.approx(-np.log(0.01))
    assert len(list(top_losses(answers, samples, Drawn(), most=1))) == 1
    assert mean_shade(losses[0].picture) == pytest.approx(30, abs=2)


def mean_shade(uri: str) -> float:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return float(decode(EncodedImage(data)).pixels.mean())


def test_pictures_are_small_and_keep_their_colours_and_proportions() -> None:
    wide = np.zeros((400, 1200, 3), np.uint8)
    wide[..., 0] = 200

    picture = decode(EncodedImage(base64.b64decode(data_uri(wide).partition(",")[2]))).pixels

    assert picture.shape == (40, 120, 3)
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), [200, 0, 0], atol=4)
