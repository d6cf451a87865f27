"""How often the named dominant colour of a packshot is the one its catalogue gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from training.products import Product, product_mask
from vision.colour import dominant_colours
from vision.image import RgbImage
from vision.taxonomy import Taxonomy

COLUMN = "baseColour"


def colour_scores(photos: Iterable[tuple[Product, RgbImage]], taxonomy: Taxonomy) -> dict[str, Any]:
    """Share of the photos whose dominant colour lies in the group of the catalogue's colour.

    The mask is what stands out from a packshot's white background. Photos whose colour is in none
    of the groups are left out.
    """
    group_of_label = {c: g for g, colours in taxonomy.colour_groups.items() for c in colours}
    group_of_name = {n: g for g, names in taxonomy.palette_groups.items() for n in names}
    counts: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for product, photo in photos:
        wanted = group_of_label.get(product.attributes.get(COLUMN, ""))
        colours = dominant_colours(photo.pixels, product_mask(photo.pixels), centred=True)
        if wanted is None or not colours:
            continue
        counts[wanted] += 1
        right[wanted] += group_of_name[colours[0].name] == wanted
    return {
        "photos": counts.total(),
        "in_group": round(right.total() / counts.total(), 4) if counts else None,
        "per_group": {
            group: {"photos": counts[group], "in_group": round(right[group] / counts[group], 4)}
            for group in taxonomy.colour_groups
            if counts[group]
        },
    }
