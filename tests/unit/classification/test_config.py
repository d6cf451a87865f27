from __future__ import annotations

from pathlib import Path

import pytest

from classification.config import CONFIG_DIR, load_config
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES

SMALLEST = "name: n\nbackbone: efficientnet_lite0\nheads: {gender: 1.0}\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_config_has_every_head() -> None:
    config = load_config(CONFIG_DIR / "attribute_classifier.yaml")

    assert set(config.heads) == set(ATTRIBUTES)
    assert config.input_hw == (128, 96)


def test_defaults_fill_what_is_left_out(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, SMALLEST))

    assert config.photos_per_batch == {"products": 64}
    assert config.learning_rate == pytest.approx(1.5e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALLEST + "epoch: 3\n", "unknown key 'epoch'; known: name, backbone"),
        (SMALLEST.replace("gender", "size"), "unknown head 'size'; known: gender"),
        (SMALLEST.replace("{gender: 1.0}", "{}"), "heads is empty"),
        (SMALLEST + "epochs: 0\n", "rounds must be at least 1"),
        (SMALLEST + "first_share: 1.0\n", "first_share must be in"),
        ("name: n\n", "missing 2 required"),
        ("- a list\n", "is not a mapping"),
        ("name: [", "config.yaml"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PermanentError, match=message) as raised:
        load_config(written(tmp_path, text))

    assert raised.value.code == ErrorCode.VALIDATION_ERROR


def test_a_missing_file_is_named() -> None:
    with pytest.raises(PermanentError, match=r"no/such\.yaml"):
        load_config("no/such.yaml")
