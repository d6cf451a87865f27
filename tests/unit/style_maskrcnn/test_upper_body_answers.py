from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from style_maskrcnn.upper_body.answers import AnswerSpec, GroupSpec
from tests.unit.style_maskrcnn.upper_bodies import SPEC, write_upper_body_bundle
from vision.bundle import update_metrics, write_bundle
from vision.errors import PermanentError

# no/yes of collar, solid and striped: e^ln3 : 1 is three to one.
LOGITS = np.array([[0, np.log(3), np.log(3), 0, 0, np.log(9)]], np.float32)


def test_each_group_answers_and_the_patterns_answer_together() -> None:
    (answer,) = SPEC.answers(LOGITS)
    assert list(answer) == ["collar", "pattern"]
    assert (answer["collar"].label, answer["collar"].confidence) == ("yes", pytest.approx(0.75))
    assert answer["collar"].alternatives[1] == ("no", pytest.approx(0.25))
    assert (answer["pattern"].label, answer["pattern"].confidence) == (
        "striped",
        pytest.approx(0.9),
    )
    assert answer["pattern"].alternatives == (
        ("striped", pytest.approx(0.9)),
        ("solid", pytest.approx(0.25)),
    )


def test_a_temperature_cools() -> None:
    group = GroupSpec("collar", ("no", "yes"), temperature=2.0)
    # Half of ln 3 is the logarithm of the root of 3.
    cooled = group.probabilities(LOGITS[:, :2])
    assert cooled[0, 1] == pytest.approx(np.sqrt(3) / (1 + np.sqrt(3)))


def test_no_region_has_no_answer() -> None:
    assert SPEC.answers(np.zeros((0, 6), np.float32)) == []


def test_a_spec_survives_its_bundle(tmp_path: Path) -> None:
    bundle = write_upper_body_bundle(tmp_path / "drawn")
    assert AnswerSpec.from_bundle(bundle) == SPEC


def test_a_bundle_without_calibration_is_named(tmp_path: Path) -> None:
    bundle = write_upper_body_bundle(tmp_path / "drawn")
    names = ("architecture", "labels", "input", "metrics", "data", "licence", "command", "parity")
    kept = {name: getattr(bundle, name) for name in names}
    broken = write_bundle(bundle.path, "style_attributes", output={"confidence": {}}, **kept)
    with pytest.raises(PermanentError, match=r"model\.yaml is no upper-body model.*collar"):
        AnswerSpec.from_bundle(broken)
    assert update_metrics(bundle.path, "style_attributes", {}).version == broken.version
