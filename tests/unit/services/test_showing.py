"""Tables and annotated pictures, from the report's JSON form."""

import io

import numpy as np
from rich.console import Console

from services.annotate import annotate, title
from services.console import report_table
from vision.image import RgbImage
from vision.rle import Rle

WHITE = RgbImage(np.full((120, 160, 3), 255, np.uint8), sha256="0" * 64)


def _garment(**changes: object) -> dict:
    mask = np.zeros((120, 160), bool)
    mask[40:80, 60:100] = True
    answer = {"label": "Tshirts", "confidence": 0.91, "alternatives": []}
    colour = {"label": "Navy Blue", "confidence": 0.62, "alternatives": []}
    return {
        "source": "detection",
        "category": "top",
        "score": 0.87,
        "box": [60.0, 40.0, 100.0, 80.0],
        "mask": Rle.encode(mask).as_coco(),
        "attributes": {"article_type": answer, "base_colour": colour},
        "colours": [{"name": "navy blue", "hex": "#001146", "share": 0.8}],
        "style": {"label": "t-shirt", "score": 0.7, "attributes": {}},
        **changes,
    }


def _report(*garments: dict, classified_whole: bool = False) -> dict:
    return {
        "image": {"sha256": "0" * 64, "width": 160, "height": 120},
        "classified_whole": classified_whole,
        "garments": list(garments),
    }


def test_the_mask_is_tinted_and_the_rest_of_the_box_is_not():
    drawn = np.asarray(annotate(WHITE, _report(_garment(box=[40.0, 30.0, 120.0, 90.0]))))
    assert (drawn[60, 80] != 255).any()
    assert (drawn[85, 60] == 255).all()  # in the box, outside the mask
    assert (drawn[100, 140] == 255).all()


def test_the_photo_itself_is_left_as_it_was():
    annotate(WHITE, _report(_garment()))
    assert (WHITE.pixels == 255).all()


def test_a_box_at_the_edge_and_no_mask_can_be_drawn():
    picture = annotate(WHITE, _report(_garment(box=[-5.0, -5.0, 160.0, 120.0], mask=None)))
    assert picture.size == (160, 120)


def test_title_is_the_most_telling_name():
    assert title(_garment()) == "Navy Blue Tshirts"
    unknown = {"label": "unknown", "confidence": 0.2, "alternatives": []}
    unsure = _garment(attributes={"article_type": unknown, "base_colour": unknown})
    assert title(unsure) == "t-shirt"
    black = {"label": "Black", "confidence": 0.8, "alternatives": []}
    assert title({**unsure, "attributes": {"base_colour": black}}) == "Black t-shirt"
    assert title({**unsure, "style": None}) == "top"
    assert title({**unsure, "style": None, "category": None}) == "unknown"


def _text(report: dict) -> str:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(report_table("photo.jpg", report))
    return console.file.getvalue()


def test_the_table_shows_answers_with_their_confidence():
    text = _text(_report(_garment()))
    for expected in ("top 0.87", "Tshirts 0.91", "Navy Blue 0.62", "navy blue 80%", "t-shirt 0.70"):
        assert expected in text


def test_the_table_says_when_nothing_was_detected():
    whole = _garment(category=None, score=None, style=None, mask=None, source="whole_image")
    text = _text(_report(whole, classified_whole=True))
    assert "classified whole" in text
    assert "whole photo" in text


def test_the_table_puts_a_question_mark_behind_the_likeliest_of_an_unknown_answer():
    likely = [{"label": "Jackets", "confidence": 0.4}, {"label": "Blazers", "confidence": 0.3}]
    unknown = {"label": "unknown", "confidence": 0.4, "alternatives": likely}
    text = _text(_report(_garment(attributes={"article_type": unknown})))
    assert "Jackets? 0.40" in text
    assert "unknown" not in text
