"""Put what the stages found into the garments of the report."""

from __future__ import annotations

from collections.abc import Sequence

from services.pipeline.crop import crop
from services.pipeline.join import FoundGarment
from vision.colour import dominant_colours, foreground, likely_names
from vision.garments import Colour, Garment, Labels
from vision.image import RgbImage
from vision.rle import Rle
from vision.taxonomy import load_taxonomy


def assemble(
    image: RgbImage, found: Sequence[FoundGarment], labels: Sequence[Labels | None]
) -> tuple[Garment, ...]:
    """The garments of a photo, in the order they were found; `labels` has one entry for each."""
    return tuple(
        Garment(
            xyxy=garment.xyxy,
            category=garment.category,
            score=garment.score,
            source=garment.source,
            labels=label,
            mask=garment.mask,
            style=garment.style,
            colours=garment_colours(image, garment.xyxy, garment.mask, label),
        )
        for garment, label in zip(found, labels, strict=True)
    )


def garment_colours(
    image: RgbImage,
    xyxy: tuple[float, float, float, float],
    mask: Rle | None,
    labels: Labels | None,
) -> tuple[Colour, ...]:
    """The colours within a garment's mask or, without one, of what stands out in its box.

    Named with the classifier's base colour as evidence, where it has one.
    """
    answer = None if labels is None else labels.attributes.get("base_colour")
    likely = None if answer is None else likely_names(answer, load_taxonomy())
    if mask is not None:
        return dominant_colours(image.pixels, mask.decode(), likely=likely)
    pixels = crop(image, xyxy, margin=0).pixels
    return dominant_colours(pixels, foreground(pixels), centred=True, likely=likely)
