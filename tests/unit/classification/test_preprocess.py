from __future__ import annotations

import numpy as np
import pytest

from classification.preprocess import InputForm, batch_of, letterbox, normalise

FORM = InputForm((128, 96))


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("crop_hw", "rows", "columns"),
    [
        ((80, 60), slice(0, 128), slice(0, 96)),  # the input's own ratio fills it
        ((60, 60), slice(16, 112), slice(0, 96)),  # square: 96×96, (128 - 96) / 2 = 16 above
        ((200, 50), slice(0, 128), slice(32, 64)),  # tall: 128×32, (96 - 32) / 2 = 32 left
        ((10, 960), slice(63, 64), slice(0, 96)),  # ten times as wide: 1×96
    ],
)
def test_a_crop_is_centred_on_white(crop_hw: tuple[int, int], rows: slice, columns: slice) -> None:
    image = letterbox(black(*crop_hw), (128, 96))

    expected = np.full((128, 96, 3), 255, np.uint8)
    expected[rows, columns] = 0
    np.testing.assert_array_equal(image, expected)


def test_a_single_pixel_is_a_crop() -> None:
    image = letterbox(np.full((1, 1, 3), 7, np.uint8), (128, 96))

    assert (image[64, 48] == 7).all()


def test_shrinking_averages() -> None:
    # A checkerboard of single black and white pixels becomes grey, not one or the other.
    board = np.zeros((512, 384, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255

    image = letterbox(board, (128, 96))

    assert np.abs(image.astype(int) - 127).max() <= 1


def test_normalise_spans_minus_one_to_one() -> None:
    np.testing.assert_allclose(
        normalise(np.array([0, 51, 255], np.uint8)), [-1.0, -0.6, 1.0], atol=1e-6
    )


def test_a_batch_is_channels_first() -> None:
    red = np.zeros((40, 30, 3), np.uint8)
    red[..., 0] = 255

    batch = batch_of([red, black(10, 10)], FORM)

    assert batch.shape == (2, 3, 128, 96)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch[0, :, 5, 5], [1, -1, -1])


def test_an_empty_batch() -> None:
    assert batch_of([], FORM).shape == (0, 3, 128, 96)


def test_a_grey_input_of_light_on_black_is_what_fashion_mnist_has() -> None:
    # A dark garment on white, twice as wide as high: padding turns black with the background.
    photo = np.full((14, 28, 3), 255, np.uint8)
    photo[:, 10:18] = 55

    batch = batch_of([photo], InputForm((28, 28), channels="grey", inverted=True, mean=0, std=1))

    assert batch.shape == (1, 1, 28, 28)
    expected = np.zeros((28, 28), np.float32)
    expected[7:21, 10:18] = 200 / 255
    np.testing.assert_allclose(batch[0, 0], expected, atol=1e-6)


def test_a_stretched_input_has_no_padding() -> None:
    photo = black(20, 10)
    photo[:10] = 255

    batch = batch_of([photo], InputForm((4, 4), padding="none", mean=0, std=1))

    np.testing.assert_allclose(batch[0, 0], np.repeat([[1.0], [1.0], [0.0], [0.0]], 4, axis=1))


def test_each_channel_may_have_its_own_mean_and_spread_in_the_networks_order() -> None:
    photo = np.full((4, 4, 3), (255, 51, 0), np.uint8)
    form = InputForm((4, 4), channels="BGR", mean=(0.1, 0.2, 0.5), std=(1.0, 0.5, 0.25))

    batch = batch_of([photo], form)

    # Blue (0 - 0.1) / 1, green (0.2 - 0.2) / 0.5, red (1 - 0.5) / 0.25.
    np.testing.assert_allclose(batch[0, :, 0, 0], [-0.1, 0.0, 2.0], atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        FORM,
        InputForm((28, 28), channels="grey", inverted=True),
        InputForm((80, 60), "BGR", "none", False, (0.4, 0.5, 0.5), (0.2, 0.2, 0.3)),
    ],
)
def test_a_form_survives_its_metadata(form: InputForm) -> None:
    assert InputForm.from_metadata(form.as_metadata()) == form


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "NHWC"}, "unknown layout 'NHWC'; known: NCHW"),
        ({"channels": "CMYK"}, "unknown channels 'CMYK'; known: RGB, BGR, grey"),
        ({"padding": "mirror"}, "unknown padding 'mirror'; known: white, none"),
        ({"mean": [0.1, 0.2]}, "mean has 2 values for 3 channels"),
        ({"std": 0.0}, "std must be positive"),
        ({"height": 0}, "input of 0x96"),
    ],
)
def test_metadata_of_no_known_form_say_why(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InputForm.from_metadata(FORM.as_metadata() | changes)
