"""Folders and zips of photos."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import pytest

from services.ingestion.formats import Format
from services.ingestion.photos import LocalImages
from services.ingestion.rows import CatalogueRow, RowProblem
from services.ingestion.sources import open_catalogue
from tests.pictures import picture
from vision.errors import ErrorCode, PermanentError
from vision.image import decode

MAX_BYTES = 1_000_000


def read(path: Path) -> list[CatalogueRow | RowProblem]:
    with open_catalogue(path) as catalogue:
        return list(catalogue)


def refused(path: Path) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        read(path)
    return caught.value


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, bytes]:
    return {
        name: picture(i).data for i, name in enumerate(["a b#1?.png", "sub/ä%20.jpg", "z.webp"])
    }


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    root = tmp_path / "photos"
    for name, data in photos.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_folders_photos_are_rows_and_can_be_read(folder: Path, photos: dict[str, bytes]) -> None:
    (folder / ".hidden.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no photo")
    rows = read(folder)
    # Files of a folder come before those of the folders in it.
    assert [row.external_id for row in rows] == ["a b#1?.png", "z.webp", "sub/ä%20.jpg"]
    with LocalImages(MAX_BYTES) as images:
        for row in rows:
            encoded = images.read(row.image_refs[0])
            assert encoded.data == photos[row.external_id]
            assert decode(encoded).resolution_wh == (60, 80)


def test_a_zips_photos_are_rows_and_can_be_read(tmp_path: Path, photos: dict[str, bytes]) -> None:
    path = write_zip(tmp_path / "my photos.zip", photos | {"read.me": b"", "__MACOSX/x.jpg": b""})
    with open_catalogue(path) as catalogue:
        assert catalogue.format is Format.ZIP
        rows = list(catalogue)
    assert [row.external_id for row in rows] == list(photos)
    with LocalImages(MAX_BYTES) as images:
        assert [images.read(row.image_refs[0]).data for row in rows] == list(photos.values())


def test_photos_that_cannot_be_read_are_problems(folder: Path) -> None:
    (folder / "old.TIFF").write_bytes(b"II*")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    problems = [row for row in read(folder) if isinstance(row, RowProblem)]
    assert [(p.row_number, p.code) for p in problems] == [
        (2, ErrorCode.UNSUPPORTED_MEDIA),
        (4, ErrorCode.VALIDATION_ERROR),
    ]


def test_bombs_encrypted_and_repeated_members_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(20_000_000))
        archive.writestr("good.png", picture().data)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("good.png", picture(1).data)
        archive.writestr("secret.png", picture().data)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1  # The last member's "encrypted" flag.
    path.write_bytes(content)
    rows = read(path)
    assert [getattr(row, "code", "good") for row in rows] == [
        ErrorCode.SOURCE_TOO_LARGE,
        ErrorCode.VALIDATION_ERROR,
        "good",
        ErrorCode.UNSUPPORTED_MEDIA,
    ]
    with LocalImages(MAX_BYTES) as images:
        assert images.read(rows[2].image_refs[0]).data == picture(1).data


def test_a_member_larger_than_it_says_is_cut_off(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "z.zip", {"a.jpg": os.urandom(MAX_BYTES + 1)})
    (row,) = read(path)
    with LocalImages(MAX_BYTES) as images, pytest.raises(PermanentError) as caught:
        images.read(row.image_refs[0])
    assert caught.value.code is ErrorCode.SOURCE_TOO_LARGE


def test_what_has_gone_or_is_damaged_is_an_error_with_a_code(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "z.zip", {"a.jpg": b"0123456789", "b.jpg": b"b"})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0123456789", b"0123456780", 1))  # The checksum is wrong now.
    base = path.as_uri()
    codes = {}
    with LocalImages(MAX_BYTES) as images:
        for ref in (f"{base}#a.jpg", f"{base}#none.jpg", (tmp_path / "none.jpg").as_uri()):
            with pytest.raises(PermanentError) as caught:
                images.read(ref)
            codes[ref.rpartition("/")[2]] = caught.value.code
        assert images.read(f"{base}#b.jpg").data == b"b"
    assert codes == {
        "z.zip#a.jpg": ErrorCode.SOURCE_INCOMPLETE,
        "z.zip#none.jpg": ErrorCode.SOURCE_UNREACHABLE,
        "none.jpg": ErrorCode.SOURCE_UNREACHABLE,
    }


def test_a_zip_with_a_huge_list_of_members_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "z.zip", {"a.jpg": b"a"})
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.rindex(b"PK\5\6") + 12, 0xF0000000)
    path.write_bytes(content)
    assert refused(path).code is ErrorCode.SOURCE_TOO_LARGE


def test_folders_and_zips_without_photos_and_office_files_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no photos in the folder" in refused(empty).message
    assert "no photos in the zip" in refused(write_zip(tmp_path / "z", {"a.csv": b"a"})).message
    workbook = write_zip(tmp_path / "x.xlsx", {"[Content_Types].xml": b"", "xl/workbook.xml": b""})
    assert refused(workbook).code is ErrorCode.UNSUPPORTED_MEDIA
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\3\4" + bytes(100))
    assert "not a readable zip" in refused(broken).message


def test_a_zip_is_not_read_from_a_stream(tmp_path: Path, photos: dict[str, bytes]) -> None:
    content = write_zip(tmp_path / "z.zip", photos).read_bytes()
    with (
        pytest.raises(PermanentError, match="from a file on disk"),
        open_catalogue(io.BytesIO(content)),
    ):
        pass
