"""The command line with the shipped models, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vision.garments import ATTRIBUTES
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "grace_hopper.jpg"


def _vestiary(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "240", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def report() -> dict:
    finished = _vestiary("analyze", str(SAMPLE), "--json")
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_a_portrait_has_garments_with_every_attribute(report):
    assert report["photo"] == str(SAMPLE)
    assert (report["image"]["width"], report["image"]["height"]) == (512, 600)
    assert report["garments"]
    for garment in report["garments"]:
        assert list(garment["attributes"]) == list(ATTRIBUTES)
        assert garment["colours"]
        x1, y1, x2, y2 = garment["box"]
        assert 0 <= x1 < x2 <= 512
        assert 0 <= y1 < y2 <= 600


def test_masks_have_the_photos_size_and_lie_in_their_photo():
    finished = _vestiary("analyze", str(ROOT / "samples" / "astronaut.png"), "--json")
    garments = json.loads(finished.stdout)["garments"]
    masks = [garment["mask"] for garment in garments if garment["mask"]]
    assert masks
    for mask in masks:
        assert mask["size"] == [512, 512]
        assert Rle(size=(512, 512), counts=mask["counts"]).area > 0


def test_answers_never_contradict_each_other(report):
    taxonomy = load_taxonomy()
    for garment in report["garments"]:
        attributes = garment["attributes"]
        article = attributes["article_type"]["label"]
        sub = attributes["sub_category"]["label"]
        if article != "unknown":
            assert taxonomy.sub_category_of[article] == sub
        if sub != "unknown":
            assert taxonomy.master_category_of[sub] == attributes["master_category"]["label"]


def test_the_same_photo_gives_the_same_answer(report):
    again = json.loads(_vestiary("analyze", str(SAMPLE), "--json").stdout)
    assert again["garments"] == report["garments"]
    assert again["models"] == report["models"]


def test_the_annotated_picture_is_the_photo_with_something_drawn_in(tmp_path):
    out = tmp_path / "out.png"
    finished = _vestiary("analyze", str(SAMPLE), "--annotate", str(out))
    assert finished.returncode == 0, finished.stderr
    assert "article type" in finished.stdout
    with Image.open(out) as drawn, Image.open(SAMPLE) as photo:
        assert drawn.size == photo.size
        assert drawn.convert("RGB").tobytes() != photo.convert("RGB").tobytes()


def test_one_bad_photo_does_not_stop_the_others(tmp_path):
    broken = tmp_path / "half.jpg"
    broken.write_bytes(SAMPLE.read_bytes()[:20_000])
    finished = _vestiary("analyze", str(broken), "missing.jpg", str(SAMPLE), "--json")
    assert finished.returncode == 1
    assert "image_corrupt" in finished.stderr
    assert "missing.jpg" in finished.stderr
    assert [json.loads(line)["photo"] for line in finished.stdout.splitlines()] == [str(SAMPLE)]


def test_a_private_address_is_not_fetched():
    finished = _vestiary("analyze", "http://169.254.169.254/latest/meta-data")
    assert finished.returncode == 1
    assert "url_blocked" in finished.stderr
    assert "169.254" not in finished.stderr.split("url_blocked")[1]


def test_an_unknown_bundle_is_named_with_the_known_ones():
    finished = _vestiary("analyze", str(SAMPLE), VESTIARY_DETECTOR="yolo")
    assert finished.returncode == 1
    assert "bundle_invalid" in finished.stderr
    assert "yolo" in finished.stderr


def test_stored_photos_are_analysed_once(tmp_path):
    first, second = (
        json.loads(
            _vestiary(
                "analyze", str(SAMPLE), "--json", "--store", VESTIARY_DATA_DIR=str(tmp_path)
            ).stdout
        )
        for _ in range(2)
    )
    assert first["id"] == second["id"]
