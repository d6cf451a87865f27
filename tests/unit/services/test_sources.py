"""Catalogues as files of every format, good and bad."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import threading
import zipfile
from pathlib import Path
from random import Random

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from services.ingestion.formats import Format
from services.ingestion.rows import CatalogueRow, RowProblem
from services.ingestion.sources import ReadOptions, open_catalogue, rows_of_items
from services.ingestion.streams import GZIP_GRACE_BYTES, HEAD_BYTES
from services.ingestion.text import MAX_LINE_CHARS
from vision.errors import ErrorCode, PermanentError

DEFAULT = ReadOptions()


def url(number: int) -> str:
    return f"https://shop.example/{number}.jpg"


def read(source: bytes | Path, options: ReadOptions = DEFAULT) -> list[CatalogueRow | RowProblem]:
    with open_catalogue(
        source if isinstance(source, Path) else io.BytesIO(source), options
    ) as catalogue:
        return list(catalogue)


def refused(source: bytes | Path, options: ReadOptions = DEFAULT) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        read(source, options)
    return caught.value


def good(rows: list[CatalogueRow | RowProblem]) -> list[int]:
    return [row.row_number for row in rows if isinstance(row, CatalogueRow)]


def bad(rows: list[CatalogueRow | RowProblem]) -> dict[int, str]:
    return {row.row_number: row.message for row in rows if isinstance(row, RowProblem)}


def parquet(columns: dict[str, object], **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


ROW = CatalogueRow(1, "A1", (url(1), url(2)), "https://shop.example/p", {"gender": "Women"})
CELLS = {
    "SKU": "A1",
    "Image URL 1": url(1),
    "Image URL 2": url(2),
    "link": "https://shop.example/p",
    "Gender": "female",
}
TABLE = f"{','.join(CELLS)}\n{','.join(CELLS.values())}\n"
JSON_LINE = json.dumps(
    {"sku": "A1", "images": [url(1), {"src": url(2)}], "link": ROW.product_url, "sex": "Ladies"}
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_and_encoding_are_found_out(delimiter: str, encoding: str) -> None:
    text = TABLE.replace(",", delimiter).replace("A1", "Größe 5 é")
    (row,) = read(text.encode(encoding))
    assert row == CatalogueRow(1, "Größe 5 é", ROW.image_refs, ROW.product_url, ROW.hints)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_are_read(newline: str) -> None:
    assert read(TABLE.replace("\n", newline).encode()) == [ROW]


def test_excels_separator_line_and_blank_lines_stand_above_the_header() -> None:
    assert read(f"sep=;\n\n{TABLE.replace(',', ';')}".encode()) == [ROW]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (TABLE.encode(), Format.CSV),
        (JSON_LINE.encode(), Format.JSONL),
        (parquet({name: [cell] for name, cell in CELLS.items()}), Format.PARQUET),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("by_path", [False, True])
def test_formats_are_told_by_content(
    tmp_path: Path, content: bytes, form: Format, zipped: bool, by_path: bool
) -> None:
    content = gzip.compress(content) if zipped else content
    path = tmp_path / "upload"
    path.write_bytes(content)
    with open_catalogue(path if by_path else io.BytesIO(content)) as catalogue:
        assert catalogue.format is form
        assert list(catalogue) == [ROW]


def test_a_pipe_that_trickles_is_read() -> None:
    reading, writing = os.pipe()

    def trickle() -> None:
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            for start in range(0, len(TABLE), 7):
                pipe.write(TABLE[start : start + 7].encode())

    thread = threading.Thread(target=trickle)
    thread.start()
    with open(reading, "rb") as pipe, open_catalogue(pipe) as catalogue:  # noqa: PTH123
        assert list(catalogue) == [ROW]
    thread.join()


def test_parquet_is_read_from_a_stream_that_cannot_seek() -> None:
    class Upload(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            return self._data.readinto(buffer)

    content = parquet({"id": [7, 8], "images": [[url(1), url(2)], None]})
    with open_catalogue(Upload(content)) as catalogue:
        rows = list(catalogue)
    assert rows[0] == CatalogueRow(1, "7", (url(1), url(2)), None, {})
    assert bad(rows) == {2: "no image: 'images' is empty"}


def test_lines_of_urls_need_no_header() -> None:
    rows = read(f"{url(1)}\n# comment\n\n{url(2)}\nnot a url\n".encode())
    assert [row.row_number for row in rows] == [1, 2, 3]
    assert good(rows) == [1, 2]
    assert rows[2].code is ErrorCode.INVALID_URL


def test_a_list_from_a_request_is_read() -> None:
    items = [url(1), {"image_url": url(2), "external_id": 5}, {"foo": 1}, "file:///etc/passwd"]
    rows = list(rows_of_items(items))
    assert rows[:2] == [
        CatalogueRow(1, None, (url(1),), None, {}),
        CatalogueRow(2, "5", (url(2),), None, {}),
    ]
    assert "saw 'foo'" in rows[2].message
    assert rows[3].code is ErrorCode.INVALID_URL


# What is wrong with a whole catalogue.


def test_wrong_columns_are_listed_with_what_is_needed() -> None:
    for content in (b"name,price\na,1\n", b'{"name": "a", "price": 1}\n',
                    parquet({"name": ["a"], "price": [1]})):  # fmt: skip
        error = refused(content)
        assert error.code is ErrorCode.VALIDATION_ERROR
        assert "saw 'name', 'price'" in error.message
        assert "image_url" in error.message


def test_a_missing_header_is_noticed(tmp_path: Path) -> None:
    assert "needs a header" in refused(f"A1,{url(1)}\nA2,{url(2)}\n".encode()).message
    path = tmp_path / "one-column.csv"
    path.write_text(f"{url(1)}\n{url(2)}\n")
    assert "needs a header" in refused(path).message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"id,image_url\n",
        b"id,image_url\n\n,\n",
        parquet({"image_url": pa.array([], pa.string())}),
        gzip.compress(b""),
        gzip.compress(b"image_url\n"),
    ],
)
def test_zero_rows_are_an_error(content: bytes) -> None:
    error = refused(content)
    assert error.code is ErrorCode.VALIDATION_ERROR
    assert "no rows" in error.message or "empty" in error.message


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a photo"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"[" + JSON_LINE.encode() + b"]", "JSON array"),
        (b"<!doctype html><html>", "HTML"),
        (bytes(range(1, 30)) * 50, "no known format"),
        (gzip.compress(gzip.compress(TABLE.encode())), "gzip within gzip"),
    ],
)
def test_unknown_formats_are_named(content: bytes, what: str) -> None:
    error = refused(content)
    assert error.code is ErrorCode.UNSUPPORTED_MEDIA
    assert what in error.message
    assert "Parquet" in error.message


def test_a_folder_where_a_file_is_expected_and_no_file_at_all(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path, ReadOptions(format=Format.CSV)).message
    error = refused(tmp_path / "missing.csv")
    assert (error.code, error.message) == (
        ErrorCode.SOURCE_UNREACHABLE,
        f"{tmp_path / 'missing.csv'}: no such file or directory",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_url": [1, 2]}, "column 'image_url' is int64; it must be text or a list of text"),
        ({"image_url": ["a"], "id": [1.5]}, "column 'id' is double; it must be text or integers"),
        ({"image_url": ["a"], "gender": [1]}, "column 'gender' is int64; it must be text"),
    ],
)
def test_a_parquet_column_of_a_wrong_type_is_named(values: dict[str, object], message: str) -> None:
    assert refused(parquet(values)).message == message


def test_half_a_parquet_file_is_refused() -> None:
    content = parquet({"image_url": [url(i) for i in range(1000)]})
    assert "not a readable Parquet" in refused(content[: len(content) // 2]).message


def test_unknown_encodings_and_delimiters_are_refused() -> None:
    assert "is no encoding" in refused(TABLE.encode(), ReadOptions(encoding="klingon")).message
    assert "delimiter" in refused(TABLE.encode(), ReadOptions(delimiter="::")).message


# What is wrong with a row.


def numbered(*rows: str, header: str = "id,name,image_url") -> bytes:
    return "\n".join([header, *rows, ""]).encode()


def test_a_quote_never_closed_costs_one_row() -> None:
    rows = read(
        numbered(
            f'1,"open,{url(1)}',
            f"2,b,{url(2)}",
            f'3,"Shirt, red",{url(3)}',
            f'4,"two\nlines, ""quoted""",{url(4)}',
            f'5,"a "b" c",{url(5)}',
            f'6,"never closed,{url(6)}',
            f"7,last,{url(7)}",
        )
    )
    assert good(rows) == [2, 3, 4, 7]
    assert sorted(bad(rows)) == [1, 5, 6]
    assert bad(rows)[5].startswith("line 7: quotes are out of place")  # Row 4 has two lines.


def test_a_quote_never_closed_in_a_long_file_costs_one_row() -> None:
    rest = [f"{number},name,{url(number)}" for number in range(2, 60_000)]
    assert len("\n".join(rest)) > 2 * MAX_LINE_CHARS
    rows = read(numbered(f'1,"open,{url(1)}', *rest))
    assert bad(rows) == {1: "line 2: a quote is opened and never closed"}
    assert len(rows) == 59_999


@pytest.mark.parametrize(
    "cell", ["x" * 10_000_000, '"' + "text, more text\n" * 650_000 + '"'], ids=["line", "lines"]
)
def test_a_cell_of_ten_megabytes_costs_its_row(cell: str) -> None:
    rows = read(numbered(f"1,a,{url(1)}", f"2,{cell},{url(2)}", f"3,c,{url(3)}"))
    assert good(rows) == [1, 3]
    assert bad(rows) == {2: "line 3: longer than 1,048,576 characters"}


def test_a_cell_of_ten_megabytes_costs_its_row_in_jsonl_and_parquet() -> None:
    images = [url(1), "x" * 10_000_000, url(3)]
    lines = "\n".join(json.dumps({"image_url": image}) for image in images)
    for content in (lines.encode(), parquet({"image_url": images})):
        rows = read(content)
        assert good(rows) == [1, 3]
        assert "longer than 1,048,576 characters" in bad(rows)[2]


def test_a_parquet_bomb_of_one_cell_repeated_is_refused() -> None:
    cells = pa.DictionaryArray.from_arrays(
        pa.array([0] * 500_000, pa.int32()), ["https://a.example/" + "x" * 100_000]
    )
    content = parquet({"image_url": cells})
    assert len(content) < 1_000_000  # 50 GB when expanded.
    (row,) = read(content)
    assert row == RowProblem(
        1, ErrorCode.SOURCE_TOO_LARGE, "rows 1 to 500000 cannot be read: the row group is too large"
    )


def test_nul_bytes_and_mixed_encodings_cost_their_rows() -> None:
    content = b"".join(
        [
            b"id,name,image_url\n",
            f"1,café,{url(1)}\n".encode(),
            f"2,café,{url(2)}\n".encode("cp1252"),
            f"3,a\0b,{url(3)}\n".encode(),
            f"4,été,{url(4)}\n".encode(),
        ]
    )
    rows = read(content)
    assert good(rows) == [1, 4]
    assert bad(rows) == {
        2: "line 3: bytes that are not utf-8: encodings are mixed",
        3: "line 4: a NUL byte",
    }


def test_utf_8_in_a_file_of_latin_1_costs_its_row() -> None:
    old = "".join(f"{i},Größe é,{url(i)}\n" for i in range(1, 4)).encode("latin-1")
    rows = read(b"id,name,image_url\n" + old + f"4,café,{url(4)}\n".encode())
    assert good(rows) == [1, 2, 3]
    assert bad(rows) == {4: "line 5: UTF-8 in a file of cp1252: encodings are mixed"}


def test_rows_of_another_length_and_rows_without_an_image_are_problems() -> None:
    rows = read(
        numbered("1,a", f"2,b,{url(2)},extra", "3,c,", f"4,d,{url(4)}", "5,e,ftp://x/y.jpg")
    )
    assert good(rows) == [4]
    assert bad(rows) == {
        1: "line 2: 2 cells where the header has 3",
        2: "line 3: 4 cells where the header has 3",
        3: "no image: 'image_url' is empty",
        5: "the URL must start with http:// or https://",
    }


def test_lines_that_are_no_json_object_are_problems() -> None:
    lines = [
        JSON_LINE,
        "{",
        "[1]",
        '{"images": 5}',
        '{"images": "https://x.test/\\u0000"}',
        "",
        "x",
    ]
    rows = read("\n".join(lines).encode())
    assert good(rows) == [1]
    assert sorted(bad(rows)) == [2, 3, 4, 5, 6]
    assert bad(rows)[3] == "line 3: a JSON list, not an object"
    assert bad(rows)[6].startswith("line 7: no JSON")


def test_deeply_nested_json_is_one_problem() -> None:
    rows = read(f"{JSON_LINE}\n{'[' * 100_000}\n".encode())
    assert good(rows) == [1]
    assert sorted(bad(rows)) == [2]


def test_external_ids_given_twice_are_reported_or_kept() -> None:
    content = numbered(
        f"A,x,{url(1)}", f"B,x,{url(2)}", f"A,x,{url(3)}", f",x,{url(4)}", f",x,{url(4)}"
    )
    rows = read(content)
    assert good(rows) == [1, 2, 4, 5]  # Rows without an id repeat none.
    assert bad(rows) == {3: "the external id stands in row 1 already"}
    assert good(read(content, ReadOptions(repeats="keep"))) == [1, 2, 3, 4, 5]


# Damage in the middle.


@pytest.mark.parametrize("count", [100, 100_000], ids=["within the head", "after the head"])
def test_rows_before_a_truncated_gzips_end_are_done(count: int) -> None:
    text = "id,image_url\n" + "".join(f"{i},{url(i * i)}\n" for i in range(1, count + 1))
    assert (len(text) > HEAD_BYTES) == (count > 100)
    packed = gzip.compress(text.encode())
    rows = read(packed[: len(packed) * 2 // 3])
    *done, last = rows
    assert good(rows) == list(range(1, len(rows)))
    assert 0.5 * count < len(done) < count
    assert (last.row_number, last.code) == (len(rows), ErrorCode.SOURCE_INCOMPLETE)


def test_a_gzip_with_a_wrong_checksum_ends_in_a_problem() -> None:
    packed = bytearray(gzip.compress(TABLE.encode()))
    packed[-8] ^= 1
    row, last = read(bytes(packed))
    assert row == ROW
    assert (last.row_number, last.code) == (2, ErrorCode.SOURCE_INCOMPLETE)


def test_a_gzip_bomb_is_stopped_after_the_rows_before_it() -> None:
    content = gzip.compress(TABLE.encode() + bytes(4 * GZIP_GRACE_BYTES))
    assert len(content) < 100_000
    row, last = read(content)
    assert row == ROW
    assert last.code is ErrorCode.SOURCE_TOO_LARGE


def test_a_damaged_row_group_costs_only_its_rows() -> None:
    urls = [url(number) for number in range(300)]
    options = {"row_group_size": 100, "use_dictionary": False, "compression": "gzip"}
    content = bytearray(parquet({"image_url": urls}, **options))
    second = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(1).column(0)
    middle = second.data_page_offset + second.total_compressed_size // 2
    content[middle : middle + 20] = bytes(20)
    rows = read(bytes(content))
    assert good(rows) == [*range(1, 101), *range(201, 301)]
    assert list(bad(rows)) == [101]
    assert bad(rows)[101].startswith("rows 101 to 200 cannot be read")


def damaged(content: bytes, random: Random) -> bytes:
    data = bytearray(content)
    for _ in range(random.randint(1, 6)):
        place = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0:
                data[place : place + 1] = bytes([random.choice([0, 10, 34, 44, 255])])
            case 1:
                data[place : place + 1] = random.randbytes(1)
            case 2:
                del data[place : place + random.randrange(30)]
            case 3:
                data[place:place] = random.randbytes(5)
    return bytes(data)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", ["csv", "utf-16", "gzip", "jsonl", "parquet", "zip"])
def test_damage_anywhere_is_reported_and_never_anything_worse(
    tmp_path: Path, form: str, seed: int
) -> None:
    table = TABLE + "".join(f'"A,{i}",{url(i)},,,"é\n"\n' for i in range(50))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for number in range(5):
            members.writestr(f"{number}.jpg", bytes([number]) * 50)
    content = {
        "csv": table.encode(),
        "utf-16": table.encode("utf-16"),
        "gzip": gzip.compress(table.encode()),
        "jsonl": "\n".join([JSON_LINE] * 20).encode(),
        "parquet": parquet({"id": list(range(300)), "images": [[url(1)]] * 300}, row_group_size=99),
        "zip": archive.getvalue(),
    }[form]
    random = Random(seed)
    path = tmp_path / "catalogue"
    for _ in range(60):
        path.write_bytes(damaged(content, random))
        with contextlib.suppress(PermanentError):
            numbers = [row.row_number for row in read(path)]
            assert numbers
            assert numbers == sorted(set(numbers))


# Files beside the catalogue.


def test_paths_lead_to_files_beside_the_catalogue_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "photos").mkdir(parents=True)
    for name in ("a b.jpg", "c.jpg"):
        (folder / "photos" / name).write_bytes(b"photo")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    catalogue = folder / "catalogue.csv"
    catalogue.write_bytes(
        numbered("1;photos/a b.jpg|photos/c.jpg", "2;../secret.jpg", "3;link.jpg", "4;missing.jpg",
                 f"5;{tmp_path}/secret.jpg", "6;file:///etc/passwd", header="id;images")
    )  # fmt: skip
    rows = read(catalogue)
    assert rows[0].image_refs == (
        (folder / "photos" / "a b.jpg").as_uri(),
        (folder / "photos" / "c.jpg").as_uri(),
    )
    assert [row.code for row in rows[1:]] == [ErrorCode.SOURCE_UNREACHABLE] * 4 + [
        ErrorCode.INVALID_URL
    ]
    uploaded = read(catalogue.read_bytes())
    assert good(uploaded) == []  # An upload cannot name files of the server.


# Memory.


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    count = 200_000
    path = tmp_path / "large.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "image_url"])
        writer.writerows([f"SKU-{i}", "Dress, red " * 10, url(i)] for i in range(count))
    assert path.stat().st_size > 30_000_000
    process = psutil.Process()
    read(TABLE.encode())
    before = process.memory_info().rss
    peak = before
    with open_catalogue(path) as catalogue:
        for row in catalogue:
            assert isinstance(row, CatalogueRow)
            if row.row_number % 1000 == 0:
                peak = max(peak, process.memory_info().rss)
    assert row.row_number == count
    assert peak - before < 25 * 1024 * 1024
