"""Pictures: the bytes somebody sent, and the upright RGB pixels every model sees.

Pillow opens (only the formats named here, and the size is known before a pixel is decoded), NumPy
and OpenCV do the rest. H and W are the height and width of the upright picture in pixels.

Colour profiles are not applied: pixels are taken as sRGB, as in the data the models learnt from.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision.containers import only_pixels
from vision.errors import ErrorCode, PermanentError

MAX_PIXELS = 50_000_000
# A strip one pixel wide and millions long is within any pixel count and of use to nobody; resizing
# it overflows. 65,535 is what the widest of the formats (JPEG, GIF) can say.
MAX_SIDE = 65_535

_ORIENTATION_TAG = 0x0112
_TIFF_SHORT = 3
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class EncodedImage:
    """A picture as it came, not yet known to be one.

    data: the file's bytes. source_url: where they were fetched from, None when they were sent.
    """

    data: bytes = field(repr=False)
    source_url: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the bytes: the picture's identity everywhere in the product."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class RgbImage:
    """The decoded picture, upright.

    pixels: (H, W, 3) uint8 RGB, contiguous and read-only. sha256: of the encoded bytes.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    sha256: str

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(
                f"pixels must be (H, W, 3) uint8, not {self.pixels.shape} {self.pixels.dtype}"
            )
        pixels = np.ascontiguousarray(self.pixels).view()
        pixels.flags.writeable = False
        object.__setattr__(self, "pixels", pixels)

    @property
    def resolution_wh(self) -> tuple[int, int]:
        """(W, H) in pixels."""
        height, width = self.pixels.shape[:2]
        return width, height


def sniff(head: bytes) -> str | None:
    """The format a file's first 12 bytes say it has: JPEG, PNG, GIF, WEBP, or None.

    Only a signature is looked at; the rest of the file may still be broken.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(_PNG_SIGNATURE):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return None


def decode(encoded: EncodedImage, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """Decode a JPEG, PNG, WEBP or GIF into upright RGB.

    Of an animation the first picture is taken. EXIF orientation is applied, CMYK and greyscale
    become RGB, 16 bits a channel become the upper 8, and what is transparent lies on white.

    Raises `PermanentError`: `image_corrupt` for no bytes, or a file that is broken or cut short;
    `unsupported_media` for anything but the four formats; `image_too_large` for more than
    `max_pixels` pixels or a side over 65,535, known from the header, before decoding, and for files
    built to keep a decoder busy.
    """
    picture = _open(encoded.data)
    _check_size(picture.size, max_pixels)
    try:
        picture.load()
        pixels = _to_rgb(picture)
    except MemoryError:
        raise
    # Pillow's decoders raise whatever a broken file makes them stumble over: OSError, SyntaxError,
    # ValueError, struct.error, EOFError, IndexError, zlib.error.
    except Exception as error:
        raise _corrupt() from error
    return RgbImage(_upright(pixels, _orientation(picture.info.get("exif", b""))), encoded.sha256)


def _open(data: bytes) -> Image.Image:
    """Read the header; no pixel is decoded yet."""
    if not data:
        raise PermanentError(ErrorCode.IMAGE_CORRUPT, "the image is empty (0 bytes)")
    image_format = sniff(data[:12])
    if image_format is None:
        if _could_become_image(data):
            raise _corrupt()
        raise PermanentError(
            ErrorCode.UNSUPPORTED_MEDIA, "the content is not a JPEG, PNG, WEBP or GIF image"
        )
    reduced = only_pixels(image_format, data)
    try:
        return Image.open(io.BytesIO(reduced), formats=[image_format])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PermanentError(
            ErrorCode.IMAGE_TOO_LARGE, "the image has too many pixels to decode"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise _corrupt() from error


def _could_become_image(data: bytes) -> bool:
    """Whether these few bytes are the start of a signature, so a file cut short."""
    signatures = (b"\xff\xd8\xff", _PNG_SIGNATURE, b"GIF87a", b"GIF89a", b"RIFF")
    return len(data) < 12 and (
        any(s.startswith(data) for s in signatures) or data.startswith(b"RIFF")
    )


def _corrupt() -> PermanentError:
    return PermanentError(ErrorCode.IMAGE_CORRUPT, "the image is broken or cut short")


def _check_size(resolution_wh: tuple[int, int], max_pixels: int) -> None:
    width, height = resolution_wh
    if width < 1 or height < 1:
        raise _corrupt()
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise PermanentError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"the image is {width}x{height}; at most {max_pixels} pixels and "
            f"{MAX_SIDE} a side are decoded",
        )


def _to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a loaded picture of any mode, not yet turned."""
    if picture.mode.startswith("I;16"):
        picture = _eight_bit(picture)
    if picture.has_transparency_data:
        picture = _on_white(picture.convert("RGBA"))
    if picture.mode == "L":
        return cv2.cvtColor(np.asarray(picture), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.getchannel("A").getextrema() == (255, 255):  # an alpha channel nobody used
        return picture.convert("RGB")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    return white


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: the upper byte, which is also what Pillow keeps of 16-bit RGB.

    Pillow's own conversion may clip instead: everything over 255 would be white.
    """
    values = np.asarray(picture)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    see_through_value = picture.info.get("transparency")
    if see_through_value is not None:
        opaque = np.where(values == see_through_value, 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(opaque))
    return grey


def _orientation(exif: bytes) -> int:
    """EXIF orientation as it is written; 1 (as stored) when there is none or the EXIF is broken.

    Read here (TIFF 6.0, section 2: header, then 12-byte entries) because Pillow warns of broken
    EXIF on standard error, and falls back to XMP, which browsers do not follow.
    """
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == _TIFF_SHORT else 1
    except struct.error:  # an offset leads beyond the end
        pass
    return 1


_Turn = Callable[[NDArray[np.uint8]], "cv2.typing.MatLike"]
# EXIF orientation → how the stored rows and columns become upright (Exif 2.32, section 4.6.4).
_TURNS: dict[int, _Turn] = {
    2: lambda stored: cv2.flip(stored, 1),
    3: lambda stored: cv2.rotate(stored, cv2.ROTATE_180),
    4: lambda stored: cv2.flip(stored, 0),
    5: cv2.transpose,
    6: lambda stored: cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE),
    7: lambda stored: cv2.flip(cv2.transpose(stored), -1),
    8: lambda stored: cv2.rotate(stored, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def _upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turned as the orientation says; as stored for 1 and for numbers that mean nothing."""
    turn = _TURNS.get(orientation)
    return stored if turn is None else np.asarray(turn(stored), np.uint8)
