"""What every classification bundle that ships must be able to do, whoever trained it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from classification.heads import head_of, known_heads
from classification.predictor import AttributeClassifier
from vision.bundle import METADATA, WEIGHTS_DIR, open_bundle
from vision.garments import Crop
from vision.taxonomy import load_taxonomy

# A file of a repository may have 50 MB at some hosts before they complain.
LARGEST_FILE = 45_000_000


def shipped() -> list[Path]:
    folders = sorted(path.parent for path in WEIGHTS_DIR.glob(f"*/{METADATA}"))
    return [
        folder
        for folder in folders
        if yaml.safe_load((folder / METADATA).read_text(encoding="utf-8"))["task"]
        == "classification"
    ]


@pytest.mark.parametrize("folder", shipped(), ids=lambda folder: folder.name)
def test_a_shipped_bundle_answers_all_its_heads_without_contradicting_itself(folder: Path) -> None:
    bundle = open_bundle(folder, "classification")
    rng = np.random.default_rng(0)
    crops = [
        Crop(rng.integers(0, 256, (h, w, 3), dtype=np.uint8), (0, 0, w, h))
        for h, w in ((80, 60), (28, 28), (5, 300), (1, 1))
    ]

    answers = AttributeClassifier(bundle, threads=1, allow_unknown=False).predict(crops)

    taxonomy = load_taxonomy()
    for answer in answers:
        told = {head: prediction.label for head, prediction in answer.attributes.items()}
        assert all(
            label in head_of(head, taxonomy).labels
            for head, label in told.items()
            if head in known_heads()
        )
        if {"master_category", "sub_category", "article_type"} <= set(told):
            assert taxonomy.sub_category_of[told["article_type"]] == told["sub_category"]
            assert taxonomy.master_category_of[told["sub_category"]] == told["master_category"]
        assert np.linalg.norm(answer.embedding) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("folder", shipped(), ids=lambda folder: folder.name)
def test_a_shipped_bundle_is_small_enough_and_has_its_card(folder: Path) -> None:
    assert max(path.stat().st_size for path in folder.iterdir()) < LARGEST_FILE
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {folder.name}")


def test_something_ships() -> None:
    assert "attribute_classifier" in [folder.name for folder in shipped()]
