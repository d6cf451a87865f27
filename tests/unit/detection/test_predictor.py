from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from detection.predictor import GarmentDetector, evaluation_min_score, same_size_groups
from tests.red_cells import write_red_cell_bundle
from vision.errors import ErrorCode, PermanentError
from vision.image import RgbImage

RED, BLUE = (255, 0, 0), (0, 0, 255)


def photo(width: int, height: int, *boxes: tuple[int, int, int, int], colour=RED) -> RgbImage:
    pixels = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = colour
    return RgbImage(pixels, "0" * 64)


@pytest.fixture
def detector(tmp_path: Path) -> GarmentDetector:
    return GarmentDetector(write_red_cell_bundle(tmp_path / "red"), threads=1)


def test_boxes_are_in_the_photos_pixels(detector: GarmentDetector) -> None:
    # 128×192 is scaled to 64×96, so a cell of 32 is 64 pixels of the photo.
    (found,) = detector.predict([photo(128, 192, (64, 0, 128, 64))])

    np.testing.assert_allclose(found.xyxy, [[64, 0, 128, 64]])
    assert found.labels == ("red",)
    assert found.scores[0] > 0.99


def test_each_class_by_its_name(detector: GarmentDetector) -> None:
    (found,) = detector.predict([photo(64, 96, (0, 64, 32, 96), colour=BLUE)])

    assert found.labels == ("blue",)
    np.testing.assert_allclose(found.xyxy, [[0, 64, 32, 96]])


def test_a_box_is_clipped_at_the_photos_edge(detector: GarmentDetector) -> None:
    # 48×96: the second column of cells is half photo and half padding: logit (10 - 20) / 2 = -5,
    # score .08. Its box ends where the photo ends.
    weak = GarmentDetector(detector._bundle, min_score=0.01)
    (found,) = weak.predict([photo(48, 96, (32, 0, 48, 32))])

    np.testing.assert_allclose(found.xyxy, [[32, 0, 48, 32]])
    np.testing.assert_allclose(found.scores, [0.0818], atol=1e-4)


def test_answers_keep_the_order_over_mixed_sizes(detector: GarmentDetector) -> None:
    rows = [0, 1, 2] * 5
    photos = [
        photo(64 if index % 2 else 96, 96, (0, 32 * row, 32, 32 * row + 32))
        for index, row in enumerate(rows)
    ]

    found = detector.predict(photos)

    assert [int(f.xyxy[0, 1]) // 32 for f in found] == rows


def test_one_by_one_and_together_agree(detector: GarmentDetector) -> None:
    photos = [photo(64, 96, (0, 0, 32, 32)), photo(64, 96), photo(96, 64, (32, 32, 96, 64))]

    together = detector.predict(photos)

    for one, image in zip(together, photos, strict=True):
        (alone,) = detector.predict([image])
        np.testing.assert_allclose(one.xyxy, alone.xyxy)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-6)


def test_nothing_in_and_nothing_found(detector: GarmentDetector) -> None:
    assert detector.predict([]) == []
    (found,) = detector.predict([photo(64, 96)])
    assert len(found) == 0
    assert found.class_names == ("red", "blue")


def test_the_bundle_decides_the_threshold_unless_told(tmp_path: Path) -> None:
    bundle = write_red_cell_bundle(tmp_path / "red", min_score=0.9)
    # 18 of 32 columns red and 14 black: logit (18·10 - 14·10) / 32 = 1.25, √σ(1.25) = .88.
    pale = photo(64, 96, (0, 0, 18, 32))

    assert evaluation_min_score(bundle) == 0.05
    assert len(GarmentDetector(bundle).predict([pale])[0]) == 0
    loose = GarmentDetector(bundle, min_score=evaluation_min_score(bundle))
    np.testing.assert_allclose(loose.predict([pale])[0].scores, [0.8816], atol=1e-4)


def test_many_threads_get_the_same_answer(detector: GarmentDetector) -> None:
    image = photo(64, 96, (32, 32, 64, 64))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: detector.predict([image])[0].xyxy.tolist(), range(40)))

    assert answers == [[[32.0, 32.0, 64.0, 64.0]]] * 40


def test_works_again_after_close(detector: GarmentDetector) -> None:
    image = photo(64, 96, (0, 0, 32, 32))
    detector.load()
    detector.close()
    assert len(detector.predict([image])[0]) == 1


def test_name_and_version_are_the_bundles(tmp_path: Path) -> None:
    first = write_red_cell_bundle(tmp_path / "red")
    other = write_red_cell_bundle(tmp_path / "other", min_score=0.6)

    assert GarmentDetector(first).name == "red"
    assert GarmentDetector(first).version == first.version
    assert GarmentDetector(other).version != first.version


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {}},
        {"input": {"long_side": 96, "mean": [1.0], "std": [1.0]}},
        {"output": {"strides": [32], "min_score": "high", "nms_iou": 0.5, "max_detections": 1}},
    ],
)
def test_metadata_of_something_else_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    bundle = write_red_cell_bundle(tmp_path / "odd", **changes)

    with pytest.raises(PermanentError, match=r"odd/model\.yaml") as caught:
        GarmentDetector(bundle)
    assert caught.value.code == ErrorCode.BUNDLE_INVALID


def test_groups_hold_equal_sizes_and_not_too_many() -> None:
    sizes = [(1, 1), (2, 1), (1, 1), (1, 1), (2, 1)]

    assert same_size_groups(sizes, 2) == [[0, 2], [3], [1, 4]]
    assert same_size_groups([], 2) == []
