from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.drawn_ccp import TAGS, ccp_files, mat, tag_map, write_folder, write_zip
from training.ccp import CcpDataset, Skipped, drop_small_components
from vision.errors import ErrorCode, PermanentError

TWO_PHOTOS = {
    "0001": tag_map({"shirt": (10, 10, 40, 50), "pants": (12, 50, 38, 90)}),
    "0002": tag_map({"shoes": (5, 80, 20, 95)}),
}


def test_folder_zip_and_wrapped_zip_read_the_same(tmp_path: Path) -> None:
    files = ccp_files(TWO_PHOTOS)
    sets = [
        CcpDataset(write_folder(tmp_path / "set", files)),
        CcpDataset(write_zip(tmp_path / "set.zip", files)),
        CcpDataset(write_zip(tmp_path / "wrapped.zip", files, prefix="ccp-master/")),
    ]

    for dataset in sets:
        assert dataset.tags == TAGS
        assert dataset.photo_ids == ("0001", "0002")
        assert dataset.photo_bytes("0002") == files["photos/0002.jpg"]
        np.testing.assert_array_equal(dataset.tag_map("0001"), TWO_PHOTOS["0001"])


def test_one_instance_a_tag_with_an_exclusive_far_edge(tmp_path: Path) -> None:
    dataset = CcpDataset(write_folder(tmp_path, ccp_files(TWO_PHOTOS)))

    found = {i.tag: i.xyxy for i in dataset.instances("0001", leave_out=("null",))}

    assert found == {"shirt": (10, 10, 40, 50), "pants": (12, 50, 38, 90)}


def test_a_pair_is_one_instance_without_its_crumbs(tmp_path: Path) -> None:
    tags = tag_map({"shoes": (5, 40, 15, 50)}, width=60, height=60)  # 100 pixels: the left one
    tags[40:50, 30:40] = TAGS.index("shoes")  # 100 pixels: the right one
    tags[10:12, 50:52] = TAGS.index("shoes")  # 4 of 205 pixels are 2 %
    tags[0, 0] = TAGS.index("shoes")  # 1 of 205 is under 1 %
    dataset = CcpDataset(write_folder(tmp_path, ccp_files({"0001": tags})))

    (instance,) = dataset.instances("0001", leave_out=("null",))

    assert instance.xyxy == (5, 10, 52, 50)
    assert instance.mask.sum() == 204
    assert not instance.mask[0, 0]


def test_a_tag_that_is_nothing_but_crumbs_has_no_instance(tmp_path: Path) -> None:
    tags = np.zeros((60, 60), np.uint8)
    tags[::4, ::4] = TAGS.index("shirt")  # 225 single pixels of 0.4 % each
    dataset = CcpDataset(write_folder(tmp_path, ccp_files({"0001": tags})))

    assert list(dataset.instances("0001", leave_out=("null",))) == []


def test_diagonal_pixels_are_connected() -> None:
    mask = np.eye(200, dtype=bool)  # each pixel alone would be 0.5 %

    assert drop_small_components(mask).sum() == 200


def test_a_photo_and_an_annotation_without_each_other_are_listed(tmp_path: Path) -> None:
    files = ccp_files(TWO_PHOTOS | {"0003": TWO_PHOTOS["0001"], "0004": TWO_PHOTOS["0001"]})
    del files["photos/0003.jpg"], files["annotations/pixel-level/0004.mat"]

    dataset = CcpDataset(write_folder(tmp_path, files))

    assert dataset.photo_ids == ("0001", "0002")
    assert dataset.skipped == (
        Skipped("0004", "no pixel-level annotation"),
        Skipped("0003", "photo is missing"),
    )


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (b"not a matlab file at all, and long enough", "0001.mat"),
        (mat(other=np.zeros((4, 4), np.uint8)), "groundtruth"),
        (mat(groundtruth=np.full((4, 4), len(TAGS), np.uint8)), f"ids below {len(TAGS)}"),
        (mat(groundtruth=np.full((4, 4), -1, np.int16)), f"ids below {len(TAGS)}"),
        (mat(groundtruth=np.zeros((2, 2, 2), np.uint8)), "2-D"),
        (mat(groundtruth=np.zeros((9, 9), np.uint8))[:150], "broken"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, annotation: bytes, message: str) -> None:
    files = ccp_files(TWO_PHOTOS) | {"annotations/pixel-level/0001.mat": annotation}
    dataset = CcpDataset(write_folder(tmp_path, files))

    with pytest.raises(PermanentError, match=message) as caught:
        dataset.tag_map("0001")
    assert caught.value.code == ErrorCode.DATASET_INVALID


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="holds no label_list"):
        CcpDataset(write_folder(tmp_path / "a", {"photos/0001.jpg": b""}))
    only_labels = {"label_list.mat": ccp_files({})["label_list.mat"]}
    with pytest.raises(PermanentError, match="no annotated photo"):
        CcpDataset(write_folder(tmp_path / "b", only_labels))
    with pytest.raises(PermanentError, match=r"label_list\.mat"):
        CcpDataset(write_folder(tmp_path / "c", {"label_list.mat": b"x" * 200}))
