"""The shipped style bundle, through its command line, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from style_maskrcnn.postprocess import UPPER_BODY_CLASSES
from style_maskrcnn.upper_body.groups import ATTRIBUTE_GROUPS, PATTERN, PATTERN_GROUPS
from vision.bundle import open_bundle, resolve
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

ROOT = Path(__file__).parents[2]
SHARED_DATA = ROOT / os.environ.get("VESTIARY_SHARED_DATA", "../shared/data")
FRAMEWORKS = ("torch", "torchvision", "tensorflow", "keras", "timm", "detectron2")

# Runs the package as `python -m` does and then names the training frameworks that got imported.
RUN = """
import runpy, sys
try:
    runpy.run_module("style_maskrcnn", run_name="__main__", alter_sys=True)
finally:
    print([name for name in {frameworks} if name in sys.modules], file=sys.stderr)
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = RUN.format(frameworks=FRAMEWORKS)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def drawn_person() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(600, 400, 3) BGR: someone drawn in a red dress with black shoes on a light street."""
    photo = np.full((600, 400, 3), (215, 220, 225), np.uint8)
    cv2.rectangle(photo, (0, 480), (400, 600), (150, 155, 160), -1)
    cv2.ellipse(photo, (200, 90), (35, 45), 0, 0, 360, (150, 180, 230), -1)
    cv2.fillPoly(photo, [np.array([[150, 140], [250, 140], [290, 400], [110, 400]])], (40, 30, 190))
    for x in (165, 215):
        cv2.rectangle(photo, (x, 400), (x + 22, 520), (150, 180, 230), -1)
        cv2.rectangle(photo, (x - 8, 515), (x + 26, 540), (20, 20, 20), -1)
    return photo


def rotated_jpeg(upright: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """The photo stored lying, with EXIF orientation 6 that says to turn it upright."""
    lying = cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE)
    data = cv2.imencode(".jpg", lying)[1].tobytes()
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\x00\x00" + tiff + b"\x00\x00\x00\x00"
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `predict` writes for a folder of good and broken files, and samples/."""
    folder = tmp_path_factory.mktemp("photos")
    photo = drawn_person()
    (folder / "drawn.png").write_bytes(cv2.imencode(".png", photo)[1].tobytes())
    (folder / "lying.jpg").write_bytes(rotated_jpeg(photo))
    (folder / "half.jpg").write_bytes(cv2.imencode(".jpg", photo)[1].tobytes()[:3000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "blank.png").write_bytes(
        cv2.imencode(".png", np.full((50, 400, 3), 127, np.uint8))[1].tobytes()
    )
    (folder / "real.jpg").write_bytes((ROOT / "samples" / "grace_hopper.jpg").read_bytes())
    output = folder / "out.jsonl"
    finished = run("predict", "--images", folder, "--output", output, "--threads", 1)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.strip() == "[]"  # no training framework in the process
    return [json.loads(line) for line in output.read_text().splitlines()]


def instances(lines: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = next(line for line in lines if line["file"] == name)["instances"]
    return found


def test_a_line_for_every_file(lines: list[dict[str, Any]]) -> None:
    assert [line["file"] for line in lines] == [
        "blank.png",
        "drawn.png",
        "empty.jpg",
        "half.jpg",
        "lying.jpg",
        "real.jpg",
    ]
    errors = {line["file"]: line["error"]["code"] for line in lines if "error" in line}
    assert errors == {"empty.jpg": "image_corrupt", "half.jpg": "image_corrupt"}


def test_instances_are_well_formed(lines: list[dict[str, Any]]) -> None:
    bundle = open_bundle(resolve("default", "style"), "style")
    groups = {group["name"]: group["values"] for group in bundle.labels["attributes"]}
    upper = {group.name: group.values for group in ATTRIBUTE_GROUPS}
    upper[PATTERN] = tuple(group.name for group in PATTERN_GROUPS)
    sizes = {"blank.png": [50, 400], "drawn.png": [600, 400], "lying.jpg": [600, 400]}
    for name, size in sizes.items():
        found = instances(lines, name)
        assert [i["score"] for i in found] == sorted((i["score"] for i in found), reverse=True)
        for instance in found:
            assert instance["label"] in load_taxonomy().class_of_tag
            assert 0.05 <= instance["score"] <= 1
            assert instance["mask"]["size"] == size
            mask = Rle(tuple(size), instance["mask"]["counts"]).decode()
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert instance["box"] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            is_upper = load_taxonomy().class_of_tag[instance["label"]] in UPPER_BODY_CLASSES
            expected = groups | upper if is_upper else groups
            assert set(instance["attributes"]) == set(expected)
            for group, answer in instance["attributes"].items():
                assert answer["label"] in [*expected[group], "unknown"]
                assert 0 < answer["confidence"] <= 1


def test_the_drawn_dress_is_found_where_it_is(lines: list[dict[str, Any]]) -> None:
    x1, y1, x2, y2 = next(i for i in instances(lines, "drawn.png") if i["label"] == "dress")["box"]
    inter = max(0, min(x2, 290) - max(x1, 110)) * max(0, min(y2, 400) - max(y1, 140))
    union = (x2 - x1) * (y2 - y1) + 180 * 260 - inter
    assert inter / union > 0.5


def test_a_lying_photo_is_seen_upright(lines: list[dict[str, Any]]) -> None:
    upright, turned = (instances(lines, name)[0] for name in ("drawn.png", "lying.jpg"))
    assert turned["label"] == upright["label"]
    assert turned["box"] == pytest.approx(upright["box"], abs=15)


def test_something_is_worn_in_a_real_photo(lines: list[dict[str, Any]]) -> None:
    assert instances(lines, "real.jpg")


@pytest.mark.shared_data
def test_the_model_cards_figures_are_what_evaluate_prints() -> None:
    data = SHARED_DATA / "clothing-co-parsing.zip"
    if not data.is_file():
        pytest.skip(f"{data} is not there")
    pytest.importorskip("faster_coco_eval")
    finished = run("evaluate", "--data", data, "--split", "test", "--threads", 2)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout)
    card = open_bundle(resolve("default", "style"), "style").metrics["test"]
    assert figures["photos"] == card["photos"]
    for part in ("fine_tags", "garment_classes"):
        for kind in ("mask", "box"):
            for name in ("AP", "AP50"):
                assert figures[part][kind][name] == pytest.approx(card[part][kind][name], abs=0.01)
    assert figures["foreground"]["iou"] == pytest.approx(card["foreground"]["iou"], abs=0.01)


@pytest.mark.shared_data
def test_the_attributes_card_figures_are_what_evaluate_prints() -> None:
    data = SHARED_DATA / "clothing-attributes.zip"
    if not data.is_file():
        pytest.skip(f"{data} is not there")
    finished = run("evaluate", "--data", data, "--split", "test", "--threads", 2)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout)
    folder = resolve("default", "style_attributes")
    card = open_bundle(folder, "style_attributes").metrics["test"]
    assert figures["photos"] == card["photos"]
    for name in ("mean_balanced_accuracy", "upper_body_found"):
        assert figures[name] == pytest.approx(card[name], abs=0.01)
