"""The shipped garment detector, run as a user runs it: a process of its own, the default model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import encode
from vision.bundle import WEIGHTS_DIR, open_bundle, resolve
from vision.taxonomy import load_taxonomy

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = Path(os.environ.get("VESTIARY_SHARED_DATA", ROOT.parent / "shared" / "data"))
CCP = SHARED_DATA / "clothing-co-parsing.zip"
FRAMEWORKS = ("torch", "tensorflow", "keras", "timm", "detectron2", "jax")

# Runs `python -m detection …` and then says on stderr which training frameworks it imported.
RUNNER = f"""
import runpy, sys
sys.argv[0] = "detection"
try:
    runpy.run_module("detection", run_name="__main__")
finally:
    print("imported:", *sorted(set({FRAMEWORKS!r}) & set(sys.modules)), file=sys.stderr)
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "imported:"
    return result


def dressed_figure() -> np.ndarray:
    """A crude person: skin head, red top, blue trousers and black shoes before a wall."""
    pixels = np.full((600, 400, 3), (205, 200, 190), np.uint8)
    for (x1, y1, x2, y2), colour in {
        (170, 40, 230, 110): (224, 172, 140),
        (130, 110, 270, 290): (180, 30, 40),
        (145, 290, 255, 520): (40, 50, 110),
        (135, 520, 265, 560): (20, 20, 20),
    }.items():
        pixels[y1:y2, x1:x2] = colour
    return pixels


def test_predict_with_the_shipped_model(tmp_path: Path) -> None:
    images = tmp_path / "photos"
    images.mkdir()
    png = encode(dressed_figure()).data
    (images / "figure.png").write_bytes(png)
    (images / "broken.png").write_bytes(png[: len(png) // 2])
    output = tmp_path / "found.jsonl"

    run("predict", "--model", "default", "--images", images, "--output", output)

    broken, figure = (json.loads(line) for line in output.read_text().splitlines())
    assert broken == {"file": "broken.png", "error": broken["error"]}
    assert broken["error"]["code"] == "image_corrupt"
    assert figure["file"] == "figure.png"
    assert 0 < len(figure["detections"]) <= 100
    scores = [found["score"] for found in figure["detections"]]
    assert scores == sorted(scores, reverse=True)
    for found in figure["detections"]:
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 600
        assert found["label"] in load_taxonomy().garment_classes


def test_the_shipped_bundle_says_what_it_is() -> None:
    bundle = open_bundle(resolve("default", "detection"), "detection")

    assert tuple(bundle.labels["classes"]) == load_taxonomy().garment_classes
    assert bundle.parity["unmatched"] == 0
    assert bundle.parity["score_difference"] <= bundle.parity["score_tolerance"]
    assert bundle.parity["box_difference_pixels"] <= bundle.parity["box_tolerance_pixels"]
    assert bundle.graph_path.stat().st_size < 30_000_000
    card = (WEIGHTS_DIR / bundle.name / "README.md").read_text(encoding="utf-8")
    # The card's figures are the bundle's, to the printed digit.
    for key in ("AP", "AP50", "AP75"):
        assert f"{bundle.metrics['test'][key]:.3f}" in card


@pytest.mark.shared_data
@pytest.mark.skipif(not CCP.is_file(), reason="the public data set is not here")
def test_evaluate_prints_the_cards_figures() -> None:
    bundle = open_bundle(resolve("default", "detection"), "detection")

    result = run("evaluate", "--data", CCP, "--split", "test")

    figures = json.loads(result.stdout)
    assert figures["photos"] == bundle.metrics["test"]["photos"]
    # Another build of the same libraries may round a score over a rank.
    assert figures["AP"] == pytest.approx(bundle.metrics["test"]["AP"], abs=0.005)
