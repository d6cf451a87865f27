"""How fast products are read, which are merged from their photos each time.

    python -m benchmarks.product_reads [--photos 100000] [--json]

Fills an embedded Postgres with photos, four to a product, with three garments each, ingested by one
catalogue, and reads single products, pages of a hundred, and all of them as an export does.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import text

from services.pipeline.products import product_as_json
from services.store.embedded import EmbeddedPostgres
from services.store.products import ProductStore, every_product
from services.store.session import Database
from vision.garments import ATTRIBUTES

PHOTOS_OF_A_PRODUCT = 4
STREAMED = 5_000
CATEGORIES = ("top", "trousers", "footwear")

FILL = (
    """INSERT INTO images (id, sha256, width, height, bytes, format)
       SELECT gen_random_uuid(), md5(i::text) || md5((-i)::text), 1000, 1500, 90000, 'jpeg'
       FROM generate_series(1, :photos) i""",
    """INSERT INTO image_sources (id, image_id, external_id, url, digest)
       SELECT gen_random_uuid(), id, 'sku-' || ((row_number() OVER () - 1) / :per_product),
              'https://shop.example/' || id || '.jpg', 'digest' FROM images""",
    """INSERT INTO analyses
              (id, image_id, models, options, models_key, classified_whole, timings_ms)
       SELECT gen_random_uuid(), id, '{}', '{"stages": ["classify"], "context": {}}', 'key', false,
              '{}' FROM images""",
    """INSERT INTO garments
              (id, analysis_id, ordinal, source, category, score, x1, y1, x2, y2, mask, attributes,
               colours, style, style_label, embedding)
       SELECT gen_random_uuid(), analyses.id, place, 'detection',
              (CAST(:categories AS text[]))[place + 1], 0.8, 0, 100 * place, 500, 700, :mask,
              :attributes, :colours, :style, 'blouse',
              CAST(array_fill(CAST(0.0625 AS real), ARRAY[256]) AS halfvec(256))
       FROM analyses, generate_series(0, 2) place""",
    "INSERT INTO ingestions (id, total) VALUES (gen_random_uuid(), :photos)",
    """INSERT INTO ingestion_items
              (id, ingestion_id, row, photo, url, external_id, product_url, hints, state,
               analysis_id)
       SELECT gen_random_uuid(), ingestions.id, row_number() OVER (), 1, sources.url,
              sources.external_id, 'https://shop.example/product', '{}', 'done', analyses.id
       FROM ingestions, analyses JOIN image_sources sources USING (image_id)""",
)


def main(
    photos: Annotated[int, typer.Option(min=1000)] = 100_000,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="vestiary-") as folder,
        EmbeddedPostgres(Path(folder)) as server,
    ):
        database = Database(server.url)
        with console.status(f"storing {photos:,} photos"):
            fill(database, photos)
        with console.status("reading products"):
            figures = measure(database, photos)
        database.close()
    print(json.dumps(figures)) if as_json else Console().print(figures)


def fill(database: Database, photos: int) -> None:
    database.upgrade()
    answer = {"label": "a", "confidence": 0.8, "alternatives": [["a", 0.8], ["b", 0.1]]}
    values = {
        "photos": photos,
        "per_product": PHOTOS_OF_A_PRODUCT,
        "categories": list(CATEGORIES),
        "mask": json.dumps({"size": [1500, 1000], "counts": "x" * 600}),
        "attributes": json.dumps(dict.fromkeys(ATTRIBUTES, answer)),
        "colours": json.dumps([{"name": "red", "hex": "#ff0000", "share": 0.7}]),
        "style": json.dumps(
            {"label": "blouse", "score": 0.7, "attributes": dict.fromkeys("abcdefg", answer)}
        ),
    }
    with database.session() as session:
        # No product is found by its embedding, and the index takes longer than all the rest.
        session.execute(text("DROP INDEX ix_garments_embedding"))
        for statement in FILL:
            session.execute(text(statement), values)
        session.commit()
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def measure(database: Database, photos: int) -> dict[str, Any]:
    store = ProductStore(database)
    products = photos // PHOTOS_OF_A_PRODUCT
    cursor: str | None = None

    def one(number: int) -> None:
        stored = store.get(f"sku-{number * 37 % products}")
        assert stored is not None
        product_as_json(stored)

    def page(_: int) -> None:
        nonlocal cursor
        found = store.list(100, cursor)
        cursor = found.next_cursor
        for stored in found.items:
            product_as_json(stored)

    return {
        "photos": photos,
        "products": products,
        "product_ms": median_ms(one, 200),
        "page_of_100_ms": median_ms(page, min(20, products // 100)),
        "export_products_per_s": round(streamed_per_s(database)),
    }


def streamed_per_s(database: Database) -> float:
    start, count = time.perf_counter(), 0
    with database.session() as session:
        for stored in every_product(session):
            json.dumps(product_as_json(stored))
            count += 1
            if count == STREAMED:
                break
    return count / (time.perf_counter() - start)


def median_ms(work: Callable[[int], None], rounds: int) -> float:
    times = []
    for number in range(rounds):
        start = time.perf_counter()
        work(number)
        times.append((time.perf_counter() - start) * 1000)
    return round(statistics.median(times), 1)


if __name__ == "__main__":
    typer.run(main)
