from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from classification.fashion_mnist import LABELS, is_idx, open_fashion_mnist, read_images
from classification.idx import parse_idx
from tests.unit.classification.brightness import idx
from training.split import split_of
from vision.errors import ErrorCode, PermanentError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
CLASSES = (np.arange(40) % 10).astype(np.uint8)


def write_half(folder: Path, half: str, images=IMAGES, labels=CLASSES, packed: bool = True) -> None:
    for name, values in (("images-idx3", images), ("labels-idx1", labels)):
        path = folder / f"{half}-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))


def problem(error: pytest.ExceptionInfo[PermanentError]) -> str:
    assert error.value.code is ErrorCode.DATASET_INVALID
    return error.value.message


@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels_come_back_as_they_were(tmp_path, packed):
    write_half(tmp_path, "train", packed=packed)

    half = open_fashion_mnist(tmp_path).halves["train"]

    np.testing.assert_array_equal(half.images, IMAGES)
    np.testing.assert_array_equal(half.labels, CLASSES)
    assert half.labels.dtype == np.int64


def test_a_zip_with_everything_under_a_folder_reads_the_same(tmp_path):
    write_half(tmp_path, "t10k")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in tmp_path.glob("*.gz"):
            archive.write(path, f"data/fashion/{path.name}")

    half = open_fashion_mnist(tmp_path / "set.zip").halves["t10k"]

    np.testing.assert_array_equal(half.images, IMAGES)


def test_only_the_training_half_is_split_and_by_the_hash_of_the_index(tmp_path):
    write_half(tmp_path, "train")
    write_half(tmp_path, "t10k", IMAGES[:3], CLASSES[:3])
    data = open_fashion_mnist(tmp_path)
    parts = {name: data.split(name) for name in ("train", "validation", "calibration", "test")}

    assert sorted(i for part in parts.values() for i in part.indices) == list(range(40))
    assert all(split_of(str(i)) == name for name, part in parts.items() for i in part.indices)
    np.testing.assert_array_equal(parts["train"].images, IMAGES[parts["train"].indices])
    assert len(data.split("t10k")) == 3
    assert len(data.split("all")) == 43


def test_a_half_that_is_not_there_is_named(tmp_path):
    write_half(tmp_path, "train")

    with pytest.raises(PermanentError) as error:
        open_fashion_mnist(tmp_path).split("t10k")

    assert "holds no t10k-images-idx3-ubyte.gz" in problem(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "starts with nothing"),
        (b"\x00\x00\x0d\x03" + b"\x00" * 12, "starts with 00000d03, not 00000803"),
        (idx(CLASSES), "starts with 00000801, not 00000803"),
        (idx(IMAGES)[:9], "truncated within its header"),
        (idx(IMAGES)[:-1], "is truncated: 31359 of 31360 values"),
        (gzip.compress(idx(IMAGES))[:-900], "is damaged or truncated"),
        (idx(IMAGES) + b"\x00", "goes on after its 31360 values"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "more than any such data set has"),
    ],
)
def test_a_file_that_is_no_idx_file_says_what_is_wrong(content, said):
    with pytest.raises(PermanentError) as error:
        parse_idx(content, "some-images", 3)

    assert problem(error).startswith("some-images ")
    assert said in problem(error)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES[:, :20], CLASSES, "holds images of (20, 28), not (28, 28)"),
        (IMAGES, CLASSES[:39], "holds 39 labels for 40 images"),
        (IMAGES, CLASSES + 1, "holds a label 10; the last is 9"),
    ],
)
def test_images_and_labels_that_do_not_fit_each_other_are_told(tmp_path, images, labels, said):
    write_half(tmp_path, "train", images, labels)

    with pytest.raises(PermanentError) as error:
        open_fashion_mnist(tmp_path)

    assert said in problem(error)


def test_a_folder_without_such_files_and_images_without_labels_are_told(tmp_path):
    with pytest.raises(PermanentError) as error:
        open_fashion_mnist(tmp_path)
    assert "holds neither train-images-idx3-ubyte.gz nor" in problem(error)

    write_half(tmp_path, "train")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(PermanentError) as error:
        open_fashion_mnist(tmp_path)
    assert "holds no labels beside train-images-idx3-ubyte.gz" in problem(error)


def test_one_file_of_images_is_read_on_its_own(tmp_path):
    write_half(tmp_path, "t10k")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"

    assert is_idx(path)
    assert not is_idx(tmp_path)
    np.testing.assert_array_equal(read_images(path), IMAGES)
    with pytest.raises(PermanentError) as error:
        read_images(tmp_path / "none-idx3-ubyte")
    assert "No such file" in problem(error)


def test_the_classes_are_the_official_ones_in_their_order():
    assert len(LABELS) == 10
    assert (LABELS[0], LABELS[5], LABELS[9]) == ("T-shirt/top", "Sandal", "Ankle boot")
