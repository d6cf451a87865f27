from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.split import DEFAULT_FRACTIONS, split_of


def test_shares_are_close_to_the_asked_ones() -> None:
    counts = Counter(split_of(str(i)) for i in range(20_000))

    # Four standard deviations of a binomial share with n = 20,000 are at most 1 %.
    for name, share in DEFAULT_FRACTIONS.items():
        assert counts[name] / 20_000 == pytest.approx(share, abs=0.01)


def test_an_id_stays_where_it_was_drawn_on_any_machine() -> None:
    # SHA-1("0005") starts with 0708fb: 0x07 / 256 = 0.027 of the way.
    assert split_of("0005", {"a": 0.02, "b": 0.98}) == "b"
    assert split_of("0005", {"a": 0.03, "b": 0.97}) == "a"
    # SHA-1("0001") with 7a6779: 0x7a / 256 = 0.477.
    assert split_of("0001", {"a": 0.47, "b": 0.53}) == "b"
    assert split_of("0001", {"a": 0.48, "b": 0.52}) == "a"


def test_another_salt_is_another_draw() -> None:
    ids = [str(i) for i in range(2_000)]
    halves = {"a": 0.5, "b": 0.5}
    moved = sum(split_of(i, halves) != split_of(i, halves, salt="2") for i in ids)

    # Independent draws differ for half of the ids; four standard deviations are 90.
    assert moved == pytest.approx(1_000, abs=90)


@given(st.text())
def test_every_id_has_a_split(item_id: str) -> None:
    assert split_of(item_id) in DEFAULT_FRACTIONS


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        split_of("1", {"train": 0.5, "test": 0.4})
