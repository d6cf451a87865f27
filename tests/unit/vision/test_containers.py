from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.containers import MAX_PARTS, MAX_SCANS, only_pixels
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage, decode

NOISE = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)


def encode(image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, image_format, **options)
    return buffer.getvalue()


def pillow_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def inserted(data: bytes, at: int, more: bytes) -> bytes:
    return data[:at] + more + data[at:]


JPEG, PROGRESSIVE, PNG, GIF = (
    encode("JPEG"),
    encode("JPEG", progressive=True),
    encode("PNG"),
    encode("GIF"),
)
AFTER_START = {"JPEG": 2, "PNG": 8 + 25, "GIF": GIF.rindex(b"\x2c\x00\x00\x00\x00")}


class TestMetadata:
    @pytest.mark.parametrize(
        ("image_format", "data", "secret"),
        [
            ("JPEG", JPEG, jpeg_segment(0xFE, b"SECRET")),  # comment
            ("JPEG", JPEG, jpeg_segment(0xE2, b"ICC_PROFILE\x00\x01\x01SECRET")),
            ("JPEG", JPEG, jpeg_segment(0xED, b"Photoshop 3.0\x00SECRET")),
            ("JPEG", JPEG, jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00SECRET")),  # XMP
            ("PNG", PNG, png_chunk(b"tEXt", b"Comment\x00SECRET")),
            ("PNG", PNG, png_chunk(b"iCCP", b"SECRET\x00\x00")),
            ("PNG", PNG, png_chunk(b"prVt", b"SECRET")),
            ("GIF", GIF, b"\x21\xfe\x06SECRET\x00"),  # comment
            ("GIF", GIF, b"\x21\xff\x0bSECRET\x00\x00\x00\x00\x00\x02ab\x00"),  # application
        ],
    )
    def test_it_is_left_out_and_the_pixels_stay(
        self, image_format: str, data: bytes, secret: bytes
    ) -> None:
        reduced = only_pixels(image_format, inserted(data, AFTER_START[image_format], secret))

        assert b"SECRET" not in reduced
        assert np.array_equal(pillow_pixels(reduced), pillow_pixels(data))

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
    def test_exif_stays(self, image_format: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        reduced = only_pixels(image_format, encode(image_format, exif=exif))
        assert Image.open(io.BytesIO(reduced)).getexif()[0x0112] == 6

    def test_adobe_s_colours_stay(self) -> None:
        buffer = io.BytesIO()
        Image.fromarray(NOISE).convert("CMYK").save(buffer, "JPEG")
        assert b"Adobe" in only_pixels("JPEG", buffer.getvalue())

    def test_transparency_stays(self) -> None:
        for image_format in ("PNG", "GIF"):
            buffer = io.BytesIO()
            Image.fromarray(NOISE).quantize(8).save(buffer, image_format, transparency=3)
            reduced = only_pixels(image_format, buffer.getvalue())
            assert Image.open(io.BytesIO(reduced)).info["transparency"] is not None

    def test_webp_is_left_to_its_decoder(self) -> None:
        data = encode("WEBP")
        assert only_pixels("WEBP", data) is data


class TestJpeg:
    @pytest.mark.parametrize("data", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
    def test_what_lies_behind_the_picture_is_left_out(self, data: bytes) -> None:
        """A phone's film behind its photo: its bytes look like scans now and then."""
        assert only_pixels("JPEG", data + b"\x00\xff\xda" * 1000) == only_pixels("JPEG", data)

    @pytest.mark.parametrize(
        "stray", [b"\xff\xff\xff", b"\x00\x01\x02", b"\xff\x00"], ids=["fill", "junk", "stuffing"]
    )
    def test_stray_bytes_between_segments_are_passed_over(self, stray: bytes) -> None:
        after_jfif = 2 + 18  # start of image; APP0 with marker, length and 14 bytes
        data = inserted(JPEG, after_jfif, stray)
        assert np.array_equal(decode(EncodedImage(data)).pixels, pillow_pixels(JPEG))

    def test_a_picture_has_a_limited_number_of_scans(self) -> None:
        """A last scan of 12 bytes, again and again: each is a pass over all pixels.

        In 20 MB there is room for more than a million of them.
        """
        scans = PROGRESSIVE.count(b"\xff\xda")
        last = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]

        def with_scans(number: int) -> bytes:
            return PROGRESSIVE[:-2] + last * (number - scans) + PROGRESSIVE[-2:]

        assert decode(EncodedImage(with_scans(MAX_SCANS))).resolution_wh == (30, 20)
        assert_too_much_work("JPEG", with_scans(MAX_SCANS + 1))
        # Without an end mark, too.
        assert_too_much_work("JPEG", with_scans(MAX_SCANS + 1)[:-2])

    def test_scans_behind_an_early_end_are_not_decoded(self) -> None:
        """The count cannot be ended early by an end mark inside a comment."""
        comment = jpeg_segment(0xFE, b"\xff\xd9")
        scan = JPEG[JPEG.index(b"\xff\xda") : -2]
        reduced = only_pixels("JPEG", JPEG[:-2] + comment + scan * 1000 + JPEG[-2:])
        assert reduced.count(b"\xff\xda") == 1


@pytest.mark.parametrize(
    ("image_format", "data", "part"),
    [
        ("JPEG", JPEG, jpeg_segment(0xFE, b"")),
        ("JPEG", JPEG, jpeg_segment(0xE1, b"Exif\x00\x00")),
        ("JPEG", JPEG, b"\xff"),
        ("JPEG", JPEG, b"\xff\x01"),
        ("JPEG", JPEG, jpeg_segment(0xDB, b"\x00" + bytes([1] * 64))),
        ("PNG", PNG, png_chunk(b"tEXt", b"")),
        ("PNG", PNG, png_chunk(b"IDAT", b"")),
        ("GIF", GIF, b"\x21\xfe\x01x\x00"),
        ("GIF", GIF, b"\x21\xf9\x04\x00\x00\x00\x00\x00"),
        ("GIF", GIF, b"\x01"),
    ],
)
def test_a_file_has_a_limited_number_of_parts(image_format: str, data: bytes, part: bytes) -> None:
    at = AFTER_START[image_format]
    assert_too_much_work(image_format, inserted(data, at, part * (MAX_PARTS + 1)))
    assert decode(EncodedImage(inserted(data, at, part * 100))).resolution_wh == (30, 20)


def test_the_parts_within_a_gif_extension_count() -> None:
    comment = b"\x21\xfe" + b"\x01x" * (MAX_PARTS + 1) + b"\x00"
    assert_too_much_work("GIF", inserted(GIF, AFTER_START["GIF"], comment))


def assert_too_much_work(image_format: str, data: bytes) -> None:
    with pytest.raises(PermanentError, match="work") as raised:
        only_pixels(image_format, data)
    assert raised.value.code is ErrorCode.IMAGE_TOO_LARGE


@given(
    image_format=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]),
    data=st.binary(max_size=300),
)
def test_any_bytes_are_reduced(image_format: str, data: bytes) -> None:
    """Never more bytes than came, whatever they say of themselves."""
    assert len(only_pixels(image_format, data)) <= len(data)


@given(st.sampled_from([("JPEG", JPEG), ("PNG", PNG), ("GIF", GIF)]), st.integers(0, 2000))
def test_a_file_cut_short_is_reduced_to_a_file_cut_short(
    kind: tuple[str, bytes], length: int
) -> None:
    image_format, data = kind
    whole, cut = only_pixels(image_format, data), only_pixels(image_format, data[:length])
    assert whole.startswith(cut)
