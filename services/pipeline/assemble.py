"""Put what the stages found into the garments of the report."""

from __future__ import annotations

from collections.abc import Sequence

from services.pipeline.crop import crop
from services.pipeline.join import FoundGarment
from vision.colour import dominant_colours, foreground
from vision.garments import Colour, Garment, Labels
from vision.image import RgbImage


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
            colours=_garment_colours(image, garment),
        )
        for garment, label in zip(found, labels, strict=True)
    )


def _garment_colours(image: RgbImage, garment: FoundGarment) -> tuple[Colour, ...]:
    if garment.mask is not None:
        return dominant_colours(image.pixels, garment.mask.decode())
    pixels = crop(image, garment.xyxy, margin=0).pixels
    return dominant_colours(pixels, foreground(pixels), centred=True)
