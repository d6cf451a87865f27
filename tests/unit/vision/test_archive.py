from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vision.archive import Archive, image_names, open_archive
from vision.errors import ErrorCode, PermanentError

FILES = {
    "styles.csv": b"id\n1\n",
    "images/2.jpg": b"two",
    "images/10.JPG": b"ten",
    "images/notes.txt": b"not an image",
}
Pack = Callable[[Mapping[str, bytes]], Path]


@pytest.fixture(params=["folder", "zip"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Pack:
    """Writes files as a folder or as a zip and says where."""

    def write(files: Mapping[str, bytes]) -> Path:
        if request.param == "zip":
            path = tmp_path / "set.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            return path
        path = tmp_path / "set"
        for name, data in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return path

    return write


def contents(archive: Archive) -> dict[str, bytes]:
    return {name: archive.read(name) for name in archive.names()}


def test_a_folder_and_a_zip_hold_the_same(pack: Pack) -> None:
    path = pack(FILES)
    archive = open_archive(path)

    assert contents(archive) == FILES
    assert archive.names() == tuple(sorted(FILES))
    assert archive.path == path
    archive.close()


def test_a_path_may_be_text(pack: Pack) -> None:
    assert contents(open_archive(str(pack(FILES)))) == FILES


@pytest.mark.parametrize(
    "name", ["none.jpg", "images", "images/", "", "../set/styles.csv", "/etc/passwd"]
)
def test_only_names_of_the_archive_are_read(pack: Pack, name: str, tmp_path: Path) -> None:
    archive = open_archive(pack(FILES))
    with pytest.raises(KeyError):
        archive.read(name)


def test_the_marker_says_where_the_root_is(pack: Pack) -> None:
    """Everything in one folder, and a second marker deeper down, which is not the root."""
    wrapped = {f"set-v1/{name}": data for name, data in FILES.items()}
    archive = open_archive(pack(wrapped | {"set-v1/old/styles.csv": b""}), marker="styles.csv")

    assert contents(archive) == FILES | {"old/styles.csv": b""}
    with pytest.raises(KeyError):
        archive.read("set-v1/styles.csv")
    archive.close()


def test_a_marker_at_the_root_changes_nothing(pack: Pack) -> None:
    assert contents(open_archive(pack(FILES), marker="styles.csv")) == FILES


def test_a_file_that_only_ends_like_the_marker_is_none(pack: Pack) -> None:
    assert_invalid(pack({"mystyles.csv": b""}), "styles.csv", "holds no styles.csv")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert_invalid(tmp_path / "none", None, "does not exist")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and no more", b"a text file"])
def test_a_file_that_is_no_zip_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(data)
    assert_invalid(path, None, "set.zip is not a readable zip file")


def assert_invalid(path: Path, marker: str | None, message: str) -> None:
    with pytest.raises(PermanentError, match=message) as raised:
        open_archive(path, marker)
    assert raised.value.code is ErrorCode.DATASET_INVALID


def test_images_come_by_name_without_what_only_looks_like_one(pack: Pack) -> None:
    archive = open_archive(
        pack(
            {
                "b.webp": b"b",
                "a/c.PNG": b"c",
                "a/d.jpeg": b"d",
                "e.gif": b"e",
                "f.tiff": b"f",
                "README": b"r",
                "a/.hidden.jpg": b"h",
                "__MACOSX/a/._d.jpeg": b"m",
            }
        )
    )
    assert image_names(archive) == ("a/c.PNG", "a/d.jpeg", "b.webp", "e.gif")


def test_an_empty_archive_has_no_images(tmp_path: Path) -> None:
    assert image_names(open_archive(tmp_path)) == ()


def test_a_member_with_a_bad_checksum_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.jpg", b"good")
        archive.writestr("bad.jpg", b"12345")
    path.write_bytes(path.read_bytes().replace(b"12345", b"12346"))
    opened = open_archive(path)
    assert opened.read("good.jpg") == b"good"
    with pytest.raises(PermanentError, match=r"bad\.jpg is damaged inside set\.zip") as raised:
        opened.read("bad.jpg")
    assert raised.value.code is ErrorCode.IMAGE_CORRUPT


def test_threads_may_share_an_archive(pack: Pack) -> None:
    files = {f"{i}.jpg": bytes([i]) * 100_000 for i in range(40)}
    archive = open_archive(pack(files))
    with ThreadPoolExecutor(8) as pool:
        read = dict(zip(files, pool.map(archive.read, files), strict=True))
    assert read == files
