"""The classes of a network trained elsewhere, and which garment class each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import Taxonomy, load_taxonomy

DEEPFASHION2 = "deepfashion2"
GARMENTS = "garments"


@dataclass(frozen=True)
class NetworkLabels:
    """names: the network's classes, in the order of its outputs. classes: what garment each is."""

    names: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The classes' indices into the taxonomy's."""
        known = load_taxonomy().garment_classes
        return tuple(known.index(name) for name in self.classes)


def read_labels(source: str) -> NetworkLabels:
    """`deepfashion2`, `garments` (the taxonomy's classes), or a text file with one name a line.

    A file's names may be the taxonomy's or DeepFashion2's, in either of its spellings.

    Raises `PermanentError` (`validation_error`) for a missing file and for unknown names.
    """
    taxonomy = load_taxonomy()
    if source == DEEPFASHION2:
        return labels_of(tuple(taxonomy.class_of_deepfashion2))
    if source == GARMENTS:
        return labels_of(taxonomy.garment_classes)
    path = Path(source)
    if not path.is_file():
        raise _invalid(f"labels: {source!r} is neither {DEEPFASHION2}, {GARMENTS} nor a file")
    lines = path.read_text(encoding="utf-8").splitlines()
    return labels_of(tuple(line.strip() for line in lines if line.strip()))


def labels_of(names: tuple[str, ...]) -> NetworkLabels:
    """The labels of these names. Raises as `read_labels` does."""
    taxonomy = load_taxonomy()
    classes = [garment_class_of(name, taxonomy) for name in names]
    unknown = [name for name, known in zip(names, classes, strict=True) if known is None]
    if unknown or not names:
        raise _invalid(
            f"labels: no garment class for {', '.join(unknown) or 'an empty list'}; known: "
            f"{', '.join((*taxonomy.garment_classes, *taxonomy.class_of_deepfashion2))}"
        )
    return NetworkLabels(names, tuple(name for name in classes if name is not None))


def garment_class_of(name: str, taxonomy: Taxonomy) -> str | None:
    """The taxonomy's class that a name stands for, None for an unknown one."""
    if name in taxonomy.garment_classes:
        return name
    category = taxonomy.deepfashion2_coco_names.get(name, name.replace("_", " "))
    return taxonomy.class_of_deepfashion2.get(category)


def _invalid(problem: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, problem)
