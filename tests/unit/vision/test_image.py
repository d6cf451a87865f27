from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage, RgbImage, decode, sniff

Pixels = NDArray[np.uint8]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def scene(height: int = 24, width: int = 36) -> Pixels:
    """Four corners of different colours on a gradient: no two ways of turning it look the same."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    pixels[: height // 2, : width // 2, 2] = 255
    return pixels


def encode(picture: Image.Image | Pixels, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels_of(data: bytes, max_pixels: int = 50_000_000) -> Pixels:
    return decode(EncodedImage(data), max_pixels).pixels


def failure(data: bytes, max_pixels: int = 50_000_000) -> ErrorCode:
    with pytest.raises(PermanentError) as raised:
        decode(EncodedImage(data), max_pixels)
    return raised.value.code


def difference(one: Pixels, other: Pixels) -> int:
    """The largest difference of any value."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return PNG_SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in chunks)


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


class TestEncodedImage:
    def test_its_identity_is_the_digest_of_its_bytes(self) -> None:
        image = EncodedImage(b"abc", "http://example.com/a.jpg")
        assert image.sha256 == hashlib.sha256(b"abc").hexdigest()
        assert image.source_url == "http://example.com/a.jpg"
        assert EncodedImage(b"abc").source_url is None

    def test_it_is_frozen_and_its_bytes_stay_out_of_logs(self) -> None:
        image = EncodedImage(b"secret")
        assert "secret" not in repr(image)
        with pytest.raises(dataclasses.FrozenInstanceError):
            image.data = b""  # type: ignore[misc]


class TestRgbImage:
    def test_the_pixels_cannot_be_changed(self) -> None:
        image = RgbImage(scene(), "0")
        with pytest.raises(ValueError, match="read-only"):
            image.pixels[0, 0] = 1
        assert image.resolution_wh == (36, 24)

    def test_the_array_it_was_made_of_stays_its_owner_s(self) -> None:
        pixels = scene()
        RgbImage(pixels, "0")
        pixels[0, 0] = 1

    def test_the_pixels_are_contiguous(self) -> None:
        assert RgbImage(scene()[:, ::2], "0").pixels.flags.c_contiguous

    @pytest.mark.parametrize(
        "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
    )
    def test_anything_but_rgb_bytes_is_a_mistake_of_the_caller(self, pixels: Any) -> None:
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
            RgbImage(pixels, "0")


class TestFormats:
    @pytest.mark.parametrize(
        ("image_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})]
    )
    def test_the_pixels_come_back(self, image_format: str, options: dict[str, Any]) -> None:
        data = encode(scene(), image_format, **options)
        image = decode(EncodedImage(data))
        assert np.array_equal(image.pixels, scene())
        assert image.sha256 == hashlib.sha256(data).hexdigest()

    @pytest.mark.parametrize(
        ("image_format", "options"), [("WEBP", {}), ("JPEG", {}), ("JPEG", {"progressive": True})]
    )
    def test_the_pixels_come_back_nearly(self, image_format: str, options: dict[str, Any]) -> None:
        pixels = pixels_of(encode(scene(), image_format, quality=95, **options))
        assert pixels.shape == (24, 36, 3)
        # Halved chroma blurs the hard edges of the scene; swapped channels would differ by 100.
        assert np.abs(pixels.astype(int) - scene()).mean() < 6

    def test_gif(self) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:4] = (200, 10, 20)
        assert np.array_equal(pixels_of(encode(pixels, "GIF")), pixels)

    @pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
    def test_of_an_animation_the_first_picture(self, image_format: str) -> None:
        red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
        data = encode(
            red, image_format, save_all=True, append_images=[blue], duration=50, lossless=True
        )
        assert np.array_equal(pixels_of(data), np.asarray(red))

    def test_of_a_camera_s_double_picture_the_first(self) -> None:
        """MPO is a JPEG with a second one behind it, as phones write them."""
        grey, white = (Image.new("RGB", (8, 6), colour) for colour in ((90, 90, 90), "white"))
        data = encode(grey, "MPO", save_all=True, append_images=[white])
        assert difference(pixels_of(data), np.asarray(grey)) <= 1

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(encode(scene(), "BMP"), id="bmp"),
            pytest.param(encode(scene(), "TIFF"), id="tiff"),
            pytest.param(encode(scene(), "PPM"), id="ppm"),
            pytest.param(encode(scene(), "ICO"), id="ico"),
            pytest.param(encode(scene(), "JPEG2000"), id="jpeg 2000"),
            pytest.param(
                b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic" + bytes(50), id="heic"
            ),
            pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', id="svg"),
            pytest.param(b"<!DOCTYPE html><title>x</title>", id="html"),
            pytest.param(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(20), id="wave sound"),
            pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", id="eps"),
            pytest.param(b"x", id="one letter"),
            pytest.param(bytes(100), id="zeros"),
        ],
    )
    def test_anything_else_is_unsupported(self, data: bytes) -> None:
        assert failure(data) is ErrorCode.UNSUPPORTED_MEDIA

    def test_the_signature_says_the_format(self) -> None:
        for image_format in ("JPEG", "PNG", "GIF", "WEBP"):
            assert sniff(encode(scene(), image_format)[:12]) == image_format
        assert sniff(b"") is None
        assert sniff(b"RIFF\x00\x00\x00\x00AVI ") is None


class TestColour:
    """Values of one pixel, worked out by hand."""

    def test_grey(self) -> None:
        grey = np.array([[0, 100, 255]], np.uint8)
        assert pixels_of(encode(grey, "PNG")).tolist() == [[[0] * 3, [100] * 3, [255] * 3]]

    def test_black_and_white(self) -> None:
        data = encode(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "PNG")
        assert pixels_of(data).tolist() == [[[0] * 3, [255] * 3]]

    def test_palette(self) -> None:
        picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
        picture.putpalette([10, 20, 30, 40, 50, 60])
        assert pixels_of(encode(picture, "PNG")).tolist() == [[[10, 20, 30], [40, 50, 60]]]

    def test_16_bit_keeps_the_upper_8(self) -> None:
        # 256 is the second darkest of 256 greys, not white: 256 >> 8 = 1.
        grey = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
        _, data = cv2.imencode(".png", grey)
        assert pixels_of(data.tobytes())[..., 0].tolist() == [[0, 0, 1, 128, 255]]

    def test_16_bit_colour_is_like_16_bit_grey(self) -> None:
        bgr = np.array([[[0, 256, 0xFFFF], [0x8000, 0x8000, 0x8000]]], np.uint16)
        _, data = cv2.imencode(".png", bgr)
        assert pixels_of(data.tobytes()).tolist() == [[[255, 1, 0], [128, 128, 128]]]

    def test_cmyk_as_photoshop_writes_it(self) -> None:
        """Adobe's JPEGs hold the inverse of the ink. No ink is white, full black ink is black."""
        # red = (1 - cyan)(1 - black): (255 - 0) * (255 - 51) / 255 = 204; green = 255 - 255 = 0
        ink = np.zeros((3, 16, 16, 4), np.uint8)
        ink[1] = (0, 255, 255, 51)
        ink[2] = (0, 0, 0, 255)
        for plane, rgb in zip(ink, [(255, 255, 255), (204, 0, 0), (0, 0, 0)], strict=True):
            data = encode(Image.fromarray(plane, "CMYK"), "JPEG", quality=100)
            assert b"Adobe" in data
            assert difference(pixels_of(data), np.full((16, 16, 3), rgb, np.uint8)) <= 3

    def test_ycck_as_photoshop_writes_it(self) -> None:
        """The same inks, with the first three turned into luma and chroma (transform 2)."""
        inks = Image.new("RGB", (16, 16), (0, 255, 255)).convert("YCbCr")
        # Pillow stores the inverse of a CMYK picture; inverting first leaves luma and chroma there.
        stored = [plane.point(lambda value: 255 - value) for plane in inks.split()]
        picture = Image.merge("CMYK", [*stored, Image.new("L", (16, 16), 51)])
        data = bytearray(encode(picture, "JPEG", quality=100))
        # "Adobe", version, two flags: the transform is the 12th byte.
        data[data.index(b"Adobe") + 11] = 2
        assert difference(pixels_of(bytes(data)), np.full((16, 16, 3), (204, 0, 0), np.uint8)) <= 3


class TestTransparency:
    """What is not opaque lies on white: value * alpha + 255 * (1 - alpha)."""

    # alpha 128: 200 * 128/255 + 255 * 127/255 = 227.4; 0 → 127
    RGBA = np.array([[[200, 0, 0, 255], [200, 0, 0, 128], [200, 0, 0, 0]]], np.uint8)
    ON_WHITE = np.array([[[200, 0, 0], [227, 127, 127], [255, 255, 255]]], np.uint8)

    @pytest.mark.parametrize(
        ("image_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})]
    )
    def test_colour_with_alpha(self, image_format: str, options: dict[str, Any]) -> None:
        pixels = pixels_of(encode(self.RGBA, image_format, **options))
        assert difference(pixels, self.ON_WHITE) <= 1

    def test_an_alpha_channel_nobody_used(self) -> None:
        picture = Image.fromarray(scene()).convert("RGBA")
        assert np.array_equal(pixels_of(encode(picture, "PNG")), scene())

    def test_grey_with_alpha(self) -> None:
        picture = Image.fromarray(self.RGBA[..., [0, 3]], "LA")
        # 200 at alpha 128 → 227
        assert (
            difference(
                pixels_of(encode(picture, "PNG")),
                np.repeat(np.uint8([[[200], [227], [255]]]), 3, 2),
            )
            <= 1
        )

    def test_16_bit_with_alpha(self) -> None:
        bgra = self.RGBA[..., [2, 1, 0, 3]].astype(np.uint16) * 257
        _, data = cv2.imencode(".png", bgra)
        assert difference(pixels_of(data.tobytes()), self.ON_WHITE) <= 1

    def test_palette_with_alpha(self) -> None:
        picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
        picture.putpalette([200, 0, 0] * 3)
        data = encode(picture, "PNG", transparency=bytes([255, 128, 0]))
        assert difference(pixels_of(data), self.ON_WHITE) <= 1

    def test_a_transparent_palette_entry(self) -> None:
        picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
        picture.putpalette([200, 0, 0, 0, 0, 200])
        for image_format in ("PNG", "GIF"):
            pixels = pixels_of(encode(picture, image_format, transparency=1))
            assert pixels.tolist() == [[[200, 0, 0], [255, 255, 255]]]

    @pytest.mark.parametrize(
        ("depth", "colour", "row", "key"),
        [
            (8, 0, b"\x00\x0a", b"\x00\x0a"),  # 8-bit grey 0, 10
            (16, 0, b"\x00\x00\x0a\x0b", b"\x0a\x0b"),  # 16-bit grey
            (8, 2, b"\x00\x00\x00\x0a\x14\x1e", b"\x00\x0a\x00\x14\x00\x1e"),  # 8-bit colour
        ],
    )
    def test_one_value_that_means_transparent(
        self, depth: int, colour: int, row: bytes, key: bytes
    ) -> None:
        """Two pixels, black and the key: the second is white."""
        data = png(
            png_header(2, 1, depth, colour),
            (b"tRNS", key),
            (b"IDAT", zlib.compress(b"\x00" + row)),
            (b"IEND", b""),
        )
        assert pixels_of(data).tolist() == [[[0, 0, 0], [255, 255, 255]]]


class TestOrientation:
    # Orientation → (upright side of row 0, of column 0), as Exif 2.32 words it (4.6.4).
    SIDES: ClassVar = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }

    def stored(self, upright: Pixels, orientation: int) -> Pixels:
        """The rows and columns a camera stores for it, from the standard's wording."""
        row_side, column_side = self.SIDES[orientation]
        pixels = upright
        if "bottom" in (row_side, column_side):
            pixels = pixels[::-1]
        if "right" in (row_side, column_side):
            pixels = pixels[:, ::-1]
        return pixels.transpose(1, 0, 2) if row_side in ("left", "right") else pixels

    @staticmethod
    def exif(orientation: Any) -> Image.Exif:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return exif

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        ("image_format", "options", "tolerance"),
        [
            ("PNG", {}, 0),
            ("WEBP", {"lossless": True}, 0),
            ("JPEG", {"quality": 95, "subsampling": 0}, 12),
        ],
    )
    def test_every_orientation_stands_upright(
        self, orientation: int, image_format: str, options: dict[str, Any], tolerance: int
    ) -> None:
        stored = np.ascontiguousarray(self.stored(scene(), orientation))
        data = encode(stored, image_format, exif=self.exif(orientation), **options)
        image = decode(EncodedImage(data))
        assert image.resolution_wh == (36, 24)
        assert difference(image.pixels, scene()) <= tolerance
        assert image.pixels.flags.c_contiguous

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_a_number_that_means_nothing_is_passed_over(self, orientation: int) -> None:
        data = encode(scene(), "PNG", exif=self.exif(orientation))
        assert np.array_equal(pixels_of(data), scene())

    @pytest.mark.parametrize(
        "exif",
        [
            pytest.param(b"Exif\x00\x00", id="nothing"),
            pytest.param(b"Exif\x00\x00garbage that is no TIFF", id="garbage"),
            pytest.param(b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", id="offset beyond the end"),
            pytest.param(b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12", id="cut short"),
            pytest.param(
                # one entry: orientation, as the text "six", four bytes in place
                b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x04six\x00",
                id="text",
            ),
            pytest.param(
                # and as a byte, where the first two bytes read as a number would be 6
                b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x01\x00\x00\x00\x01\x00\x06\x00\x00",
                id="byte",
            ),
            pytest.param(b"\xff" * 50, id="no header"),
        ],
    )
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow looks for a JPEG's resolution
    def test_a_broken_exif_does_not_cost_the_picture(self, exif: bytes, image_format: str) -> None:
        data = encode(scene(), image_format, exif=exif)
        assert np.array_equal(pixels_of(data), pixels_of(encode(scene(), image_format)))

    def test_only_exif_turns_a_picture(self) -> None:
        """Browsers do not follow XMP, so nor do we: the two would show different pictures."""
        data = encode(scene(), "JPEG", quality=95, subsampling=0, xmp=b'<x tiff:Orientation="6"/>')
        assert difference(pixels_of(data), scene()) <= 12


class TestMetadata:
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("profile", [b"garbage", b"\x00" * 5000])
    def test_a_broken_colour_profile_does_not_cost_the_picture(
        self, image_format: str, profile: bytes
    ) -> None:
        with_profile = encode(scene(), image_format, icc_profile=profile, quality=90)
        without = encode(scene(), image_format, quality=90)
        assert np.array_equal(pixels_of(with_profile), pixels_of(without))

    @pytest.mark.parametrize(
        "bombs",
        [
            [(b"zTXt", b"Comment\x00\x00")],
            [(b"iTXt", b"Comment\x00\x01\x00\x00\x00")],
            [(b"iCCP", b"profile\x00\x00")],
            [(b"zTXt", b"Comment\x00\x00")] * 50,
        ],
        ids=["text", "international text", "colour profile", "fifty texts"],
    )
    def test_a_bomb_beside_the_pixels_is_not_unpacked(
        self, bombs: list[tuple[bytes, bytes]]
    ) -> None:
        """30 MB of zeros in 30 kB each."""
        zeros = zlib.compress(bytes(30_000_000), 9)
        plain = encode(scene(), "PNG")
        header_end = 8 + 25  # signature; IHDR with length, kind, 13 bytes and checksum
        chunks = b"".join(png_chunk(kind, start + zeros) for kind, start in bombs)
        data = plain[:header_end] + chunks + plain[header_end:]

        tracemalloc.start()
        pixels = pixels_of(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert np.array_equal(pixels, scene())
        assert peak < 3_000_000


class TestSize:
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP"])
    def test_the_limit_is_inclusive(self, image_format: str) -> None:
        data = encode(scene(24, 36), image_format)
        assert pixels_of(data, max_pixels=24 * 36).shape == (24, 36, 3)
        assert failure(data, max_pixels=24 * 36 - 1) is ErrorCode.IMAGE_TOO_LARGE

    @staticmethod
    def jpeg(width: int, height: int) -> bytes:
        """A small JPEG whose header (SOF0: marker, length, depth, height, width) says otherwise."""
        data = bytearray(encode(scene(), "JPEG"))
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">HH", height, width)
        return bytes(data)

    @staticmethod
    def gif(width: int, height: int) -> bytes:
        data = bytearray(encode(scene(), "GIF"))
        data[6:10] = struct.pack("<HH", width, height)
        return bytes(data)

    @staticmethod
    def gif_frame(width: int, height: int) -> bytes:
        """A GIF of modest size whose first picture claims to be larger than the whole."""
        data = bytearray(encode(scene(), "GIF"))
        start = data.rindex(b"\x2c\x00\x00\x00\x00" + struct.pack("<HH", 36, 24))
        data[start + 5 : start + 9] = struct.pack("<HH", width, height)
        return bytes(data)

    @staticmethod
    def webp(width: int, height: int) -> bytes:
        """A lossless WEBP's header (RFC 9649, 3.4) and too little behind it."""
        bits = (width - 1) | (height - 1) << 14
        body = b"\x2f" + struct.pack("<I", bits) + bytes(15)
        chunk = b"VP8L" + struct.pack("<I", len(body)) + body
        return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk

    @staticmethod
    def png(width: int, height: int) -> bytes:
        return png(png_header(width, height), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))

    @pytest.mark.parametrize(
        ("kind", "width", "height"),
        [
            *((kind, 8000, 7000) for kind in ("jpeg", "png", "gif", "gif_frame", "webp")),
            *((kind, 10_000, 10_000) for kind in ("jpeg", "png", "gif", "gif_frame", "webp")),
            *((kind, 65_535, 65_535) for kind in ("jpeg", "gif", "gif_frame")),
            ("webp", 16_384, 16_384),
            ("png", 60_000, 60_000),
            ("png", 2**31 - 1, 2**31 - 1),
            ("png", 70_000, 1),  # few pixels, but a side that nothing can resize
            ("png", 1, 50_000_000),
        ],
    )
    def test_a_bomb_is_refused_by_its_header(self, kind: str, width: int, height: int) -> None:
        """Whether Pillow would say nothing, warn (over 89 MP) or refuse (over 179 MP)."""
        data = getattr(self, kind)(width, height)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            assert failure(data) is ErrorCode.IMAGE_TOO_LARGE

    def test_a_bomb_takes_no_memory(self) -> None:
        """Measured by the system, in a process of its own: 100 MP of RGB would be 300 MB."""
        bombs = [make(10_000, 10_000) for make in (self.jpeg, self.png, self.gif, self.webp)]
        program = """if True:
            import pickle, resource, sys
            from vision.errors import PermanentError
            from vision.image import EncodedImage, decode
            peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            before = peak()
            for data in pickle.load(sys.stdin.buffer):
                try:
                    decode(EncodedImage(data))
                except PermanentError as error:
                    assert error.code == "image_too_large"
            print(peak() - before)
            """
        command = [sys.executable, "-W", "ignore", "-c", program]
        done = subprocess.run(
            command,
            input=pickle.dumps(bombs),
            capture_output=True,
            check=True,
            cwd=Path(__file__).parents[3],
        )
        # In kilobytes, on macOS in bytes.
        grown = int(done.stdout) / (1 if sys.platform == "darwin" else 1 / 1024)
        assert grown < 30_000_000

    def test_the_limit_does_not_lean_on_pillow_s(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert failure(self.png(20_000, 20_000)) is ErrorCode.IMAGE_TOO_LARGE

    def test_a_warning_made_an_error_changes_nothing(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert failure(self.png(10_000, 10_000)) is ErrorCode.IMAGE_TOO_LARGE

    def test_the_message_says_the_size_and_the_limit(self) -> None:
        with pytest.raises(PermanentError, match=r"36x24.*800 pixels"):
            decode(EncodedImage(encode(scene(24, 36), "PNG")), max_pixels=800)

    @pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0)])
    def test_a_picture_without_pixels_is_corrupt(self, width: int, height: int) -> None:
        assert failure(self.png(width, height)) is ErrorCode.IMAGE_CORRUPT

    def test_a_header_that_promises_less_than_there_is(self) -> None:
        """What is behind the last row is not decoded: 30 MB of it, unpacked nowhere."""
        data = png(png_header(2, 1), (b"IDAT", zlib.compress(bytes(30_000_000))), (b"IEND", b""))
        tracemalloc.start()
        pixels = pixels_of(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert pixels.tolist() == [[[0, 0, 0], [0, 0, 0]]]
        assert peak < 3_000_000


NOISE: Pixels = np.random.default_rng(7).integers(0, 256, (40, 30, 3), np.uint8)
WHOLE = {
    "jpeg": encode(NOISE, "JPEG", quality=90),
    "progressive jpeg": encode(NOISE, "JPEG", quality=90, progressive=True),
    "cmyk jpeg": encode(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "png": encode(NOISE, "PNG"),
    "palette png": encode(Image.fromarray(NOISE).quantize(64), "PNG"),
    "gif": encode(NOISE, "GIF"),
    "webp": encode(NOISE, "WEBP"),
    "lossless webp": encode(NOISE, "WEBP", lossless=True),
}


class TestDamage:
    def test_no_bytes_are_corrupt(self) -> None:
        assert failure(b"") is ErrorCode.IMAGE_CORRUPT

    @pytest.mark.parametrize("kind", WHOLE)
    def test_half_a_file_is_corrupt(self, kind: str) -> None:
        data = WHOLE[kind]
        assert failure(data[: len(data) // 2]) is ErrorCode.IMAGE_CORRUPT

    @pytest.mark.parametrize("kind", WHOLE)
    def test_the_first_bytes_of_a_picture_are_corrupt(self, kind: str) -> None:
        for length in (1, 2, 3, 6, 8, 11, 12, 13, 20, 30):
            assert failure(WHOLE[kind][:length]) is ErrorCode.IMAGE_CORRUPT

    @given(kind=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 1, exclude_max=True))
    @settings(max_examples=300, deadline=None)
    def test_a_file_cut_anywhere_is_corrupt_or_whole(self, kind: str, share: float) -> None:
        """Never a part of the picture. Whole: only end marks may be missing, after every pixel."""
        data = WHOLE[kind]
        cut = data[: int(len(data) * share)]
        try:
            pixels = pixels_of(cut)
        except PermanentError as error:
            code = error.code
        else:
            # Of a PNG: IEND (12 bytes), the checksums of chunk and stream (8), an end mark.
            assert len(data) - len(cut) <= 24
            assert np.array_equal(pixels, pixels_of(data))
            return
        assert code is ErrorCode.IMAGE_CORRUPT

    @given(
        kind=st.sampled_from(sorted(WHOLE)),
        damage=st.lists(
            st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8
        ),
    )
    @settings(max_examples=300, deadline=None)
    def test_any_damage_is_an_error_of_ours_or_a_picture(
        self, kind: str, damage: list[tuple[float, int]]
    ) -> None:
        data = bytearray(WHOLE[kind])
        for where, byte in damage:
            data[int(where * len(data))] = byte
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = decode(EncodedImage(bytes(data)), max_pixels=100_000)
            except PermanentError:
                return
        assert image.pixels.ndim == 3

    @given(
        start=st.sampled_from(
            [b"\xff\xd8\xff", PNG_SIGNATURE, b"GIF89a", b"RIFF\x20\x00\x00\x00WEBP"]
        ),
        rest=st.binary(max_size=200),
    )
    @settings(max_examples=200, deadline=None)
    def test_a_signature_before_anything_is_an_error_of_ours(
        self, start: bytes, rest: bytes
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                decode(EncodedImage(start + rest), max_pixels=100_000)
            except PermanentError:
                return


def test_threads_decode_at_once() -> None:
    images = [EncodedImage(data) for data in WHOLE.values()] * 5
    alone = [decode(image).pixels for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = [image.pixels for image in pool.map(decode, images)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
