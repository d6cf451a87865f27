from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from classification import __main__ as command
from tests.drawn_ccp import write_folder, write_zip
from tests.pictures import encode
from tests.unit.classification.brightness import idx, images_of, write_brightness_bundle
from tests.unit.classification.mean_colour import write_mean_colour_bundle
from vision.bundle import WEIGHTS_DIR
from vision.garments import ATTRIBUTES, UNKNOWN
from vision.taxonomy import load_taxonomy

RED, GREY, BLUE = (255, 0, 0), (127, 127, 127), (0, 0, 255)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    write_mean_colour_bundle(folder / "colour", threshold=0.9)
    (folder / "defaults.yaml").write_text("classification: colour\n", encoding="utf-8")
    return folder


def flat(colour: tuple[int, int, int]) -> bytes:
    return encode(np.full((80, 60, 3), colour, np.uint8)).data


def run(*arguments: str | Path) -> None:
    """As from the shell; click ends every command by `SystemExit`."""
    with pytest.raises(SystemExit) as ended:
        command.main([str(a) for a in arguments])
    assert ended.value.code in (0, None)


def lines_of(path: Path) -> list[dict[str, dict[str, dict[str, object]]]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_line_for_every_photo_broken_ones_included(
    tmp_path: Path, weights: Path, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    files = {
        "a/1.png": flat(RED),
        "a/2.png": flat(RED)[:50],
        "b.jpg": b"",
        "c.gif": b"<html>",
        "d.png": flat(BLUE),
        "notes.txt": b"no image",
    }
    images = write(tmp_path / "photos.zip", files)
    output = tmp_path / "answers.jsonl"

    run("predict", "--images", images, "--output", output, "--weights-dir", weights)

    red, half, empty, page, blue = lines_of(output)
    assert red["file"] == "a/1.png"
    assert tuple(red["attributes"]) == ATTRIBUTES
    assert red["attributes"]["base_colour"]["label"] == "Red"
    assert half["error"]["code"] == "image_corrupt"
    assert empty["error"]["code"] == "image_corrupt"
    assert page["error"]["code"] == "unsupported_media"
    assert blue["attributes"]["article_type"]["label"] == "Jeans"


def test_unknown_only_on_request(tmp_path: Path, weights: Path) -> None:
    images = write_folder(tmp_path / "photos", {"1.png": flat(GREY)})
    output = tmp_path / "answers.jsonl"
    common = ("--images", images, "--output", output, "--weights-dir", weights)

    run("predict", *common)
    (best,) = lines_of(output)
    run("predict", *common, "--unknown")
    (doubtful,) = lines_of(output)

    assert UNKNOWN not in {answer["label"] for answer in best["attributes"].values()}
    assert doubtful["attributes"]["base_colour"]["label"] == UNKNOWN
    # A third each, as the three means are alike.
    assert doubtful["attributes"]["base_colour"]["confidence"] == pytest.approx(1 / 3, abs=0.01)


def test_evaluate_prints_one_json_object(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = "image,sender_id,label,kids\na,1,T-Shirt,False\n"
    data = write_folder(tmp_path / "home", {"images.csv": rows.encode(), "images/a.jpg": flat(RED)})

    page = tmp_path / "page"
    common = ("--data", data, "--weights-dir", weights)
    run("evaluate", "--model", "colour", *common, "--report", page)

    figures = json.loads(capfd.readouterr().out)
    assert figures["article_type"]["accuracy"] == 1.0
    assert "<h1>colour on home photos</h1>" in (page / "index.html").read_text(encoding="utf-8")

    run("evaluate", "--model", "colour", *common, "--given", "sub_category")

    assert json.loads(capfd.readouterr().out)["given"] == ["sub_category"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--model", "none", "--data", "x"), "no bundle called 'none'"),
        (("evaluate", "--model", "colour", "--data", "no/such"), "no/such does not exist"),
        (("predict", "--model", "colour", "--images", "no", "--output", "o"), "no does not exist"),
        (
            ("predict", "--model", "colour", "--images", "t10k-images-idx3-ubyte", "--output", "o"),
            "colour answers gender, master_category",
        ),
    ],
)
def test_a_known_failure_is_one_line(
    weights: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t10k-images-idx3-ubyte").write_bytes(idx(images_of([0])))
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--weights-dir", str(weights)])

    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("packed", [True, False])
def test_an_idx_file_gets_a_line_an_image(tmp_path: Path, packed: bool) -> None:
    weights = write_brightness_bundle(tmp_path / "weights" / "grey").path.parent
    classes = [9, 0, 4, 4, 7] * 8
    content = idx(images_of(classes))
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(content) if packed else content)
    output = tmp_path / "answers.jsonl"

    run(
        *("predict", "--model", "grey", "--weights-dir", weights),
        *("--images", images, "--output", output),
    )

    lines = lines_of(output)
    assert [line["index"] for line in lines] == list(range(40))
    assert [line["label"] for line in lines] == classes
    assert lines[0]["name"] == "Ankle boot"
    assert 0.9 < float(lines[0]["confidence"]) <= 1  # type: ignore[arg-type]


def test_fashion_mnist_is_evaluated_from_its_own_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = write_brightness_bundle(tmp_path / "weights" / "grey").path.parent
    shown, told = [0, 3, 3, 8], [0, 3, 5, 8]  # the third label is not what is shown
    data = write_folder(
        tmp_path / "data",
        {
            "t10k-images-idx3-ubyte.gz": gzip.compress(idx(images_of(shown))),
            "t10k-labels-idx1-ubyte.gz": gzip.compress(idx(np.array(told))),
        },
    )

    run("evaluate", "--model", "grey", "--weights-dir", weights, "--data", data)

    figures = json.loads(capfd.readouterr().out)
    assert (figures["layout"], figures["photos"]) == ("fashion_mnist", 4)
    assert figures["attributes"]["fashion_mnist"]["accuracy"] == 0.75


def tee(colour: tuple[int, int, int]) -> bytes:
    """A T-shirt on white, as in a catalogue."""
    outline = [[85, 60], [105, 72], [135, 72], [155, 60], [215, 110], [190, 150]]
    outline += [[168, 132], [168, 270], [72, 270], [72, 132], [50, 150], [25, 110]]
    pixels = np.full((320, 240, 3), 255, np.uint8)
    cv2.fillPoly(pixels, [np.array(outline)], colour, cv2.LINE_AA)
    return encode(pixels).data


FRAMEWORKS = ("torch", "tensorflow", "keras", "timm", "detectron2", "jax")


def test_the_shipped_default_answers_without_any_training_framework(tmp_path: Path) -> None:
    images = write_folder(
        tmp_path / "photos", {"red.png": tee((200, 20, 30)), "blue.png": tee((20, 40, 190))}
    )
    output = tmp_path / "answers.jsonl"
    program = f"""
import sys
from classification.__main__ import main
try:
    main(["predict", "--model", "default", "--images", {str(images)!r},
          "--output", {str(output)!r}, "--threads", "1"])
except SystemExit as ended:
    assert ended.code in (0, None), ended.code
import classification.evaluate, classification.recalibrate, classification.report
loaded = [name for name in {FRAMEWORKS!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=WEIGHTS_DIR.parent, timeout=120)

    taxonomy = load_taxonomy()
    lines = lines_of(output)
    assert [line["file"] for line in lines] == ["blue.png", "red.png"]
    for line in lines:
        assert tuple(line["attributes"]) == ATTRIBUTES
        for attribute, answer in line["attributes"].items():
            assert answer["label"] in taxonomy.labels_of(attribute)
        assert line["attributes"]["article_type"]["label"] == "Tshirts"
        assert line["attributes"]["sub_category"]["label"] == "Topwear"
    colours = [line["attributes"]["base_colour"]["label"] for line in lines]
    assert colours == ["Blue", "Red"]
