"""Any layout as one COCO file, which every annotation and training tool reads.

Format: https://cocodataset.org/#format-data. Of DeepFashion2 it holds what the official
`deepfashion2_to_coco.py` writes: category ids from 1, `area` as the box's, `image_id` as the
number in the photo's name; landmarks stay as they are, under `landmarks`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from detection.layouts import read_all
from detection.layouts.records import Findings, Instance, LabelledPhoto, LabelledSet


def convert(labelled: LabelledSet, output: Path) -> dict[str, Any]:
    """Write the COCO file and, beside it, `OUTPUT.problems.json` with all that was wrong.

    Returns how much was written and how often each problem was met. `file_name` is relative to
    the set's folder. Photos are never held in memory together.
    """
    findings = Findings()
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(output.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        counts = _write(labelled, findings, file)
    unfinished.replace(output)
    problems = output.with_suffix(".problems.json")
    problems.write_text(json.dumps(findings.as_json(), indent=1), encoding="utf-8")
    return {
        "output": str(output),
        **counts,
        "problems": {
            "count": len(findings.listed),
            "by_reason": findings.counts,
            "listed_in": str(problems),
        },
    }


def _write(labelled: LabelledSet, findings: Findings, file: TextIO) -> dict[str, int]:
    numbers = _image_numbers(labelled.photo_ids)
    classes = labelled.class_names
    images: list[dict[str, Any]] = []
    written = 0
    file.write('{"info": {}, "licenses": [], "annotations": [')
    for photo in read_all(labelled, findings, "converting"):
        images.append(_image(photo, numbers[photo.photo_id]))
        for instance in photo.instances:
            for annotation in _annotations(instance, len(classes)):
                numbered = {"id": written + 1, "image_id": numbers[photo.photo_id], **annotation}
                file.write(("," if written else "") + "\n" + json.dumps(numbered))
                written += 1
    categories = [
        {"id": number, "name": name, "supercategory": "clothes"}
        for number, name in enumerate(classes, start=1)
    ]
    file.write(f'\n],\n"categories": {json.dumps(categories)},\n"images": {json.dumps(images)}}}\n')
    return {"images": len(images), "annotations": written}


def _image(photo: LabelledPhoto, number: int) -> dict[str, Any]:
    width, height = photo.resolution_wh
    return {
        "id": number,
        "file_name": photo.file,
        "width": width,
        "height": height,
        **photo.fields,
    }


def _annotations(instance: Instance, class_count: int) -> Iterator[dict[str, Any]]:
    """One annotation; of a region that no class is judged in, a crowd of every class."""
    x1, y1, x2, y2 = instance.xyxy
    shape: dict[str, Any] = {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": instance.area,
        "iscrowd": int(instance.crowd or instance.class_id is None),
    }
    if instance.mask:
        shape["segmentation"] = instance.mask.as_coco()
    elif instance.polygons:
        shape["segmentation"] = [list(polygon) for polygon in instance.polygons]
    if instance.landmarks:
        shape["landmarks"] = list(instance.landmarks)
    owners = range(class_count) if instance.class_id is None else (instance.class_id,)
    for class_id in owners:
        yield {"category_id": class_id + 1, **shape, **instance.fields}


def _image_numbers(photo_ids: tuple[str, ...]) -> dict[str, int]:
    """The numbers in the photos' names, as long as they tell them apart; else running ones."""
    leaves = [photo_id.rsplit("/", 1)[-1] for photo_id in photo_ids]
    if all(leaf.isdigit() for leaf in leaves):
        numbers = {photo_id: int(leaf) for photo_id, leaf in zip(photo_ids, leaves, strict=True)}
        if len(set(numbers.values())) == len(numbers):
            return numbers
    return {photo_id: number for number, photo_id in enumerate(photo_ids, start=1)}
