"""Catalogues with something wrong in them, the whole way: posted to the API, and at a shell."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from pyarrow import parquet as pq
from pytest_httpserver import HTTPServer

from services.api.app import create_app
from services.bootstrap import Container
from services.ingestion.command import IngestChoices, run_ingest
from services.ingestion.sources import DEFAULT_OPTIONS
from services.ingestion.streams import GZIP_GRACE_BYTES
from services.ingestion.worker import run_worker
from services.store.ingestions import IngestionStore, StoredItem
from tests.pictures import picture
from vision.errors import PermanentError

ZEROS = bytes(4 * GZIP_GRACE_BYTES)


@dataclass(frozen=True)
class Refused:
    """A catalogue that cannot be read at all. says: parts of the error's message, every one."""

    content: bytes
    code: str
    says: tuple[str, ...]
    status: int = 422


@dataclass(frozen=True)
class Flawed:
    """A catalogue with good rows and bad ones. good: their numbers; bad: number → code, and a part
    of the message.
    """

    content: Callable[[list[str]], bytes]
    good: list[int]
    bad: dict[int, tuple[str, str]]


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.png", content)
    return buffer.getvalue()


def csv_of(*cells: Callable[[list[str]], bytes]) -> Callable[[list[str]], bytes]:
    return lambda urls: b"\n".join([b"sku,name,image_url", *(cell(urls) for cell in cells), b""])


def row(sku: str, name: str | bytes, photo: int) -> Callable[[list[str]], bytes]:
    name = name if isinstance(name, bytes) else name.encode()
    return lambda urls: b",".join([sku.encode(), name, urls[photo].encode()])


REFUSED = {
    "empty": Refused(b"", "validation_error", ("it has no bytes",)),
    "no header": Refused(
        b"A1,https://shop.example/1.jpg\nA2,https://shop.example/2.jpg\n",
        "validation_error",
        ("saw 'A1', 'https://shop.example/1.jpg'", "needs a header with one of image_url"),
    ),
    "wrong columns": Refused(
        b"sku,price\nA1,5\n",
        "validation_error",
        ("saw 'sku', 'price'", "needs a header with one of image_url", "picture, photo or url"),
    ),
    "zero rows": Refused(b"sku,image_url\n", "validation_error", ("no rows",)),
    "zero rows of Parquet": Refused(
        parquet({"image_url": pa.array([], pa.string())}), "validation_error", ("no rows",)
    ),
    "Parquet of a wrong type": Refused(
        parquet({"sku": ["a"], "image_url": [5]}),
        "validation_error",
        ("column 'image_url' is int64; it must be text or a list of text",),
    ),
    "half a Parquet": Refused(
        parquet({"image_url": ["https://shop.example/1.jpg"] * 100})[:200],
        "validation_error",
        ("not a readable Parquet",),
    ),
    "a gzip cut off in its header": Refused(
        gzip.compress(b"image_url\nhttp://x/")[:8],
        "source_incomplete",
        ("the gzip data break off",),
    ),
    "a gzip bomb of nothing": Refused(
        gzip.compress(ZEROS), "validation_error", ("no column with images",)
    ),
    "an Office file": Refused(
        b"\xd0\xcf\x11\xe0" + bytes(500), "unsupported_media", ("save it as CSV",), 415
    ),
}  # fmt: skip

FLAWED = {
    "mixed encodings": Flawed(
        csv_of(row("a", "café", 0), row("b", "café".encode("cp1252"), 1), row("c", "été", 2)),
        good=[1, 3],
        bad={2: ("validation_error", "line 3: bytes that are not utf-8: encodings are mixed")},
    ),
    "NUL bytes": Flawed(
        csv_of(row("a", "x", 0), row("b", "x\0y", 1), row("c", "z", 2)),
        good=[1, 3],
        bad={2: ("validation_error", "line 3: a NUL byte")},
    ),
    "a cell of 10 MB": Flawed(
        csv_of(row("a", "x", 0), row("b", "y" * 10_000_000, 1), row("c", "z", 2)),
        good=[1, 3],
        bad={2: ("validation_error", "line 3: longer than 1,048,576 characters")},
    ),
    "ids given twice": Flawed(
        csv_of(row("a", "x", 0), row("b", "y", 1), row("a", "z", 2)),
        good=[1, 2],
        bad={3: ("validation_error", "the external id stands in row 1 already")},
    ),
    "rows of another width and without a photo": Flawed(
        csv_of(row("a", "x,y", 0), lambda _: b"b,y,", row("c", "z", 2)),
        good=[3],
        bad={
            1: ("validation_error", "line 2: 4 cells where the header has 3"),
            2: ("validation_error", "'image_url' is empty"),
        },
    ),
    "a quote never closed": Flawed(
        csv_of(row("a", "x", 0), row("b", '"y', 1), row("c", "z", 2)),
        good=[1, 3],
        bad={2: ("validation_error", "line 3: ")},
    ),
    "broken JSON": Flawed(
        lambda urls: "\n".join(
            [json.dumps({"image_url": urls[0]}), '{"image_url": ', json.dumps({"image_url": {}})]
        ).encode(),
        good=[1],
        bad={
            2: ("validation_error", "line 2: no JSON"),
            3: ("validation_error", "'image_url' holds"),
        },
    ),
    "a gzip cut off": Flawed(
        lambda urls: gzip.compress(csv_of(row("a", "x", 0), row("b", "y", 1))(urls))[:-8],
        good=[1, 2],
        bad={3: ("source_incomplete", "nothing after it can be read")},
    ),
    "a gzip bomb": Flawed(
        lambda urls: gzip.compress(csv_of(row("a", "x", 0), row("b", "y", 1))(urls) + ZEROS),
        good=[1, 2],
        bad={3: ("source_too_large", "expand more than 200 times")},
    ),
}  # fmt: skip


@pytest.fixture
def urls(httpserver: HTTPServer) -> list[str]:
    for number in range(3):
        httpserver.expect_request(f"/{number}.png").respond_with_data(picture(number).data)
    return [httpserver.url_for(f"/{number}.png") for number in range(3)]


def post(client: FlaskClient, content: bytes) -> Any:
    form = {"catalogue": (io.BytesIO(content), "catalogue")}
    return client.post("/v1/ingestions", data=form, content_type="multipart/form-data")


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_and_the_error_says_why(
    client: FlaskClient, container: Container, tmp_path: Path, case: Refused
) -> None:
    answer = post(client, case.content)
    assert (answer.status_code, answer.json["code"]) == (case.status, case.code)
    path = tmp_path / "catalogue"
    path.write_bytes(case.content)
    with pytest.raises(PermanentError) as caught:
        run_ingest(container, str(path), DEFAULT_OPTIONS, IngestChoices())
    assert caught.value.code == case.code
    for message in (answer.json["detail"], caught.value.message):
        assert [part for part in case.says if part not in message] == []


@pytest.mark.parametrize("case", FLAWED.values(), ids=FLAWED)
def test_bad_rows_are_told_with_their_numbers_and_the_good_ones_are_done(
    container: Container, urls: list[str], tmp_path: Path, case: Flawed
) -> None:
    content = case.content(urls)
    answer = post(create_app(container).test_client(), content)
    assert answer.status_code == 202, answer.json
    run_worker(container, until_empty=True)
    path = tmp_path / "catalogue"
    path.write_bytes(content)
    at_a_shell = run_ingest(container, str(path), DEFAULT_OPTIONS, IngestChoices())
    store = IngestionStore(container.database)
    for ingestion_id in (answer.json["id"], at_a_shell.id):
        items = store.items(ingestion_id, 100).items
        assert [item.row for item in items if item.state == "done"] == case.good
        assert [item.row for item in items if item.state != "done"] == list(case.bad)
        for item in items:
            if item.row in case.bad:
                assert_told(item, *case.bad[item.row])


def assert_told(item: StoredItem, code: str, message: str) -> None:
    assert (item.state, item.error_code) == ("failed", code)
    assert message in (item.error_message or "")


def test_a_zip_bomb_costs_its_own_photo_and_is_not_taken_as_an_upload(
    client: FlaskClient, container: Container, tmp_path: Path
) -> None:
    path = tmp_path / "photos.zip"
    path.write_bytes(zip_of(good=picture().data, bomb=ZEROS))
    stored = run_ingest(container, str(path), DEFAULT_OPTIONS, IngestChoices())
    good, bomb = IngestionStore(container.database).items(stored.id, 10).items
    assert good.state == "done"
    assert_told(bomb, "source_too_large", "'bomb.png' expands more than 100 times")
    answer = post(client, path.read_bytes())
    assert (answer.status_code, answer.json["code"]) == (422, "validation_error")
    assert "zip" in answer.json["detail"]
