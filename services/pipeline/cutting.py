"""Masks for packshots: a garment alone in its photo that the style model did not see.

The style model learnt on people. A product on white or a shirt on a bed it often misses, though
little is easier to cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.pipeline.join import FoundGarment
from vision.cutout import cut_out, skin_share
from vision.image import RgbImage
from vision.rle import Rle

# Someone wears it when more of what stands out has the colour of skin; then it is not the garment
# alone. Leather has that colour, too, and shoes and bags are rarely shown on someone.
MOST_SKIN = 0.04
NOT_WORN = ("footwear", "bag", "belt")


def with_cut_out(image: RgbImage, found: Sequence[FoundGarment]) -> tuple[FoundGarment, ...]:
    """The same garments; one that a detector found alone and that has no mask gets one, if it can
    be told from what is around it. Its `style` stays None, since no style model saw it.
    """
    if len(found) != 1 or found[0].mask is not None or found[0].source != "detection":
        return tuple(found)
    (garment,) = found
    mask = cut_out(image.pixels, garment.xyxy)
    if mask is None:
        return (garment,)
    if garment.category not in NOT_WORN and skin_share(image.pixels, mask) > MOST_SKIN:
        return (garment,)
    return (replace(garment, mask=Rle.encode(mask)),)
