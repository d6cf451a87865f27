from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from style_maskrcnn.__main__ import main
from tests.unit.style_maskrcnn.bundles import BAG, DRESS, two_garments
from tests.unit.style_maskrcnn.drawing import ccp_files, draw, jpeg, write_folder, write_zip
from vision.rle import Rle


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    two_garments(tmp_path / "weights" / "drawn")
    (tmp_path / "weights" / "defaults.yaml").write_text("style: drawn\n")
    return tmp_path / "weights"


def run(*arguments: object) -> None:
    """The command, which exits with 0 when it worked."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 0


def fail(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 1


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("as_zip", [False, True])
def test_predict_writes_a_line_for_every_image(tmp_path: Path, weights: Path, as_zip: bool) -> None:
    photo = jpeg(draw({"dress": DRESS, "bag": BAG})[0])
    files = {
        "b/street.jpg": photo,
        "a.jpg": photo[:200],
        "empty.png": b"",
        "notes.txt": b"no image",
        ".hidden.jpg": photo,
    }
    images = (write_zip if as_zip else write_folder)(tmp_path / "images", files)
    output = tmp_path / "out.jsonl"
    run("predict", "--images", images, "--output", output, "--weights-dir", weights, "--threads", 1)
    lines = read_lines(output)
    assert [line["file"] for line in lines] == ["a.jpg", "b/street.jpg", "empty.png"]
    assert lines[0]["error"] == {
        "code": "image_corrupt",
        "message": "the image is broken or cut short",
    }
    assert set(lines[2]) == {"file", "error"}
    instances = lines[1]["instances"]
    assert isinstance(instances, list)
    assert [i["label"] for i in instances] == ["dress", "bag", "wedges"]
    dress = instances[0]
    assert dress["box"] == list(DRESS)
    assert dress["score"] == 0.9
    mask = Rle(tuple(dress["mask"]["size"]), dress["mask"]["counts"]).decode()
    expected = np.zeros((96, 64), np.bool_)
    expected[20:70, 20:50] = True
    assert (mask == expected).all()
    assert dress["attributes"] == {"usage": {"label": "Casual", "confidence": 0.8808}}


def test_predict_what_the_service_would_report(tmp_path: Path, weights: Path) -> None:
    images = write_folder(tmp_path / "images", {"1.jpg": jpeg(draw({})[0])})
    output = tmp_path / "out.jsonl"
    run(
        "predict", "--model", "drawn", "--images", images, "--output", output,
        "--weights-dir", weights, "--believed-only",
    )  # fmt: skip
    (line,) = read_lines(output)
    assert [i["label"] for i in line["instances"]] == ["dress", "bag"]  # type: ignore[attr-defined]


def test_evaluate_prints_one_json_object_and_nothing_else(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    data = write_zip(tmp_path / "ccp.zip", ccp_files({"1": {"dress": DRESS, "bag": BAG}}))
    run("evaluate", "--data", data, "--weights-dir", weights)
    figures = json.loads(capfd.readouterr().out)
    assert figures["fine_tags"]["mask"]["AP"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gone", "--data", "x"], "no bundle called 'gone'"),
        (["--data", "no/such/path"], "no/such/path does not exist"),
    ],
)
def test_a_known_failure_is_one_line(
    weights: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    fail("evaluate", *arguments, "--weights-dir", weights)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_an_unknown_split_lists_the_known_ones(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_zip(tmp_path / "ccp.zip", ccp_files({"1": {"dress": DRESS}}))
    fail("evaluate", "--data", data, "--split", "tset", "--weights-dir", weights)
    assert "unknown split 'tset'; known: all, train" in capfd.readouterr().err
