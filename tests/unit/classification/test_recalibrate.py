from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from classification import __main__ as command
from classification.photos import open_photos
from classification.predictor import AttributeClassifier
from classification.recalibrate import recalibrate
from tests.drawn_ccp import write_zip
from tests.pictures import encode
from tests.unit.classification.mean_colour import write_mean_colour_bundle
from training.split import split_of
from vision.errors import ErrorCode, PermanentError
from vision.garments import Crop

RED, BLUE = (255, 0, 0), (0, 0, 255)
HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage"
# What the photo shows, and who wears it for what: red T-shirts for parties, blue jeans for others.
SHOWN = {
    RED: "Apparel,Topwear,Tshirts,Red,Summer,2012",
    BLUE: "Apparel,Bottomwear,Jeans,Blue,Winter,2012",
}


def ids(split: str) -> Iterator[str]:
    return (str(i) for i in count() if split_of(str(i)) == split)


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """40 products of `calibration`, a fifth of them not what they show, 100 of `train`, where women
    party and men do not, and 10 of `test`.
    """
    lines, files = [HEADER], {}
    for split, many in (("calibration", 40), ("train", 100), ("test", 10)):
        for number, item in enumerate(islice(ids(split), many)):
            colour = (RED, BLUE)[number % 2]
            labels = SHOWN[BLUE if number % 5 == 0 else colour]
            woman = number % 3 == 0
            lines.append(
                f"{item},{'Women' if woman else 'Men'},{labels},{'Party' if woman else 'Casual'}"
            )
            files[f"images/{item}.jpg"] = encode(np.full((80, 60, 3), colour, np.uint8)).data
    return write_zip(tmp_path / "p.zip", {"styles.csv": "\n".join(lines).encode(), **files})


def test_a_bundle_learns_how_sure_it_may_be(tmp_path: Path, products: Path) -> None:
    before = write_mean_colour_bundle(tmp_path / "colour")

    after = recalibrate(before, open_photos(products), threads=1)

    # It is certain of every colour, and wrong of each tenth.
    red = Crop(np.full((80, 60, 3), RED, np.uint8), (0, 0, 60, 80))
    (sure,) = AttributeClassifier(before).predict([red])
    (fitted,) = AttributeClassifier(after).predict([red])
    assert sure.attributes["base_colour"].confidence > 0.999
    assert fitted.attributes["base_colour"].confidence == pytest.approx(0.9, abs=0.01)
    # Women party: the hint says so, the photo does not.
    hinted = Crop(red.pixels, red.xyxy, {"gender": "Women"})
    (party,) = AttributeClassifier(after).predict([hinted])
    assert party.attributes["usage"].label == "Party"
    assert fitted.attributes["usage"].label != "Party"
    assert after.version != before.version
    assert after.metrics == {}
    assert (after.labels, after.parity, after.path) == (before.labels, before.parity, before.path)


def test_the_command_measures_what_it_wrote(
    tmp_path: Path, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_mean_colour_bundle(tmp_path / "weights" / "colour").path

    where = ["--weights-dir", str(folder.parent), "--products", str(products)]

    with pytest.raises(SystemExit) as ended:
        command.main(["calibrate", "--model", "colour", *where])

    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["temperatures"]["base_colour"] > 1
    text = (folder / "model.yaml").read_text(encoding="utf-8")
    assert "products_test:" in text
    assert "hints:" in text


def test_without_photos_to_fit_on_nothing_is_written(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    (item,) = islice(ids("train"), 1)
    row = f"{item},Men,{SHOWN[RED]},Casual"
    photo = encode(np.full((80, 60, 3), RED, np.uint8)).data
    data = write_zip(
        tmp_path / "p.zip", {"styles.csv": f"{HEADER}\n{row}".encode(), f"images/{item}.jpg": photo}
    )
    metadata = (bundle.path / "model.yaml").read_bytes()

    with pytest.raises(PermanentError, match="no photo in split 'calibration'") as raised:
        recalibrate(bundle, open_photos(data))

    assert raised.value.code == ErrorCode.DATASET_INVALID
    assert (bundle.path / "model.yaml").read_bytes() == metadata
