"""Exports out of a real Postgres, read back by the tools they are for."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from pycocotools.coco import COCO
from sqlalchemy import insert, text

from services.exports import (
    Embeddings,
    Format,
    export,
    export_file,
    format_of,
    parse_conditions,
    run_export,
)
from services.store.analyses import AnalysisStore, ImageFile
from services.store.exports import open_snapshot
from services.store.records import StoredAnalysis
from services.store.session import Database
from services.store.tables import AnalysisRow, GarmentRow, ImageRow
from vision.errors import PermanentError
from vision.garments import Colour, Garment, ImageReport, Labels, ModelVersion, Prediction, Style
from vision.rle import Rle

ROOT = Path(__file__).resolve().parents[2]
MASK = np.zeros((80, 60), np.bool_)
MASK[10:30, 5:45] = True
EMBEDDING = np.linspace(-1, 1, 256).astype(np.float16).astype(np.float32)


def garment(**changes: object) -> Garment:
    values: dict[str, object] = {
        "xyxy": (5.0, 10.0, 45.0, 30.0),
        "category": "top",
        "score": 0.75,
        "source": "detection",
        "labels": Labels(
            {
                "gender": Prediction("Women", 0.875, (("Women", 0.875), ("Girls", 0.125))),
                "article_type": Prediction("unknown", 0.25, ()),
            },
            EMBEDDING,
        ),
        "mask": Rle.encode(MASK),
        "style": Style("blouse", 0.5, {"sleeve": Prediction("long", 0.5, (("long", 0.5),))}),
        "colours": (Colour("red", "#ff0000", 0.75), Colour("white", "#ffffff", 0.25)),
    }
    return Garment(**(values | changes))  # type: ignore[arg-type]


BARE = {"category": None, "score": None, "labels": None, "mask": None, "style": None, "colours": ()}


def save(
    store: AnalysisStore, digit: str, garments: tuple[Garment, ...], key: str = "key"
) -> StoredAnalysis:
    sha256 = digit * 64
    report = ImageReport(
        image_sha256=sha256,
        resolution_wh=(60, 80),
        garments=garments,
        classified_whole=False,
        models={"detect": ModelVersion("d", "v1")},
        timings_ms={"total": 20.0},
    )
    with store.claim(sha256, key) as claim:
        stored, created = claim.save(report, ImageFile(sha256, 1234, "png"), {})
    assert created
    return stored


@pytest.fixture
def three(analyses: AnalysisStore) -> list[StoredAnalysis]:
    """Two garments and one that nothing is known of, one garment, none."""
    stored = [
        save(analyses, "a", (garment(), garment(**BARE, source="whole_image"))),
        save(analyses, "b", (garment(category="anorak", mask=None),)),
        save(analyses, "c", ()),
    ]
    analyses.add_source("a" * 64, 'SKU, "1"\n=1+1', "https://shop.example/a.jpg")
    analyses.add_source("a" * 64, "SKU-2", "https://shop.example/a.jpg")
    return stored


def exported(database: Database, form: Format, **options: object) -> bytes:
    out = io.BytesIO()
    with open_snapshot(database) as snapshot:
        export(snapshot, out, form, **options)  # type: ignore[arg-type]
    assert not out.closed
    return out.getvalue()


def test_jsonl_has_every_analysis_whole(database: Database, three: list[StoredAnalysis]) -> None:
    lines = [json.loads(line) for line in exported(database, Format.JSONL).splitlines()]
    assert [line["id"] for line in lines] == [str(stored.id) for stored in three]
    first, bare = lines[0]["garments"]
    assert first["attributes"]["gender"]["label"] == "Women"
    assert Rle(tuple(first["mask"]["size"]), first["mask"]["counts"]).decode().sum() == 800
    # Half precision comes back bit by bit.
    np.testing.assert_array_equal(np.float16(first["embedding"]), EMBEDDING.astype(np.float16))
    assert bare["embedding"] is None
    assert [source["external_id"] for source in lines[0]["image"]["sources"]] == [
        'SKU, "1"\n=1+1',
        "SKU-2",
    ]
    without = exported(database, Format.JSONL, embeddings=Embeddings.NONE)
    assert b"embedding" not in without


def test_csv_has_a_row_for_each_garment(database: Database, three: list[StoredAnalysis]) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(database, Format.CSV).decode(), newline="")))
    assert [row["garment_id"] for row in rows] == [
        str(garment_id) for stored in three for garment_id in stored.garment_ids
    ]
    first, bare, anorak = rows
    assert json.loads(first["external_ids"]) == ['SKU, "1"\n=1+1', "SKU-2"]
    assert json.loads(first["image_urls"]) == ["https://shop.example/a.jpg"]
    assert [float(first[edge]) for edge in ("x1", "y1", "x2", "y2")] == [5, 10, 45, 30]
    assert (first["gender"], first["gender_confidence"]) == ("Women", "0.875")
    assert json.loads(first["colours"])[0] == {"name": "red", "hex": "#ff0000", "share": 0.75}
    assert json.loads(first["style_attributes"])["sleeve"]["label"] == "long"
    assert (bare["category"], bare["score"], bare["mask"], bare["gender"]) == ("", "", "", "")
    assert anorak["category"] == "anorak"
    assert "embedding" not in first


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_parquet_has_typed_columns_and_exact_embeddings(
    database: Database, three: list[StoredAnalysis], precision: str
) -> None:
    content = exported(database, Format.PARQUET, embeddings=Embeddings(precision))
    table = pq.read_table(io.BytesIO(content))
    value = {"float16": pa.float16(), "float32": pa.float32()}[precision]
    assert table.schema.field("embedding").type == pa.list_(value, 256)
    assert table.schema.field("created_at").type == pa.timestamp("us", tz="UTC")
    first, bare, _ = table.to_pylist()
    np.testing.assert_array_equal(np.float32(first["embedding"]), EMBEDDING)
    assert first["created_at"] == three[0].created_at
    assert first["mask"] == Rle.encode(MASK).as_coco()
    assert first["colours"][1] == {"name": "white", "hex": "#ffffff", "share": 0.25}
    assert first["models"] == [("detect", {"name": "d", "version": "v1"})]
    assert first["style_attributes"] == [("sleeve", {"label": "long", "confidence": 0.5})]
    assert (first["ordinal"], bare["ordinal"]) == (0, 1)
    assert bare["embedding"] is None
    assert bare["mask"] is None


def test_coco_is_what_pycocotools_reads(
    database: Database, three: list[StoredAnalysis], tmp_path: Path
) -> None:
    path = tmp_path / "coco.json"
    run_export(database, path)
    coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        f"{digit * 64}.png" for digit in "abc"
    ]
    first, bare, anorak = coco.loadAnns(coco.getAnnIds())
    assert first["bbox"] == [5, 10, 40, 20]
    np.testing.assert_array_equal(coco.annToMask(first), MASK)
    assert first["area"] == MASK.sum() == 800
    assert coco.loadCats(first["category_id"])[0]["name"] == "top"
    assert coco.loadCats(anorak["category_id"])[0]["name"] == "anorak"
    assert coco.loadCats(bare["category_id"])[0]["name"] == "garment"
    assert anorak["segmentation"] == []
    assert coco.getImgIds(catIds=[anorak["category_id"]]) == [anorak["image_id"]]
    (image,) = coco.loadImgs(first["image_id"])
    assert (image["width"], image["height"]) == (60, 80)
    assert image["coco_url"] == "https://shop.example/a.jpg"


@pytest.mark.parametrize("form", list(Format))
def test_an_empty_store_gives_an_empty_but_valid_file(
    database: Database, tmp_path: Path, form: Format
) -> None:
    content = exported(database, form)
    if form is Format.JSONL:
        assert content == b""
    elif form is Format.CSV:
        assert content.count(b"\n") == 1
    elif form is Format.PARQUET:
        table = pq.read_table(io.BytesIO(content))
        assert table.num_rows == 0
        assert "embedding" in table.schema.names
    else:
        path = tmp_path / "coco.json"
        path.write_bytes(content)
        assert COCO(str(path)).getImgIds() == []


def test_a_snapshot_does_not_see_what_is_written_after_it(
    database: Database, analyses: AnalysisStore, three: list[StoredAnalysis]
) -> None:
    with open_snapshot(database) as snapshot:
        stream = iter(snapshot)
        seen = [next(stream).id]
        save(analyses, "d", (garment(),))
        # Loading garments and sources asks the database again; it must answer for the same moment.
        analyses.add_source("b" * 64, "late", None)
        rest = list(stream)
        assert snapshot.count == 3
    assert [*seen, *(stored.id for stored in rest)] == [stored.id for stored in three]
    assert rest[0].sources == ()
    with open_snapshot(database) as snapshot:
        assert snapshot.count == len(list(snapshot)) == 4


def test_later_batches_belong_to_the_same_moment(database: Database) -> None:
    """What is deleted while an export runs is still in it, garments and all."""
    fill(database, images=450)
    with open_snapshot(database) as snapshot:
        stream = iter(snapshot)
        next(stream)
        with database.session() as other:
            other.execute(text("DELETE FROM images"))
            other.commit()
        assert sum(len(stored.garment_ids) for stored in stream) == 449


def test_a_snapshot_cannot_write_and_its_connection_is_as_before(database: Database) -> None:
    with database.session() as session:
        before = session.scalar(text("SHOW transaction_isolation"))
    with open_snapshot(database) as snapshot:
        session = snapshot._session
        assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        assert session.scalar(text("SHOW transaction_read_only")) == "on"
    with database.session() as session:
        assert session.scalar(text("SHOW transaction_isolation")) == before
        assert session.scalar(text("SHOW transaction_read_only")) == "off"


def test_filters_choose_analyses(
    database: Database, analyses: AnalysisStore, three: list[StoredAnalysis]
) -> None:
    def ids(*conditions: str, **options: object) -> list[uuid.UUID]:
        with open_snapshot(database, parse_conditions(conditions), **options) as snapshot:  # type: ignore[arg-type]
            found = [stored.id for stored in snapshot]
        assert snapshot.count == len(found)
        return found

    a, b, c = (stored.id for stored in three)
    assert ids("category=anorak", "gender=Women") == [b]
    assert ids("external_id=SKU-2") == [a]
    assert ids(since=three[1].created_at) == [b, c]  # Inclusive.
    assert ids(since=three[2].created_at + timedelta(microseconds=1)) == []
    again = save(analyses, "b", (garment(),), key="newer models").id
    assert ids() == [a, b, c, again]
    assert ids(newest_only=True) == [a, c, again]
    assert ids("category=anorak", newest_only=True) == []


def test_unknown_conditions_and_names_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"'colour=red' is no condition.*base_colour"):
        parse_conditions(["colour=red"])
    with pytest.raises(PermanentError, match=r"names no format.*parquet"):
        format_of(tmp_path / "out.xlsx")


def test_gz_by_name_and_never_half_a_file(
    database: Database, three: list[StoredAnalysis], tmp_path: Path
) -> None:
    path = tmp_path / "out.csv.gz"
    count = run_export(database, path, since=datetime(2020, 1, 1))
    assert (count.analyses, count.garments) == (3, 3)
    assert gzip.decompress(path.read_bytes()) == exported(database, Format.CSV)

    def broken() -> Iterator[StoredAnalysis]:
        yield three[0]
        raise RuntimeError("the store went away")

    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="went away"):
        export_file(broken(), path, Format.CSV)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(PermanentError, match=r"leave \.gz out"):
        run_export(database, tmp_path / "out.parquet.gz")
    with pytest.raises(PermanentError, match="cannot be written: No such file"):
        run_export(database, tmp_path / "missing" / "out.csv")


def test_the_command_line_exports(
    database: Database, three: list[StoredAnalysis], tmp_path: Path
) -> None:
    def vestiary_export(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.cli", "export", *arguments],
            cwd=ROOT,
            env={**os.environ, "VESTIARY_DATABASE_URL": database.url, "COLUMNS": "240"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    finished = vestiary_export("-", "--format", "jsonl", "--where", "category=anorak")
    assert finished.returncode == 0, finished.stderr
    assert [json.loads(line)["id"] for line in finished.stdout.splitlines()] == [str(three[1].id)]
    assert "1 analyses with 1 garments" in finished.stderr
    path = tmp_path / "out.parquet"
    finished = vestiary_export(str(path), "--since", "2020-01-01", "--embeddings", "float16")
    assert finished.returncode == 0, finished.stderr
    assert pq.read_table(path).num_rows == 3
    finished = vestiary_export(str(tmp_path / "out.xlsx"))
    assert finished.returncode == 1
    assert "names no format" in finished.stderr


def test_memory_does_not_grow_with_the_store(database: Database, tmp_path: Path) -> None:
    def peaks() -> dict[Format, int]:
        return {
            form: peak_bytes(lambda form=form: run_export(database, tmp_path / form, form))
            for form in Format
        }

    fill(database, images=600)
    peaks()  # Imports and caches.
    few = peaks()
    fill(database, images=1_200)
    many = peaks()
    # A writer that held all of it would need three times as much.
    assert all(many[form] < 2 * few[form] for form in Format), (few, many)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that Python and NumPy held at once during the work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def fill(database: Database, images: int) -> None:
    """Analyses with one garment each, written in bulk."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    image_ids = [uuid.uuid4() for _ in range(images)]
    analysis_ids = [uuid.uuid4() for _ in range(images)]
    answer = {"label": "Women", "confidence": 0.5, "alternatives": [["Women", 0.5]]}
    shared = {"source": "detection", "category": "top", "score": 0.5, "x1": 0, "y1": 0, "x2": 9,
              "y2": 9, "ordinal": 0, "mask": Rle.encode(MASK).as_coco(), "colours": [],
              "attributes": {"gender": answer}, "gender": "Women",
              "embedding": EMBEDDING.tolist()}  # fmt: skip
    with database.session() as session:
        # The index of embeddings takes most of the time, and no export uses it.
        session.execute(text("DROP INDEX IF EXISTS ix_garments_embedding"))
        session.execute(
            insert(ImageRow),
            [
                {"id": id_, "sha256": id_.hex * 2, "width": 60, "height": 80, "bytes": 9,
                 "format": "png"}
                for id_ in image_ids
            ],
        )  # fmt: skip
        session.execute(
            insert(AnalysisRow),
            [
                {"id": id_, "image_id": image_id, "models": {}, "options": {}, "models_key": "key",
                 "classified_whole": False, "timings_ms": {},
                 "created_at": start + timedelta(seconds=number)}
                for number, (id_, image_id) in enumerate(zip(analysis_ids, image_ids, strict=True))
            ],
        )  # fmt: skip
        session.execute(insert(GarmentRow), [shared | {"analysis_id": id_} for id_ in analysis_ids])
        session.commit()
