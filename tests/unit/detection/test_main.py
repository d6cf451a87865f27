from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detection import __main__ as command
from tests.drawn_ccp import ccp_files, tag_map, write_folder, write_zip
from tests.drawn_deepfashion2 import deepfashion2_files, item
from tests.pictures import encode
from tests.red_cells import write_red_cell_bundle
from vision.taxonomy import load_taxonomy


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    write_red_cell_bundle(folder / "red")
    (folder / "defaults.yaml").write_text("detection: red\n", encoding="utf-8")
    return folder


def photo(colour: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[32:64, :32] = colour
    return encode(pixels).data


def run(*arguments: str | Path) -> None:
    """As from the shell; click ends every command by `SystemExit`."""
    with pytest.raises(SystemExit) as ended:
        command.main([str(a) for a in arguments])
    assert ended.value.code in (0, None)


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_line_for_every_photo_broken_ones_included(tmp_path: Path, weights: Path, write) -> None:
    files = {
        "a/1.png": photo(),
        "a/2.png": photo()[:50],
        "b.jpg": b"",
        "c.gif": b"<html>",
        "d.png": photo((0, 0, 255)),
        "e.png": photo((0, 0, 0)),
        "notes.txt": b"no image",
    }
    images = write(tmp_path / "photos.zip", files)
    output = tmp_path / "found.jsonl"

    run("predict", "--images", images, "--output", output, "--weights-dir", weights)

    red, half, empty, page, blue, blank = lines_of(output)
    assert red == {
        "file": "a/1.png",
        "detections": [{"box": [0, 32, 32, 64], "label": "red", "score": 1.0}],
    }
    assert half["error"]["code"] == "image_corrupt"
    assert empty["error"]["code"] == "image_corrupt"
    assert page["error"]["code"] == "unsupported_media"
    assert blue["detections"][0]["label"] == "blue"
    assert blank == {"file": "e.png", "detections": []}


def test_more_photos_than_one_batch_keep_their_order(tmp_path: Path, weights: Path) -> None:
    names = [f"{i:02d}.png" for i in range(19)]
    images = write_folder(tmp_path / "photos", dict.fromkeys(names, photo()))
    output = tmp_path / "found.jsonl"

    run("predict", "--images", images, "--output", output, "--weights-dir", weights)

    assert [line["file"] for line in lines_of(output)] == names


def test_a_higher_threshold_on_request(tmp_path: Path, weights: Path) -> None:
    images = write_folder(tmp_path / "photos", {"1.png": photo((255, 60, 0))})
    output = tmp_path / "found.jsonl"
    common = ("--images", images, "--output", output, "--weights-dir", weights)

    # Green 60 is -.53 and not -1: logit 10·(1 + .53 + 1) - 20 = 5.3, score √σ(5.3) = .998.
    run("predict", *common)
    assert lines_of(output)[0]["detections"][0]["score"] == pytest.approx(0.9975, abs=2e-4)
    run("predict", *common, "--min-score", "0.999")
    assert lines_of(output)[0]["detections"] == []


def test_evaluate_prints_one_json_object(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights"
    write_red_cell_bundle(weights / "red", labels={"classes": [*load_taxonomy().garment_classes]})
    data = write_zip(tmp_path / "ccp.zip", ccp_files({"0001": tag_map({"shirt": (0, 0, 32, 32)})}))

    common = ("--model", "red", "--data", data, "--weights-dir", weights)
    run("evaluate", *common, "--report", tmp_path / "report")

    assert (tmp_path / "report" / "index.html").read_text("utf-8").lstrip().startswith("<!DOCTYPE")
    figures = json.loads(capfd.readouterr().out)
    assert (figures["photos"], figures["split"]) == (1, "all")


def test_convert_counts_what_was_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = deepfashion2_files({"validation/000003": [item(1, 0, 0, 9, 9), item(20, 0, 0, 9, 9)]})
    data = write_folder(tmp_path / "df2", files)
    output = tmp_path / "out.json"

    run("convert", "deepfashion2", data, "--coco", output, "--split", "validation")

    report = json.loads(capfd.readouterr().out)
    assert (report["images"], report["annotations"]) == (1, 1)
    assert report["problems"]["by_reason"] == {
        "category is not of the set: instance left out": 1,
    }
    assert json.loads(output.read_text())["images"][0]["id"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--model", "none", "--data", "x"), "no bundle called 'none'"),
        (("evaluate", "--model", "red", "--data", "no/such"), "no/such does not exist"),
        (("predict", "--model", "red", "--images", "no", "--output", "o"), "no does not exist"),
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
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--weights-dir", str(weights)])

    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is not None, reason="Detectron2 is installed"
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config", "c.yaml", "--data", "d"),
        ("export", "--config", "c.yaml", "--checkpoint", "best.pt", "--data", "d"),
    ],
)
def test_without_detectron2_one_line_says_how_to_install_it(arguments: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "detection", *arguments], capture_output=True, text=True, check=False
    )

    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "detectron2 is not installed" in line
    assert "pip install --no-build-isolation" in line
    assert "setuptools<81" in line
