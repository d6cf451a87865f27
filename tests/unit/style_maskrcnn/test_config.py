from __future__ import annotations

from pathlib import Path

import pytest

from style_maskrcnn.config import AttributeGroup, Config, load_config, parse
from style_maskrcnn.upper_body.config import UpperBodyConfig
from style_maskrcnn.upper_body.config import load_config as load_upper_body_config

SHIPPED = sorted((Path(__file__).parents[3] / "configs" / "style_maskrcnn").glob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_sections_and_tuples_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "run.yaml",
        "network:\n  channels: 32\n  proposals: {anchor_sizes: [[8], [16, 24]]}\n"
        "input: {long_side: 256}\nschedule: {learning_rate: 1}\n",
    )
    config = load_config(path)
    assert config.network.channels == 32
    assert config.network.proposals.anchor_sizes == ((8.0,), (16.0, 24.0))
    assert config.input.long_side == 256
    assert config.schedule.learning_rate == 1.0
    assert isinstance(config.schedule.learning_rate, float)
    assert config.network.box_head == Config().network.box_head


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "run.yaml", "# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "netwrok: {}",
            "unknown key netwrok in the file; known: network, input, augmentation, output",
        ),
        ("schedule: {epoch: 3}", "unknown key epoch in schedule.; known: epochs, batch_size"),
        ("schedule: 3", "schedule. must be a mapping"),
        ("schedule: {epochs: many}", "schedule.epochs must be int, not 'many'"),
        ("schedule: {epochs: true}", "schedule.epochs must be int, not True"),
        ("input: {train_long_sides: 448}", "input.train_long_sides must be a list"),
        ("augmentation: {copy_paste: 1.5}", "augmentation.copy_paste must be in [0, 1]"),
        ("augmentation: {max_pasted: 0}", "augmentation.max_pasted must be at least 1"),
        ("augmentation: {close_up_zoom: [0.5, 2.0]}", "must be [least, greatest], from 1 on"),
        ("augmentation: {close_up_zoom: [2.0, 1.5]}", "must be [least, greatest], from 1 on"),
        ("attributes: {object_sizes: [1]}", "attributes.object_sizes must have 2 values"),
        ("[1, 2]", "the file must be a mapping"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"run\.yaml") as caught:
        load_config(write(tmp_path / "run.yaml", text))
    assert message in str(caught.value)


def test_a_group_needs_different_values() -> None:
    with pytest.raises(ValueError, match="at least two different values"):
        AttributeGroup("season", ("Summer", "Summer"))
    group = parse(AttributeGroup, {"name": "sleeve", "values": ["long", "short"]})
    assert group.values == ("long", "short")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_read_and_start_with_their_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# python -m style_maskrcnn train")
    if text.startswith("# python -m style_maskrcnn train-upper-body"):
        assert isinstance(load_upper_body_config(path), UpperBodyConfig)
    else:
        assert isinstance(load_config(path), Config)


def test_there_is_a_shipped_file() -> None:
    assert SHIPPED
