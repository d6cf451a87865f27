"""Products read from a real Postgres: whatever happens to their photos shows in the next answer."""

from __future__ import annotations

import base64
import gzip
import io
import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from pyarrow import parquet as pq
from werkzeug.test import TestResponse

from services.api.exports import streamed
from services.bootstrap import Container
from services.exports import Embeddings
from services.product_exports import run_product_export
from services.store.products import MAX_PHOTOS, ProductStore
from services.store.session import Database
from services.store.tables import (
    AnalysisRow,
    CorrectionRow,
    GarmentRow,
    ImageRow,
    ImageSourceRow,
    IngestionItemRow,
    IngestionRow,
)
from tests.pictures import encode
from vision.errors import PermanentError

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PHOTO_URL = "https://shop.example/1.jpg"
ALL = ["classify", "detect", "style"]
BOX = (10.0, 10.0, 50.0, 50.0)


def garment(
    article_type: str, confidence: float = 0.8, xyxy: tuple[float, float, float, float] = BOX
) -> dict[str, Any]:
    path = {"master_category": "Apparel", "sub_category": "Topwear", "article_type": article_type}
    return {
        "source": "detection",
        "category": "top",
        "score": 0.9,
        **dict(zip(("x1", "y1", "x2", "y2"), xyxy, strict=True)),
        "colours": [],
        **path,
        "attributes": {
            name: {"label": label, "confidence": confidence, "alternatives": [[label, confidence]]}
            for name, label in path.items()
        },
        "embedding": [1.0] + [0.0] * 255,
    }


class Shop:
    """Writes what ingestions and requests would, at times of the test's choice."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.minute = 0

    def photo(
        self, *external_ids: str, url: str | None = "https://shop.example/1.jpg"
    ) -> uuid.UUID:
        image = ImageRow(
            id=uuid.uuid4(), sha256=uuid.uuid4().hex * 2, width=60, height=60, bytes=9, format="png"
        )
        sources = [
            ImageSourceRow(
                image_id=image.id,
                external_id=external_id,
                url=PHOTO_URL,
                digest=external_id,
                created_at=self._now(),
            )
            for external_id in external_ids
        ]
        self._save(image)
        self._save(*sources)
        return image.id

    def analysis(
        self,
        image_id: uuid.UUID,
        *garments: dict[str, Any],
        stages: list[str] = ALL,
        asked_for: dict[str, str] | None = None,
    ) -> AnalysisRow:
        """asked_for: external ids of catalogue rows with it → their product URLs."""
        row = AnalysisRow(
            id=uuid.uuid4(),
            image_id=image_id,
            models={},
            options={"stages": stages, "min_score": None, "context": {}},
            models_key=uuid.uuid4().hex,
            classified_whole=False,
            timings_ms={},
            created_at=self._now(),
        )
        self._save(row)
        rows = (GarmentRow(analysis_id=row.id, ordinal=i, **one) for i, one in enumerate(garments))
        self._save(*rows)
        if asked_for:
            ingestion = IngestionRow(id=uuid.uuid4(), total=len(asked_for))
            self._save(ingestion)
            self._save(
                *(
                    IngestionItemRow(
                        ingestion_id=ingestion.id,
                        row=place,
                        url=PHOTO_URL,
                        external_id=external_id,
                        product_url=product_url,
                        hints={},
                        state="done",
                        analysis_id=row.id,
                    )
                    for place, (external_id, product_url) in enumerate(asked_for.items(), 1)
                )
            )
        return row

    def correct(self, garment_id: uuid.UUID, attribute: str, value: str) -> None:
        self._save(
            CorrectionRow(
                garment_id=garment_id,
                attribute=attribute,
                value=value,
                author="a person",
                created_at=self._now(),
            )
        )

    def _now(self) -> datetime:
        self.minute += 1
        return START + timedelta(minutes=self.minute)

    def _save(self, *rows: object) -> None:
        with self._database.session() as session:
            session.add_all(rows)
            session.commit()


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


def test_photos_handed_in_one_by_one_become_one_product(client: FlaskClient) -> None:
    def hand_in(colour: tuple[int, int, int]) -> None:
        pixels = np.full((80, 60, 3), colour, np.uint8)
        image = base64.b64encode(encode(pixels).data).decode()
        body = {"image_base64": image, "external_id": "sku/1 ü"}
        assert client.post("/v1/analyses", json=body).status_code == 201

    hand_in((200, 0, 0))
    path = f"/v1/products/{quote('sku/1 ü', safe='')}"
    first = client.get(path).json
    # The fakes see a shirt in the upper half, and call the lower half by its colour as well.
    assert first["garment"]["attributes"]["article_type"]["label"] == "Shirts"
    assert first["garment"]["attributes"]["article_type"]["photos"] == 1
    hand_in((180, 0, 0))
    hand_in((0, 0, 200))
    product = client.get(path).json
    vote = product["garment"]["attributes"]["article_type"]
    # Two of three photos are red: Shirts has .75 from each, and nothing from the blue one.
    assert (vote["label"], vote["confidence"], vote["votes"], vote["photos"]) == (
        "Shirts",
        0.5,
        2,
        3,
    )
    assert len(product["photos"]) == len(product["garment"]["garment_ids"]) == 3
    assert product["updated_at"] > first["updated_at"]
    assert [garment["category"] for garment in product["worn_with"]] == ["trousers"]
    listed = client.get("/v1/products").json
    assert listed == {"items": [product], "next_cursor": None}


def test_a_product_without_photos_is_not_there(client: FlaskClient) -> None:
    for path in ("/v1/products/nothing", "/v1/products/a%00b", "/v1/products/a//b"):
        answer = client.get(path)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found"), path
    assert client.get("/v1/products").json == {"items": [], "next_cursor": None}
    wrong = client.get("/v1/products?cursor=WyJcdTAwMDAiXQ")  # ["\u0000"]
    assert (wrong.status_code, wrong.json["code"]) == (422, "validation_error")


def test_the_list_goes_on_where_a_page_ended(client: FlaskClient, shop: Shop) -> None:
    for name in ("c", "a", "d", "b", "e"):
        shop.analysis(shop.photo(name, f"{name}2"), garment("Shirts"))
    found, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/v1/products?limit=3{cursor and '&cursor='}{cursor}").json
        found.append([item["external_id"] for item in page["items"]])
        cursor = page["next_cursor"]
    assert found == [["a", "a2", "b"], ["b2", "c", "c2"], ["d", "d2", "e"], ["e2"]]


def test_the_newest_analysis_that_classified_speaks_for_a_photo(
    database: Database, shop: Shop
) -> None:
    image = shop.photo("sku")
    shop.analysis(image, garment("Shirts"))
    newest = shop.analysis(image, garment("Tops"))
    shop.analysis(image, garment("Shirts"), stages=["detect"])
    (photo,) = ProductStore(database).get("sku").photos
    assert photo.analysis_id == newest.id


def test_what_was_asked_for_another_product_does_not_speak_for_this_one(
    database: Database, shop: Shop
) -> None:
    """Two products share a photo, and each catalogue row conditioned its own analysis."""
    image = shop.photo("red", "blue")
    for_red = shop.analysis(image, garment("Shirts"), asked_for={"red": "https://shop.example/r"})
    for_blue = shop.analysis(image, garment("Tops"), asked_for={"blue": "https://shop.example/b"})
    store = ProductStore(database)
    assert store.get("red").photos[0].analysis_id == for_red.id
    assert store.get("blue").photos[0].analysis_id == for_blue.id
    assert store.get("red").product_url == "https://shop.example/r"
    by_request = shop.analysis(image, garment("Shirts"))
    assert store.get("red").photos[0].analysis_id == by_request.id


def test_a_correction_counts_at_once_and_outlives_a_new_analysis(
    client: FlaskClient, database: Database, shop: Shop
) -> None:
    image = shop.photo("sku")
    shop.analysis(image, garment("Shirts"), garment("Tops", 0.3, (0, 0, 8, 8)))
    corrected = ProductStore(database).get("sku").photos[0].garment_ids[0]
    before = client.get("/v1/products/sku").json
    shop.correct(corrected, "article_type", "Sweaters")
    after = client.get("/v1/products/sku").json
    vote = after["garment"]["attributes"]["article_type"]
    assert (vote["label"], vote["corrected"], vote["votes"]) == ("Sweaters", True, 0)
    assert after["updated_at"] > before["updated_at"]
    # The new analysis found the garment a little to the right, and another one where none was.
    shop.analysis(
        image, garment("Tops", 0.3, (0, 0, 3, 3)), garment("Shirts", 0.8, (12, 10, 52, 50))
    )
    again = client.get("/v1/products/sku").json
    assert again["garment"]["attributes"]["article_type"]["label"] == "Sweaters"
    assert again["garment"]["garment_ids"] != after["garment"]["garment_ids"]


def test_an_id_that_stands_for_half_a_catalogue_is_read_in_part(
    database: Database, shop: Shop
) -> None:
    for _ in range(MAX_PHOTOS + 2):
        shop.analysis(shop.photo("unknown"))
    assert len(ProductStore(database).get("unknown").photos) == MAX_PHOTOS


def test_an_export_has_a_row_for_each_product(
    database: Database, shop: Shop, tmp_path: Path
) -> None:
    for name in ("b", "a"):
        shop.analysis(shop.photo(name), garment("Shirts"), asked_for={name: "https://shop.example"})
    shop.analysis(shop.photo("b"), garment("Shirts", 0.6))
    shop.analysis(shop.photo("empty"))
    since = START + timedelta(minutes=4)
    assert run_product_export(database, tmp_path / "new.jsonl", since=since) == 3
    assert run_product_export(database, tmp_path / "newer.jsonl", since=since + MINUTE) == 2
    assert run_product_export(database, tmp_path / "all.parquet") == 3
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 256)
    first, second, empty = table.to_pylist()
    assert [first["external_id"], second["external_id"]] == ["a", "b"]
    assert (second["photos"], second["article_type_votes"]) == (2, 2)
    assert second["article_type"] == "Shirts"
    assert second["article_type_confidence"] == pytest.approx((0.8 + 0.6) / 2)
    assert (second["product_url"], second["embedding"][:2]) == ("https://shop.example", [1.0, 0.0])
    assert (empty["category"], empty["garment_ids"], empty["embedding"]) == (None, [], None)
    assert run_product_export(database, tmp_path / "all.csv.gz", embeddings=Embeddings.NONE) == 3
    lines = gzip.decompress((tmp_path / "all.csv.gz").read_bytes()).decode().splitlines()
    assert [line.split(",")[0] for line in lines] == ["external_id", "a", "b", "empty"]
    with pytest.raises(PermanentError, match="COCO has photos"):
        run_product_export(database, tmp_path / "all.json")
    assert not (tmp_path / "all.json").exists()


def test_the_api_streams_exports(client: FlaskClient, container: Container, shop: Shop) -> None:
    for name in ("a", "b"):
        shop.analysis(shop.photo(name), garment("Shirts" if name == "a" else "Tops"))

    def get(query: str) -> TestResponse:
        return client.get(f"/v1/export?{query}", buffered=True)

    lines = get("what=products").text.splitlines()
    assert [json.loads(line)["external_id"] for line in lines] == ["a", "b"]
    assert len(json.loads(lines[0])["garment"]["embedding"]) == 256
    answer = get("format=parquet&article_type=Tops&embeddings=float16")
    assert answer.content_type == "application/vnd.apache.parquet"
    assert 'filename="vestiary-analyses.parquet"' in answer.headers["Content-Disposition"]
    (row,) = pq.read_table(io.BytesIO(answer.data)).to_pylist()
    assert row["external_ids"] == ["b"]
    assert len(get("format=coco").json["annotations"]) == 2
    wrong = get("what=products&article_type=Tops&format=coco")
    assert (wrong.status_code, len(wrong.json["errors"])) == (422, 2)
    # A reader that leaves, or asks for the headers only, leaves nothing open behind it.
    client.head("/v1/export").close()
    response = client.get("/v1/export", buffered=False)
    next(response.iter_encoded())
    response.close()
    assert "write-export" not in {thread.name for thread in threading.enumerate()}
    assert container.database.engine.pool.checkedout() == 0


def test_an_export_that_breaks_does_not_end_like_a_whole_one() -> None:
    def write(out: BinaryIO) -> None:
        out.write(b"half")
        raise RuntimeError("the store went away")

    received = streamed(write)
    assert next(received) == b"half"
    with pytest.raises(RuntimeError, match="went away"):
        next(received)
