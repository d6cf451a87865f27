from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from style_maskrcnn.datasets import (
    LabelSet,
    Sample,
    batches_of_epoch,
    boxes_of_masks,
    decode_photo,
    epoch_order,
    known_tags,
    make_batch,
    make_samples,
    make_view,
    read_instances,
    repeat_factors,
    split_ids,
)
from tests.unit.style_maskrcnn.drawing import ccp_files, mat, write_folder, write_zip
from training.ccp import CcpDataset
from training.split import DEFAULT_FRACTIONS
from vision.errors import ErrorCode, PermanentError
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

PHOTOS = {
    "0001": {"dress": (20, 20, 50, 70), "bag": (4, 40, 16, 60), "hair": (25, 5, 45, 18)},
    "0002": {"dress": (10, 10, 40, 80), "watch": (44, 50, 50, 58), "wedges": (10, 84, 30, 92)},
    "0003": {"skin": (10, 10, 40, 80)},
}
TAXONOMY = load_taxonomy()


@pytest.fixture
def dataset(tmp_path: Path) -> CcpDataset:
    return CcpDataset(write_zip(tmp_path / "ccp.zip", ccp_files(PHOTOS)))


def samples_of(dataset: CcpDataset, min_instances: int = 1) -> tuple[LabelSet, list[Sample]]:
    instances = read_instances(dataset, dataset.photo_ids, TAXONOMY)
    labels = known_tags(instances, TAXONOMY, min_instances)
    return labels, make_samples(dataset, instances, labels)


def sample(class_ids: tuple[int, ...] = (), ignore: list[list[float]] | None = None) -> Sample:
    return Sample(
        "x", b"", (9, 9), class_ids, (), np.array(ignore or [], np.float32).reshape(-1, 4)
    )


def test_tags_are_garments_in_the_taxonomys_order(dataset: CcpDataset) -> None:
    labels, _ = samples_of(dataset)
    assert labels.class_names == ("dress", "wedges", "bag")  # no hair, skin or watch
    assert labels.coarse_of_class == ("dress", "footwear", "bag")
    assert labels.mask_channel_of_class == (0, 1, 2)


def test_rare_tags_and_ignored_tags_become_ignore_regions(dataset: CcpDataset) -> None:
    labels, samples = samples_of(dataset, min_instances=2)
    assert labels.class_names == ("dress",)
    by_id = {s.photo_id: s for s in samples}
    assert by_id["0001"].ignore_boxes.tolist() == [[4, 40, 16, 60]]  # the bag
    assert by_id["0002"].ignore_boxes.tolist() == [[44, 50, 50, 58], [10, 84, 30, 92]]
    assert by_id["0002"].masks[0].area == 30 * 70


def test_a_photo_without_garments_is_kept_as_background(dataset: CcpDataset) -> None:
    _, samples = samples_of(dataset)
    empty = samples[2]
    assert (empty.class_ids, empty.size_hw, empty.ignore_boxes.shape) == ((), (96, 64), (0, 4))
    batch = make_batch([make_view(empty, 96, None)])
    assert batch.boxes[0].shape == (0, 4)
    assert batch.masks[0].shape == (0, 96, 64)


def test_folder_and_zip_read_alike(dataset: CcpDataset, tmp_path: Path) -> None:
    folder = CcpDataset(write_folder(tmp_path / "ccp", ccp_files(PHOTOS)))
    for ours, theirs in zip(samples_of(folder)[1], samples_of(dataset)[1], strict=True):
        assert (ours.photo_id, ours.photo, ours.masks) == (
            theirs.photo_id,
            theirs.photo,
            theirs.masks,
        )


def test_coarse_classes_share_a_mask_channel() -> None:
    labels = LabelSet(("blouse", "dress", "shirt"), ("top", "dress", "top"))
    assert labels.mask_channel_of_class == (0, 1, 0)


def test_no_tag_frequent_enough_is_an_error(dataset: CcpDataset) -> None:
    with pytest.raises(PermanentError, match="no garment tag has 3 instances") as caught:
        samples_of(dataset, min_instances=3)
    assert caught.value.code == ErrorCode.DATASET_INVALID


def test_a_broken_photo_is_named(tmp_path: Path) -> None:
    files = ccp_files(PHOTOS) | {"photos/0001.jpg": b"no picture"}
    _, samples = samples_of(CcpDataset(write_zip(tmp_path / "ccp.zip", files)))
    with pytest.raises(PermanentError, match="photo 0001 cannot be decoded"):
        decode_photo(samples[0])


def test_a_broken_annotation_is_named(tmp_path: Path) -> None:
    flat = mat(groundtruth=np.zeros((2, 2, 2), np.uint8))
    files = ccp_files(PHOTOS) | {"annotations/pixel-level/0001.mat": flat}
    dataset = CcpDataset(write_zip(tmp_path / "ccp.zip", files))
    with pytest.raises(PermanentError, match=r"0001\.mat: groundtruth must be 2-D"):
        read_instances(dataset, ["0001"], TAXONOMY)


def test_splits_share_out_all_photos(dataset: CcpDataset) -> None:
    parts = [split_ids(dataset, split, DEFAULT_FRACTIONS, "") for split in DEFAULT_FRACTIONS]
    assert sorted(i for part in parts for i in part) == list(PHOTOS)
    assert split_ids(dataset, "all", DEFAULT_FRACTIONS, "") == list(PHOTOS)
    with pytest.raises(ValueError, match="unknown split 'tset'; known: all, train"):
        split_ids(dataset, "tset", DEFAULT_FRACTIONS, "")


def test_repeat_factors_by_hand() -> None:
    # Class 0 in 4 of 5 photos, class 1 in one: √(.8 / .8) = 1 and √(.8 / .2) = 2.
    photos = [sample((0,)), sample((0,)), sample((0,)), sample((0, 1)), sample()]
    assert repeat_factors(photos, 0.8).tolist() == [1, 1, 1, 2, 1]


def test_an_epoch_shows_whole_repeats_and_draws_the_rest() -> None:
    order = epoch_order(np.array([1.0, 2.0, 1.5]), seed=3, epoch=0)
    counts = np.bincount(order, minlength=3)
    assert counts[:2].tolist() == [1, 2]
    assert counts[2] in (1, 2)
    drawn = [np.bincount(epoch_order(np.array([1.5]), 3, e))[0] for e in range(400)]
    assert np.mean(drawn) == pytest.approx(1.5, abs=0.1)
    assert (epoch_order(np.ones(50), 3, 0) != epoch_order(np.ones(50), 3, 1)).any()


def test_view_without_augmentation_scales_photo_masks_and_regions(dataset: CcpDataset) -> None:
    _, samples = samples_of(dataset)
    view = make_view(samples[1], 48, None)  # 96×64 at half size
    assert view.pixels.shape == (48, 32, 3)
    assert boxes_of_masks(view.masks).tolist() == [[5, 5, 20, 40], [5, 42, 15, 46]]
    assert view.ignore_boxes.tolist() == [[22, 25, 25, 29]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_augmented_masks_stay_on_their_pixels(seed: int) -> None:
    files = ccp_files({"1": {"dress": (20, 20, 50, 70), "watch": (2, 2, 12, 12)}})
    photo = Sample(
        "1",
        files["photos/1.jpg"],
        (96, 64),
        (0,),
        (Rle.encode(np.pad(np.ones((50, 30), bool), ((20, 26), (20, 14)))),),
        np.array([[2, 2, 12, 12]], np.float32),
    )
    view = make_view(photo, 96, np.random.default_rng(seed))
    # The dress is blue on light grey, whatever the recolouring: blue over red inside, not outside.
    blue = view.pixels[:, :, 2].astype(int) - view.pixels[:, :, 0] > 60
    inside = view.masks[0].astype(bool)
    assert (blue & inside).sum() >= 0.9 * inside.sum()
    assert (blue & ~inside).sum() <= 0.1 * inside.sum()
    for x1, y1, x2, y2 in view.ignore_boxes.round().astype(int):
        green = view.pixels[y1:y2, x1:x2].astype(int).mean(axis=(0, 1))
        assert green[1] > green[0] + 40


def test_an_epoch_resumes_on_the_same_batches(dataset: CcpDataset) -> None:
    _, samples = samples_of(dataset)
    order = np.array([0, 1, 2, 0, 1, 2, 0])
    whole = list(batches_of_epoch(samples, order, 2, (64, 96), (7, 0)))
    rest = list(batches_of_epoch(samples, order, 2, (64, 96), (7, 0), first=2))
    assert (len(whole), len(rest)) == (3, 1)
    assert (whole[2].images == rest[0].images).all()


def test_a_batch_is_padded_to_one_size(dataset: CcpDataset) -> None:
    _, samples = samples_of(dataset)
    batch = make_batch([make_view(samples[0], 96, None), make_view(samples[1], 48, None)])
    assert batch.images.shape == (2, 3, 96, 64)
    assert (batch.images[1, :, 48:] == 0).all()
    assert batch.masks[1].shape == (2, 96, 64)
    assert batch.boxes[1].tolist() == [[5, 5, 20, 40], [5, 42, 15, 46]]
