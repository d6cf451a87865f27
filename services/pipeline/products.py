"""A stored product, merged, as plain JSON: the one form the API and exports share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.pipeline.merge import MergedGarment, Product, Vote, merge
from services.store.products import StoredProduct
from vision.garments import ATTRIBUTES
from vision.taxonomy import load_taxonomy


def merge_product(stored: StoredProduct) -> Product:
    return merge([photo.photo for photo in stored.photos], load_taxonomy())


def product_as_json(stored: StoredProduct, product: Product | None = None) -> dict[str, Any]:
    """As `json.dumps` takes it. product: `merge_product(stored)`, if that was done already."""
    product = product or merge_product(stored)
    return {
        "external_id": stored.external_id,
        "product_url": stored.product_url,
        "updated_at": stored.updated_at.isoformat(),
        "garment": None if product.main is None else _garment(product.main, stored),
        "worn_with": [_garment(garment, stored) for garment in product.others],
        "photos": [
            {
                "analysis_id": str(photo.analysis_id),
                "image_sha256": photo.photo.report.image_sha256,
                "urls": list(photo.urls),
            }
            for photo in stored.photos
        ],
    }


def garment_ids(garment: MergedGarment, stored: StoredProduct) -> list[str]:
    """Of the garments that were merged."""
    return [str(stored.photos[at].garment_ids[ordinal]) for at, ordinal in garment.members]


def votes_as_json(votes: Mapping[str, Vote]) -> dict[str, Any]:
    return {name: _vote(vote) for name, vote in votes.items()}


def _garment(garment: MergedGarment, stored: StoredProduct) -> dict[str, Any]:
    style = garment.style
    ordered = {n: garment.attributes[n] for n in ATTRIBUTES if n in garment.attributes}
    return {
        "category": garment.category,
        "share": round(garment.share, 4),
        "garment_ids": garment_ids(garment, stored),
        "attributes": votes_as_json(ordered),
        "colours": [
            {"name": colour.name, "hex": colour.hex, "share": colour.share}
            for colour in garment.colours
        ],
        "style": None
        if style is None
        else {**_vote(style), "attributes": votes_as_json(garment.style_attributes)},
    }


def _vote(vote: Vote) -> dict[str, Any]:
    return {
        "label": vote.label,
        "confidence": round(vote.confidence, 4),
        "votes": vote.votes,
        "photos": vote.photos,
        "corrected": vote.corrected,
        "alternatives": [
            {"label": label, "confidence": round(confidence, 4)}
            for label, confidence in vote.alternatives
        ],
    }
