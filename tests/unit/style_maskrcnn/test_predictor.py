from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from style_maskrcnn.postprocess import OutputSpec
from style_maskrcnn.predictor import StyleModel
from tests.unit.style_maskrcnn.bundles import SPEC, two_garments, write_style_bundle
from vision.bundle import open_bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import StyleInstances
from vision.image import RgbImage
from vision.predictor import Predictor


def photo(width: int, height: int) -> RgbImage:
    return RgbImage(np.zeros((height, width, 3), np.uint8), "0" * 64)


def test_it_is_a_predictor_of_photos(tmp_path: Path) -> None:
    bundle = two_garments(tmp_path / "drawn")
    model: Predictor[RgbImage, StyleInstances] = StyleModel(bundle, 1)
    assert (model.name, model.version) == ("drawn", bundle.version)
    model.load()
    assert model.predict([]) == []
    model.close()
    assert len(model.predict([photo(64, 96)])) == 1  # loads anew


def test_answers_in_each_photos_own_pixels_and_order(tmp_path: Path) -> None:
    model = StyleModel(two_garments(tmp_path / "drawn"), 1)
    small, large = model.predict([photo(64, 96), photo(128, 192)])
    assert small.labels == large.labels == ("dress", "bag")
    assert small.xyxy[0].tolist() == [20, 20, 50, 70]
    assert large.xyxy[0].tolist() == [40, 40, 100, 140]
    assert large.masks[0].size == (192, 128)
    # Interpolation towards nothing beyond the mask rounds the corners off.
    assert large.masks[0].area == pytest.approx(60 * 100, abs=8)
    assert small.attributes[0]["usage"].label == "Casual"
    assert small.attributes[1]["usage"].label == "unknown"  # .52 is under its .6


def test_doubtful_instances_on_request(tmp_path: Path) -> None:
    model = StyleModel(two_garments(tmp_path / "drawn"), 1, believed_only=False)
    assert model.predict([photo(64, 96)])[0].labels == ("dress", "bag", "wedges")


def test_nothing_found(tmp_path: Path) -> None:
    model = StyleModel(write_style_bundle(tmp_path / "drawn", [], [], [], []), 1)
    assert len(model.predict([photo(64, 96)])[0]) == 0


def test_several_threads_share_one_model(tmp_path: Path) -> None:
    model = StyleModel(two_garments(tmp_path / "drawn"), 1)

    def answer(width: int) -> Sequence[float]:
        return model.predict([photo(width, 96)])[0].xyxy[0].tolist()  # type: ignore[no-any-return]

    widths = [40 + i for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(answer, widths))
    assert together == [answer(width) for width in widths]


def test_the_spec_survives_the_bundle(tmp_path: Path) -> None:
    assert OutputSpec.from_bundle(two_garments(tmp_path / "drawn")) == SPEC


@pytest.mark.parametrize("section", ["labels", "output"])
def test_metadata_of_another_model_are_refused(tmp_path: Path, section: str) -> None:
    folder = two_garments(tmp_path / "drawn").path
    metadata = yaml.safe_load((folder / "model.yaml").read_text())
    metadata[section] = {"classes": ["dress"]}
    (folder / "model.yaml").write_text(yaml.safe_dump(metadata))
    with pytest.raises(PermanentError, match=r"model\.yaml is no style model") as caught:
        StyleModel(open_bundle(folder, "style"))
    assert caught.value.code == ErrorCode.BUNDLE_INVALID
