"""Draw a report, in its JSON form, onto its photo: masks, boxes and names."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vision.garments import UNKNOWN
from vision.image import RgbImage
from vision.rle import Rle

Json = Mapping[str, Any]

_MASK_OPACITY = 0.35
# Successive hues lie this far apart, so that neighbours in the list never look alike.
_GOLDEN_RATIO = 0.618034


def annotate(image: RgbImage, report: Json) -> Image.Image:
    """The photo with every garment's mask tinted, its box outlined and its name written.

    Large boxes are drawn first, so that a belt is not hidden under a coat.
    """
    garments = report["garments"]
    canvas = image.pixels.copy()
    order = sorted(range(len(garments)), key=lambda i: -_area(garments[i]))
    for index in order:
        _tint(canvas, garments[index], _colour(index))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    stroke = max(2, round(max(picture.size) / 400))
    font = ImageFont.load_default(size=max(11, round(max(picture.size) / 55)))
    for index in order:
        draw.rectangle(garments[index]["box"], outline=_colour(index), width=stroke)
    for index in order:
        _write_name(draw, garments[index], _colour(index), font, picture.size)
    return picture


def title(garment: Json) -> str:
    """The short name people read: base colour, and article type, else style label or category."""
    colour, article = (_known(garment, name) for name in ("base_colour", "article_type"))
    style = garment["style"]["label"] if garment["style"] else None
    noun = article or style or garment["category"] or UNKNOWN
    return f"{colour} {noun}" if colour else str(noun)


def _known(garment: Json, attribute: str) -> str | None:
    answer = garment["attributes"].get(attribute)
    return answer["label"] if answer and answer["label"] != UNKNOWN else None


def _tint(canvas: NDArray[np.uint8], garment: Json, colour: tuple[int, int, int]) -> None:
    if garment["mask"] is None:
        return
    height, width = garment["mask"]["size"]
    mask = Rle(size=(height, width), counts=garment["mask"]["counts"]).decode()
    blended = canvas[mask] * (1 - _MASK_OPACITY) + np.array(colour) * _MASK_OPACITY
    canvas[mask] = blended.astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, outline, -1, colour, thickness=2, lineType=cv2.LINE_AA)


def _write_name(
    draw: ImageDraw.ImageDraw,
    garment: Json,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    resolution_wh: tuple[int, int],
) -> None:
    text = title(garment)
    if garment["score"] is not None:
        text += f" {garment['score']:.0%}"
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = 3
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = float(np.clip(garment["box"][0], 0, max(0, resolution_wh[0] - width)))
    y = float(np.clip(garment["box"][1] - height, 0, max(0, resolution_wh[1] - height)))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pad - left, y + pad - top), text, fill=_ink_on(colour), font=font)


def _colour(index: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _ink_on(colour: tuple[int, int, int]) -> str:
    # Rec. 601 luma; dark text reads on anything brighter than mid-grey.
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _area(garment: Json) -> float:
    x1, y1, x2, y2 = garment["box"]
    return float((x2 - x1) * (y2 - y1))
