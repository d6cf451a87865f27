from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import torch  # noqa: E402

from detection.augmentation import IGNORED, UNKNOWN_PIXEL  # noqa: E402
from detection.config import MixConfig  # noqa: E402
from detection.datasets import detectron2_records  # noqa: E402
from detection.samples import (  # noqa: E402
    TrainingSample,
    home_photo_records,
    open_sources,
    packshot_records,
    repeat_factors,
    view_of,
)
from tests.drawn_ccp import ccp_files, tag_map, write_folder  # noqa: E402
from tests.drawn_singles import write_home_photos, write_packshots  # noqa: E402
from tests.unit.detection.small_run import small_config  # noqa: E402
from training.ccp import CcpDataset  # noqa: E402
from training.home_photos import HomePhotoDataset  # noqa: E402
from training.products import ProductDataset  # noqa: E402
from vision.errors import PermanentError  # noqa: E402
from vision.taxonomy import load_taxonomy  # noqa: E402

CLASSES = load_taxonomy().garment_classes
AUGMENTATION = dataclasses.replace(
    small_config().augmentation, long_side=(96, 96), single_long_side=(64, 96), aspect_jitter=0.0
)


def street_records(tmp_path: Path, *tag_maps: np.ndarray) -> list[dict]:
    files = ccp_files({f"{number:04d}": tags for number, tags in enumerate(tag_maps)})
    dataset = CcpDataset(write_folder(tmp_path, files))
    return detectron2_records(dataset, dataset.photo_ids)[0]


def test_samples_keep_ignore_regions_as_such(tmp_path: Path) -> None:
    (record,) = street_records(
        tmp_path, tag_map({"shirt": (10, 10, 50, 40), "necklace": (10, 60, 50, 80)})
    )

    sample = TrainingSample(AUGMENTATION)(record)

    assert sample["image"].shape == (3, 96, 64)
    assert sample["image"].dtype == torch.uint8
    assert sorted(sample["instances"].gt_classes.tolist()) == [IGNORED, CLASSES.index("top")]
    assert len(sample["instances"].gt_boxes) == 2
    assert sample["sem_seg"].shape == (96, 64)
    assert set(sample["sem_seg"].unique().tolist()) <= {
        CLASSES.index("top"),
        len(CLASSES),
        UNKNOWN_PIXEL,
    }


def test_a_record_knows_whose_each_pixel_is(tmp_path: Path) -> None:
    (record,) = street_records(
        tmp_path, tag_map({"shirt": (10, 10, 50, 40), "necklace": (10, 60, 50, 80)})
    )

    view = view_of(record)

    assert view.owners is not None
    for index, (x1, y1, x2, y2) in enumerate(view.xyxy.astype(int)):
        assert (view.owners[y1:y2, x1:x2] == index + 1).all()
    assert sorted(view.class_ids.tolist()) == [IGNORED, CLASSES.index("top")]


def test_garments_of_another_photo_are_pasted(tmp_path: Path) -> None:
    plain, donor = street_records(
        tmp_path, tag_map({"shirt": (10, 10, 50, 40)}), tag_map({"shoes": (20, 70, 44, 90)})
    )
    always = dataclasses.replace(AUGMENTATION, copy_paste=1.0, max_pasted=3)

    sample = TrainingSample(always, [donor])(plain)

    found = {CLASSES[i] for i in sample["instances"].gt_classes.tolist()}
    assert found == {"top", "footwear"}


def test_home_photos_are_boxed_and_classed(tmp_path: Path) -> None:
    dataset = HomePhotoDataset(write_home_photos(tmp_path, {"a": "Dress", "b": "Not sure"}))
    split = "train"

    records = home_photo_records(dataset, split)

    # Of the two in the split only the dress has a class.
    assert [r["annotations"][0]["category_id"] for r in records] == [CLASSES.index("dress")]
    sample = TrainingSample(AUGMENTATION)(records[0])
    assert len(sample["instances"].gt_boxes) == 1


def test_packshots_get_a_canvas_and_a_box(tmp_path: Path) -> None:
    dataset = ProductDataset(
        write_packshots(tmp_path, {"1": "Handbags", "2": "Tshirts", "3": "Belts"})
    )
    records = packshot_records(dataset, "train", seed=0)

    # Clothes are left out: they are mostly worn, among others that nobody labelled.
    classes = [CLASSES[r["annotations"][0]["category_id"]] for r in records]
    assert classes == ["bag", "belt"]
    sample = TrainingSample(AUGMENTATION)(records[0])
    ((x1, y1, x2, y2),) = sample["instances"].gt_boxes.tensor.tolist()
    pixels = sample["image"].numpy().transpose(1, 2, 0)
    # The product alone: what lies beside the photo is 127, less a quarter where it is darkened.
    dark = (pixels.max(axis=2) < 75).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(dark)
    np.testing.assert_allclose((x1, y1, x2, y2), (x, y, x + w, y + h), atol=3)


def test_shares_of_the_mix() -> None:
    street = [{"annotations": [{"category_id": 0, "iscrowd": 0}]}] * 6
    mix = MixConfig(home_photos=0.3, packshots=0.1)

    factors = repeat_factors(street, [{}] * 9, [{}] * 2, mix, threshold=0.0)

    assert factors[:6].tolist() == [1.0] * 6
    assert factors[6:15].sum() == pytest.approx(3)  # .3 of 10
    assert factors[15:].sum() == pytest.approx(1)


def test_what_the_mix_wants_must_be_given() -> None:
    with pytest.raises(PermanentError, match="mix wants home photos"):
        open_sources(MixConfig(0.2, 0.0), None, None, seed=0)
    with pytest.raises(PermanentError, match="mix wants products"):
        open_sources(MixConfig(0.0, 0.2), None, None, seed=0)
    assert open_sources(MixConfig(0.0, 0.0), None, None, seed=0) == ([], [])
