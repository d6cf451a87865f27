from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from style_maskrcnn.config import AugmentationConfig
from style_maskrcnn.datasets import (
    LabelSet,
    Sample,
    View,
    batches_of_epoch,
    boxes_of_masks,
    decode_photo,
    epoch_order,
    known_tags,
    make_batch,
    make_samples,
    make_view,
    paste,
    read_instances,
    repeat_factors,
    split_ids,
    varied_view,
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


def plain_view(
    value: int, boxes: dict[int, tuple[int, int, int, int]], size_hw: tuple[int, int] = (40, 40)
) -> View:
    """A photo of one grey with the given rectangles by class id, each its own instance."""
    masks = np.zeros((len(boxes), *size_hw), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.values(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return View(
        np.full((*size_hw, 3), value, np.uint8),
        masks,
        np.array(list(boxes), np.int64),
        np.zeros((0, 4), np.float32),
    )


def test_a_pasted_garment_takes_its_pixels() -> None:
    onto = plain_view(10, {0: (0, 0, 20, 40), 1: (30, 30, 40, 40)})
    source = plain_view(200, {2: (10, 0, 40, 20), 3: (0, 30, 10, 40)})
    view = paste(onto, source, np.array([0]), min_visible=0.3)
    assert view.class_ids.tolist() == [0, 1, 2]
    assert boxes_of_masks(view.masks).tolist() == [
        [0, 0, 20, 40],
        [30, 30, 40, 40],
        [10, 0, 40, 20],
    ]
    assert view.masks[0, 5].tolist() == [1] * 10 + [0] * 30
    assert view.masks.sum(axis=0).max() == 1
    assert (view.pixels[2:18, 12:38] == 200).all()
    assert (view.pixels[22:] == 10).all()


def test_a_garment_hardly_in_sight_any_more_is_dropped() -> None:
    onto = plain_view(10, {0: (0, 0, 20, 40), 1: (20, 0, 40, 40)})
    source = plain_view(200, {2: (0, 0, 15, 40)})
    chosen = np.array([0])
    assert paste(onto, source, chosen, min_visible=0.3).class_ids.tolist() == [1, 2]
    assert paste(onto, source, chosen, min_visible=0.2).class_ids.tolist() == [0, 1, 2]


def test_what_is_pasted_beyond_the_photo_is_cut_off() -> None:
    onto = plain_view(10, {0: (0, 0, 20, 20)}, (20, 60))
    source = plain_view(200, {1: (0, 10, 30, 40), 2: (0, 30, 30, 40)})
    view = paste(onto, source, np.array([0, 1]), min_visible=0.3)
    assert view.pixels.shape == (20, 60, 3)
    assert view.class_ids.tolist() == [0, 1]  # the other lies beyond
    assert boxes_of_masks(view.masks)[1].tolist() == [0, 10, 30, 20]


def test_attributes_go_with_their_pasted_instances() -> None:
    onto = replace(plain_view(10, {0: (0, 0, 9, 9), 1: (20, 0, 40, 40)}), attribute_ids=((7,), ()))
    source = replace(
        plain_view(200, {2: (0, 30, 9, 40), 3: (0, 0, 12, 12)}), attribute_ids=((1,), (2, 3))
    )
    view = paste(onto, source, np.array([1]), min_visible=0.3)
    assert view.class_ids.tolist() == [1, 3]
    assert view.attribute_ids == ((), (2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_copy_paste_and_close_ups_keep_masks_on_their_pixels(seed: int) -> None:
    files = ccp_files({"1": {"dress": (20, 20, 50, 70)}})
    mask = Rle.encode(np.pad(np.ones((50, 30), bool), ((20, 26), (20, 14))))
    nothing = np.zeros((0, 4), np.float32)
    photo = Sample("1", files["photos/1.jpg"], (96, 64), (0,), (mask,), nothing)
    every = AugmentationConfig(copy_paste=1.0, close_ups=0.5)
    view = varied_view([photo], 0, 96, np.random.default_rng(seed), every)
    blue = view.pixels[:, :, 2].astype(int) - view.pixels[:, :, 0] > 60
    inside = view.masks.any(axis=0)
    assert (blue & inside).sum() >= 0.9 * inside.sum()
    assert (blue & ~inside).sum() <= 0.1 * inside.sum()
    assert view.masks.sum(axis=0).max() == 1


def test_a_close_up_is_a_window_of_the_enlarged_photo(dataset: CcpDataset) -> None:
    _, samples = samples_of(dataset)
    always = AugmentationConfig(close_ups=1.0, close_up_zoom=(2.0, 2.0))
    views = [varied_view(samples, 0, 96, np.random.default_rng(i), always) for i in range(20)]
    assert all(v.pixels.shape[0] <= 96 and v.pixels.shape[1] <= 64 for v in views)
    # The bag is 20 pixels high in the photo; whole in a window of the doubled one it is 40.
    bags = [boxes_of_masks(v.masks)[list(v.class_ids).index(2)] for v in views if 2 in v.class_ids]
    assert max(y2 - y1 for _, y1, _, y2 in bags) == 40


def test_plain_augmentation_is_one_view_after_another(dataset: CcpDataset) -> None:
    _, samples = samples_of(dataset)
    plain = varied_view(samples, 1, 96, np.random.default_rng(4), AugmentationConfig())
    assert (plain.pixels == make_view(samples[1], 96, np.random.default_rng(4)).pixels).all()


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
