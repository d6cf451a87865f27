"""Which column of a catalogue means what, and a row's values as a `CatalogueRow`.

Names are compared without case, spacing, plural and number: `Image URL 2`, `imageUrl2` and
`image_urls` are all `image_url`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from services.ingestion.rows import CatalogueRow, RowProblem
from services.pipeline.urls import parse_url
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES
from vision.taxonomy import load_taxonomy

MAX_EXTERNAL_ID_CHARS = 512
"""It is indexed, and an entry of a Postgres B-tree holds 2,704 bytes."""
MAX_IMAGES = 100

# Best first: only the first family that a catalogue has is used, with all its numbered columns.
IMAGE_NAMES = (
    "image_url", "image_link", "image_src", "img_url", "img_src", "picture_url", "photo_url",
    "main_image_url", "primary_image_url", "image", "img", "picture", "photo", "main_image",
    "primary_image", "media_url", "image_path", "image_file", "file_name", "filename", "file",
    "path", "url", "src",
)  # fmt: skip
# Used besides that family.
MORE_IMAGES_NAMES = (
    "additional_image_link", "additional_image_url", "additional_image", "extra_image",
    "extra_image_url", "other_image", "other_image_url",
)  # fmt: skip
EXTERNAL_ID_NAMES = (
    "external_id", "product_id", "sku", "id", "item_id", "article_id", "article_number",
    "variant_sku", "handle", "gtin", "ean", "asin",
)  # fmt: skip
PRODUCT_URL_NAMES = (
    "product_url", "product_link", "product_page", "page_url", "link", "canonical_url", "url",
)  # fmt: skip
HINT_NAMES = {
    "gender": ("gender", "sex"),
    "master_category": ("master_category",),
    "sub_category": ("sub_category", "subcategory"),
    "article_type": ("article_type",),
    "base_colour": ("base_colour", "base_color", "colour", "color"),
    "season": ("season",),
    "usage": ("usage",),
}
FIELDS = ("image_url", "external_id", "product_url", *ATTRIBUTES)
"""What an explicit mapping may name."""

# Words that catalogues use for the taxonomy's labels.
_LABEL_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "gender": {
        "Men": ("male", "man", "mens", "m", "gents"),
        "Women": ("female", "woman", "womens", "ladies", "f", "w"),
        "Boys": ("boy",),
        "Girls": ("girl",),
        "Unisex": ("uni",),
    },
    "base_colour": {"Grey": ("gray",)},
    "season": {"Fall": ("autumn",)},
}
# URLs hold commas, bars and semicolons, so what parts two of them must be followed by a scheme.
# A comma parts them only where a column's name promises several: image CDNs put URLs into URLs.
_URLS_IN_CELL = re.compile(r"[\s;|]+(?=https?://)", re.IGNORECASE)
_URLS_IN_LIST = re.compile(r"[\s,;|]+(?=https?://)", re.IGNORECASE)
_PATHS_IN_LIST = re.compile(r"\s*[,;|]\s*")
# A part of what `parse_url` takes, told in a tenth of its time; the rest is left to it.
_PLAIN_URL = re.compile(
    r"https?://(?:[a-z0-9](?:[a-z0-9-]{0,28}[a-z0-9])?\.){1,7}[a-z]{2,24}"
    r"(?:/[!#-\[\]^_`a-z{|}~]{0,2000})?",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class ColumnMap:
    """images: columns with one or several images each. hints: attribute → column."""

    images: tuple[str, ...]
    external_id: str | None = None
    product_url: str | None = None
    hints: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        optional = (self.external_id, self.product_url, *self.hints.values())
        return tuple(dict.fromkeys((*self.images, *(name for name in optional if name))))


class _RowError(Exception):
    def __init__(self, message: str, code: ErrorCode = ErrorCode.VALIDATION_ERROR) -> None:
        super().__init__(message)
        self.code = code


def map_columns(
    names: Sequence[str], explicit: Mapping[str, str | Sequence[str]] | None = None
) -> ColumnMap:
    """Recognise columns by name; `explicit` (field → column, or columns for `image_url`) wins.

    Raises `PermanentError` (`validation_error`), which lists what was seen and what is needed.
    """
    chosen = _check_explicit(names, explicit or {})
    free = [name for name in names if name and not any(name in taken for taken in chosen.values())]
    images = chosen.get("image_url") or _image_columns(free)
    if not images:
        raise _no_image_column(names)
    free = [name for name in free if name not in images]

    def column(target: str, synonyms: Iterable[str]) -> str | None:
        return chosen[target][0] if target in chosen else _first(free, synonyms)

    hints = {attribute: column(attribute, HINT_NAMES[attribute]) for attribute in ATTRIBUTES}
    return ColumnMap(
        images=images,
        external_id=column("external_id", EXTERNAL_ID_NAMES),
        product_url=column("product_url", PRODUCT_URL_NAMES),
        hints={attribute: name for attribute, name in hints.items() if name is not None},
    )


def has_image_column(names: Sequence[str], explicit: Mapping[str, Any] | None = None) -> bool:
    """Whether a line with these cells can be a header."""
    wanted = (explicit or {}).get("image_url")
    if wanted is not None:
        return {wanted} <= set(names) if isinstance(wanted, str) else set(wanted) <= set(names)
    return bool(_image_columns(names))


def read_row(
    row_number: int, values: Mapping[str, Any], columns: ColumnMap, image_root: Path | None
) -> CatalogueRow | RowProblem:
    """A row's values (text, numbers, lists of text; missing columns are empty) as a record.

    image_root: folder that paths are relative to and may not leave; None allows URLs only.
    """
    try:
        external_id = _text(values, columns.external_id)
        if external_id is not None and len(external_id) > MAX_EXTERNAL_ID_CHARS:
            raise _RowError(f"the external id is longer than {MAX_EXTERNAL_ID_CHARS} characters")
        return CatalogueRow(
            row_number=row_number,
            external_id=external_id,
            image_refs=_image_refs(values, columns.images, image_root),
            product_url=_text(values, columns.product_url),
            hints=_hints(values, columns.hints),
        )
    except _RowError as error:
        return RowProblem(row_number, error.code, str(error))


def local_ref(path: Path, root: Path) -> str:
    """The `file://` reference of a path, absolute or relative to `root`, that lies in `root`.

    Raises `PermanentError` (`source_unreachable`) when it leads elsewhere or there is no file.
    """
    try:
        found = (root / path).resolve()
        inside = found.is_relative_to(root.resolve()) and found.is_file()
    except (OSError, ValueError) as error:  # A name too long, a loop of links.
        raise PermanentError(ErrorCode.SOURCE_UNREACHABLE, "no such file") from error
    if not inside:
        raise PermanentError(
            ErrorCode.SOURCE_UNREACHABLE, "no such file beside the catalogue or below"
        )
    return found.as_uri()


def _check_explicit(
    names: Sequence[str], explicit: Mapping[str, str | Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    chosen = {
        target: (wanted,) if isinstance(wanted, str) else tuple(wanted)
        for target, wanted in explicit.items()
    }
    for target, wanted in chosen.items():
        if target not in FIELDS:
            raise _invalid(f"{target!r} cannot be mapped; what can: {', '.join(FIELDS)}")
        if not wanted or (len(wanted) > 1 and target != "image_url"):
            raise _invalid(f"{target!r} takes one column")
        for name in wanted:
            if name not in names:
                raise _invalid(f"there is no column {name!r}; the catalogue has {_listed(names)}")
    return chosen


def _image_columns(names: Sequence[str]) -> tuple[str, ...]:
    more = set(MORE_IMAGES_NAMES)
    for family in IMAGE_NAMES:
        if any(_family(name) == family for name in names):
            return tuple(name for name in names if _family(name) in {family, *more})
    return tuple(name for name in names if _family(name) in more)


def _first(names: Sequence[str], synonyms: Iterable[str]) -> str | None:
    found = {_normalised(name): name for name in reversed(names)}
    return next((found[synonym] for synonym in synonyms if synonym in found), None)


@lru_cache(maxsize=4096)
def _normalised(name: str) -> str:
    """`imageUrl`, `Image URL` and ` image-url ` alike as `image_url`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", words).strip("_").lower()


def _unnumbered(name: str) -> str:
    return re.sub(r"_?\d+$", "", _normalised(name))


@lru_cache(maxsize=4096)
def _family(name: str) -> str:
    """The normalised name without number and plural: `image_urls_2` is `image_url`."""
    return _unnumbered(name).removesuffix("s")


@lru_cache(maxsize=4096)
def _promises_several(name: str) -> bool:
    return _family(name) in MORE_IMAGES_NAMES or _unnumbered(name).endswith("s")


def _no_image_column(names: Sequence[str]) -> PermanentError:
    return _invalid(
        f"no column with images: saw {_listed(names)}; needs a header with one of "
        f"{', '.join(IMAGE_NAMES[:3])}, image, images, picture, photo or url (numbered for "
        "several), or a mapping of image_url to a column"
    )


def _invalid(message: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, message)


def _listed(names: Sequence[str]) -> str:
    """Names for a message; they come from a stranger's file and may be anything."""
    shown = [repr(name if len(name) <= 60 else name[:57] + "…") for name in names[:20]]
    rest = [f"{len(names) - 20} more"] if len(names) > 20 else []
    return ", ".join(shown + rest) or "nothing"


def _text(values: Mapping[str, Any], column: str | None) -> str | None:
    """A cell as text; None when empty. Numbers are ids that some tool took for numbers."""
    value = None if column is None else values.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _RowError(f"{column!r} holds {type(value).__name__}, not text")
    if _UNSTORABLE.search(value):
        raise _RowError(f"{column!r} holds a NUL or half a character")
    return value.strip() or None


def _image_refs(
    values: Mapping[str, Any], columns: Sequence[str], image_root: Path | None
) -> tuple[str, ...]:
    refs = dict.fromkeys(
        _image_ref(part, image_root)
        for column in columns
        for part in _parts(column, values.get(column))
    )
    if not refs:
        raise _RowError(f"no image: {_listed(columns)} {'are' if len(columns) > 1 else 'is'} empty")
    if len(refs) > MAX_IMAGES:
        raise _RowError(f"{len(refs)} images, more than the {MAX_IMAGES} a row may have")
    return tuple(refs)


def _parts(column: str, value: Any) -> list[str]:
    """The images in one cell: text, a list of text, or JSON of such a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json_list(value)
    if isinstance(value, (list, tuple)):
        parts = [_text({column: _url_of(item)}, column) for item in value]
        return [part for part in parts if part]
    text = _text({column: value}, column)
    if text is None:
        return []
    several = _promises_several(column)
    if several and _SCHEME.match(text) is None:
        return [part for part in _PATHS_IN_LIST.split(text) if part]
    return (_URLS_IN_LIST if several else _URLS_IN_CELL).split(text)


def _url_of(item: Any) -> Any:
    """Shops write images as objects: `{"src": …}` or `{"url": …}`."""
    return item.get("url", item.get("src")) if isinstance(item, dict) else item


def _json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _image_ref(text: str, image_root: Path | None) -> str:
    if _PLAIN_URL.fullmatch(text):
        return text
    try:
        if image_root is not None and _SCHEME.match(text) is None:
            return local_ref(Path(text), image_root)
        parse_url(text)
    except PermanentError as error:
        raise _RowError(error.message, error.code) from error
    return text


def _hints(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    hints = {}
    for attribute, column in columns.items():
        value = values.get(column)
        label = _labels(attribute).get(_word(value)) if isinstance(value, str) else None
        if label is not None:
            hints[attribute] = label
    return hints


@cache
def _labels(attribute: str) -> Mapping[str, str]:
    """Word → label of the taxonomy."""
    labels = {_word(label): label for label in load_taxonomy().labels_of(attribute)}
    for label, words in _LABEL_WORDS.get(attribute, {}).items():
        if label in labels.values():
            labels |= dict.fromkeys(words, label)
    return labels


def _word(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()
