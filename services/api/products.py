"""`/v1/products`: all photos of one external id, merged into one description."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint

from services.api.errors import ApiCode, ProblemError
from services.api.schemas import Product, ProductPage, ProductQuery
from services.api.state import state
from services.pipeline.products import product_as_json

bp = APIBlueprint("products", __name__, url_prefix="/v1/products", tag="Products")


# An id may hold slashes, even two in a row.
@bp.get("/<path:external_id>", merge_slashes=False)
@bp.output(Product)
def get_product(external_id: str) -> Any:
    """Read a product

    One garment is the product: the one its photos agree on, and a hint such as `article_type`
    decides where they show several. Its attributes are voted on by all photos, each with its
    calibrated confidence; a person's correction outvotes them. Read from the photos' newest
    reports, so it is never behind them.
    """
    # Postgres stores no NUL, so no product has one.
    stored = None if "\0" in external_id else state().products.get(external_id)
    if stored is None:
        raise ProblemError(ApiCode.NOT_FOUND, "no analysed photo has this external id")
    return product_as_json(stored)


@bp.get("")
@bp.input(ProductQuery, location="query")
@bp.output(ProductPage)
def list_products(query_data: ProductQuery) -> Any:
    """List products, by external id"""
    page = state().products.list(query_data.limit, query_data.cursor)
    return {
        "items": [product_as_json(stored) for stored in page.items],
        "next_cursor": page.next_cursor,
    }
