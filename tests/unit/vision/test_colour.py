"""CIEDE2000 against its authors' published pairs, and colours of drawn regions."""

import numpy as np
import pytest
import yaml

from vision.colour import (
    PALETTE_PATH,
    ciede2000,
    dominant_colours,
    foreground,
    likely_names,
    load_palette,
)
from vision.garments import Prediction
from vision.taxonomy import load_taxonomy

# Sharma, Wu and Dalal (2005), table 1: pairs chosen to trip wrong implementations.
PUBLISHED_PAIRS = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "expected"), PUBLISHED_PAIRS)
def test_ciede2000_gives_the_published_difference(first, second, expected):
    distance = ciede2000(np.array(first, float), np.array(second, float))
    assert distance == pytest.approx(expected, abs=5e-5)
    assert ciede2000(np.array(second, float), np.array(first, float)) == pytest.approx(distance)


def test_every_palette_entry_is_named_by_itself():
    palette = load_palette()
    entries = yaml.safe_load(PALETTE_PATH.read_text(encoding="utf-8"))
    assert palette.names == tuple(entries)
    for index, codes in enumerate(entries.values()):
        for code in [codes] if isinstance(codes, str) else codes:
            colour = np.array([list(bytes.fromhex(code[1:]))], np.uint8)
            assert palette.distances(colour).argmin() == index


def test_a_name_may_have_more_centres_than_one(tmp_path):
    path = tmp_path / "palette.yaml"
    path.write_text("black: ['#000000', '#2e2e30']\nwhite: '#ffffff'\n")
    palette = load_palette(path)
    distances = palette.distances(np.array([[0] * 3, [50] * 3, [250] * 3], np.uint8))
    assert distances.argmin(axis=1).tolist() == [0, 0, 1]


def test_every_name_belongs_to_one_colour_group():
    groups = load_taxonomy().palette_groups
    assert sorted(name for names in groups.values() for name in names) == sorted(
        load_palette().names
    )
    assert set(groups) <= set(load_taxonomy().colour_groups)


def test_what_is_near_the_middle_counts_more():
    pixels = np.full((40, 40, 3), 255, np.uint8)
    pixels[10:30, 10:30] = (0, 17, 70)  # a quarter of the picture, but its middle
    assert [c.name for c in dominant_colours(pixels)] == ["white", "navy blue"]
    middle = dominant_colours(pixels, centred=True)
    assert [c.name for c in middle] == ["navy blue", "white"]
    # Each side: the Gaussian's part within ± .25 of ± .5, at a deviation of .22: .744 / .977.
    assert middle[0].share == pytest.approx((0.744 / 0.977) ** 2, abs=0.01)


def test_shares_follow_the_area():
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[:, :7] = (0, 17, 70)  # seven columns of navy blue, three of white
    pixels[:, 7:] = 255
    colours = dominant_colours(pixels)
    assert [(c.name, c.share) for c in colours] == [("navy blue", 0.7), ("white", 0.3)]
    assert colours[0].hex == "#001146"


def test_only_the_mask_counts():
    pixels = np.full((8, 8, 3), 255, np.uint8)
    pixels[2:6, 2:6] = (229, 0, 0)
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    assert [c.name for c in dominant_colours(pixels, mask)] == ["red"]


def answer(*alternatives: tuple[str, float]) -> Prediction:
    return Prediction(alternatives[0][0], alternatives[0][1], alternatives)


def test_every_name_of_a_group_is_as_likely_as_the_group():
    likely = likely_names(
        answer(("Blue", 0.6), ("Navy Blue", 0.2), ("Black", 0.09)), load_taxonomy()
    )
    of = dict(zip(load_palette().names, likely, strict=True))
    # What is left over, .11, is spread over the eleven groups.
    assert of["denim"] == of["sky blue"] == pytest.approx(0.6 + 0.2 + 0.01)
    assert of["black"] == pytest.approx(0.1)
    assert of["red"] == pytest.approx(0.01)


def test_evidence_tells_lit_black_from_charcoal():
    pixels = np.full((8, 8, 3), 68, np.uint8)  # between the two
    taxonomy = load_taxonomy()
    black = likely_names(answer(("Black", 0.9)), taxonomy)
    grey = likely_names(answer(("Grey", 0.9)), taxonomy)
    assert [c.name for c in dominant_colours(pixels, likely=black)] == ["black"]
    assert [c.name for c in dominant_colours(pixels, likely=grey)] == ["charcoal"]


def test_evidence_says_which_of_two_colours_a_garment_is_called():
    pixels = np.full((10, 10, 3), 255, np.uint8)
    pixels[:, :4] = (229, 0, 0)
    likely = likely_names(answer(("Red", 0.7), ("White", 0.2)), load_taxonomy())
    colours = dominant_colours(pixels, likely=likely)
    assert [(c.name, c.share) for c in colours] == [("red", 0.4), ("white", 0.6)]


def test_evidence_does_not_make_white_red():
    pixels = np.full((8, 8, 3), 255, np.uint8)
    likely = likely_names(answer(("Red", 1.0)), load_taxonomy())
    assert [c.name for c in dominant_colours(pixels, likely=likely)] == ["white"]


def test_an_empty_region_has_no_colour():
    assert dominant_colours(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool)) == ()


def test_a_speckled_region_still_has_its_largest_colour():
    pixels = np.arange(12 * 12 * 3, dtype=np.uint32).reshape(12, 12, 3) * 37 % 256
    assert len(dominant_colours(pixels.astype(np.uint8))) >= 1


def test_foreground_is_what_stands_out_from_a_plain_border():
    pixels = np.full((20, 20, 3), 250, np.uint8)
    pixels[5:15, 5:15] = 30
    pixels[9:11, 9:11] = 250  # a hole in the garment is not connected to the border
    expected = np.zeros((20, 20), bool)
    expected[5:15, 5:15] = True
    assert np.array_equal(foreground(pixels), expected)


def test_a_busy_border_leaves_everything_in():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
    assert foreground(pixels).all()


def test_a_blank_picture_is_all_foreground():
    assert foreground(np.full((5, 5, 3), 255, np.uint8)).all()
