from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection.datasets import ALL, class_id_of, ids_of_split, read_photo
from tests.drawn_ccp import ccp_files, tag_map, write_folder, write_zip
from training.ccp import CcpDataset
from training.split import split_of
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import load_taxonomy

CLASSES = load_taxonomy().garment_classes
TAGS = tag_map(
    {
        "shirt": (10, 10, 40, 40),
        "pants": (12, 40, 25, 80),
        "jeans": (25, 40, 38, 80),
        "necklace": (20, 5, 30, 10),
        "skin": (20, 0, 30, 5),
    }
)


def test_tags_become_classes_and_ignore_regions(tmp_path: Path) -> None:
    dataset = CcpDataset(write_zip(tmp_path / "ccp.zip", ccp_files({"0001": TAGS})))

    photo = read_photo(dataset, "0001")

    assert photo.image.resolution_wh == (64, 96)
    seen = {(t.class_id, t.xyxy) for t in photo.truth}
    assert seen == {
        (CLASSES.index("top"), (10, 10, 40, 40)),
        # Two tags of one class are two instances.
        (CLASSES.index("trousers"), (12, 40, 25, 80)),
        (CLASSES.index("trousers"), (25, 40, 38, 80)),
        (None, (20, 5, 30, 10)),
    }


def test_every_tag_of_the_taxonomy_is_a_class_ignored_or_background() -> None:
    taxonomy = load_taxonomy()

    assert class_id_of("leggings", taxonomy) == CLASSES.index("trousers")
    assert class_id_of("watch", taxonomy) is None
    with pytest.raises(PermanentError, match="no tag 'spacesuit'"):
        class_id_of("spacesuit", taxonomy)


def test_a_photo_of_another_size_than_its_annotation_is_refused(tmp_path: Path) -> None:
    files = ccp_files({"0001": TAGS})
    files["photos/0001.jpg"] = ccp_files({"0001": np.zeros((50, 40), np.uint8)})["photos/0001.jpg"]
    dataset = CcpDataset(write_folder(tmp_path, files))

    with pytest.raises(PermanentError, match="photo 0001 is 40×50, its annotation 64×96"):
        read_photo(dataset, "0001")


def test_a_broken_photo_is_named(tmp_path: Path) -> None:
    files = ccp_files({"0001": TAGS})
    files["photos/0001.jpg"] = files["photos/0001.jpg"][:200]
    dataset = CcpDataset(write_folder(tmp_path, files))

    with pytest.raises(PermanentError, match=r"photos/0001\.jpg") as caught:
        read_photo(dataset, "0001")
    assert caught.value.code == ErrorCode.DATASET_INVALID


def test_splits_follow_the_hash(tmp_path: Path) -> None:
    ids = [f"{i:04d}" for i in range(1, 41)]
    dataset = CcpDataset(write_zip(tmp_path / "ccp.zip", ccp_files(dict.fromkeys(ids, TAGS))))

    assert ids_of_split(dataset, ALL) == tuple(ids)
    assert ids_of_split(dataset, "train") == tuple(i for i in ids if split_of(i) == "train")


def test_unknown_and_empty_splits_are_refused(tmp_path: Path) -> None:
    dataset = CcpDataset(write_zip(tmp_path / "ccp.zip", ccp_files({"0001": TAGS})))

    with pytest.raises(PermanentError, match="unknown split 'dev'; known: train, validation"):
        ids_of_split(dataset, "dev")
    assert split_of("0001") == "train"
    with pytest.raises(PermanentError, match="no photo belongs to split 'test'"):
        ids_of_split(dataset, "test")


@pytest.mark.detectron2
def test_detectron2_records(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.structures import BoxMode

    from detection.datasets import detectron2_records, register

    files = ccp_files({"0001": TAGS, "0002": TAGS})
    files["photos/0002.jpg"] = b"broken"
    dataset = CcpDataset(write_folder(tmp_path, files))

    records, skipped = detectron2_records(dataset, dataset.photo_ids)

    assert [s.photo_id for s in skipped] == ["0002"]
    (record,) = records
    assert (record["image_id"], record["width"], record["height"]) == ("0001", 64, 96)
    crowd = [a for a in record["annotations"] if a["iscrowd"]]
    assert [a["bbox"] for a in crowd] == [[20, 5, 30, 10]]
    assert len(record["annotations"]) == 4
    assert all(a["bbox_mode"] == BoxMode.XYXY_ABS for a in record["annotations"])

    for _ in range(2):  # again replaces, where Detectron2 itself would fail
        register("drawn_ccp", records, CLASSES)
    assert DatasetCatalog.get("drawn_ccp") == records
    assert MetadataCatalog.get("drawn_ccp").thing_classes == list(CLASSES)
