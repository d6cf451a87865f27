"""Scores of a bundle on labelled photos of any layout; runs without any training framework.

What the figures are is in `classification.scores`; `classification.report` shows them on a page.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from classification.config import HOME_PHOTOS, STREET_PHOTOS
from classification.datasets import Sample, Skipped
from classification.fashion_mnist import T10K
from classification.heads import COLOUR_GROUP, head_of, known_heads
from classification.photos import Photos, open_photos
from classification.postprocess import TREE_LEVELS, Decoder, marginals
from classification.predictor import AttributeClassifier
from classification.scores import (
    Answers,
    HeadAnswers,
    contradictions,
    head_scores,
    label_set_scores,
)
from training.split import DEFAULT_FRACTIONS
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import Taxonomy, load_taxonomy

# The base colour's answers in groups; a figure only, not a head.
GROUPED = "base_colour_grouped"
SPLITS = (*DEFAULT_FRACTIONS, T10K, "all")
# Their labels are their own, each standing for several of ours.
COARSE_LAYOUTS = (HOME_PHOTOS, STREET_PHOTOS)
_CHUNK = 256
# What a bundle's metadata do without, see `brief`.
_DETAILS = ("per_class", "most_confused", "at_thresholds")

Logits = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A bundle's answers on one split of a data set. skipped: rows and images that no answer was
    asked for. given: the heads whose right label each photo's answer was given as a hint.
    """

    bundle: Bundle
    photos: Photos
    split: str
    answers: Answers
    skipped: tuple[Skipped, ...]
    given: tuple[str, ...] = ()


def evaluate(bundle: Bundle, data: Path, split: str = "all", threads: int = 0) -> dict[str, Any]:
    """The `figures` of `measure`, ready for JSON; arguments and errors are its."""
    return figures(measure(bundle, data, split, threads))


def measure(
    bundle: Bundle, data: Path, split: str = "all", threads: int = 0, given: Sequence[str] = ()
) -> Evaluation:
    """Let `bundle` answer for one split of a data set in any layout.

    given: heads whose right label is told to it as a hint, photo by photo.

    Raises `PermanentError`: `dataset_invalid` when the data set cannot be read or nothing is left,
    `validation_error` for an unknown split or given head, and for a bundle that answers nothing
    that the photos are labelled with.
    """
    if split not in SPLITS:
        raise _invalid(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    classifier = AttributeClassifier(bundle, threads)
    heads = tuple(classifier.decoder.labels)
    for head in given:
        if head not in heads:
            raise _invalid(f"unknown attribute {head!r}; known: {', '.join(heads)}")
    photos = open_photos(data)
    in_split = photos.split(split)
    samples, logits, broken = run(classifier, photos, in_split)
    if not samples:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{data}: no photo in split {split!r}")
    coarse = photos.layout in COARSE_LAYOUTS
    answers = answer(classifier.decoder, samples, logits, given=given, coarse=coarse)
    if not any(head.labelled.any() for head in answers.heads.values()):
        raise _invalid(f"{data} has no label of {', '.join(heads)}, which {bundle.name} answers")
    ids = {sample.item_id for sample in in_split}
    skipped = [entry for entry in photos.skipped if split == "all" or entry.item_id in ids]
    return Evaluation(bundle, photos, split, answers, (*skipped, *broken), tuple(given))


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that was measured, ready for JSON.

    `attributes` has the `head_scores` of each head, `label_sets` the accuracy on the label sets of
    earlier classifiers. Where labels are the data set's own, each head that they say something of
    stands by itself, and there are no label sets. Rows and images that could not be used are
    counted and listed under `skipped`.
    """
    bundle, answers = evaluation.bundle, evaluation.answers
    scores: dict[str, Any] = {name: head_scores(head) for name, head in answers.heads.items()}
    if evaluation.photos.layout in COARSE_LAYOUTS:
        scores = {name: entry for name, entry in scores.items() if entry["labelled"]}
    else:
        sets = label_set_scores(answers, load_taxonomy())
        scores = {"attributes": scores, "label_sets": sets}
    return {
        "model": bundle.name,
        "version": bundle.version,
        "layout": evaluation.photos.layout,
        "split": evaluation.split,
        **({"given": list(evaluation.given)} if evaluation.given else {}),
        "photos": len(answers.samples),
        **scores,
        "contradictions": contradictions(
            answers,
            bundle.labels.get("sub_category_of", {}),
            bundle.labels.get("master_category_of", {}),
        ),
        "skipped": skipped_summary(evaluation.skipped),
    }


def brief(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures without their details and with the number of what was skipped: what a bundle's
    metadata carry.
    """

    def without_details(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: without_details(v) for key, v in value.items() if key not in _DETAILS}

    return {**without_details(figures), "skipped": figures["skipped"]["count"]}


def run(
    classifier: AttributeClassifier, photos: Photos, samples: Sequence[Sample]
) -> tuple[tuple[Sample, ...], Logits, tuple[Skipped, ...]]:
    """Logits of the samples whose image can be decoded, those samples, and the others."""
    kept: list[Sample] = []
    broken: list[Skipped] = []
    parts: list[Logits] = []
    for chunk in track(
        [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)],
        "classifying",
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ):
        pixels = []
        for sample in chunk:
            try:
                pixels.append(photos.pixels(sample))
            except PermanentError as error:
                broken.append(Skipped(sample.item_id, error.message))
            else:
                kept.append(sample)
        parts.append(classifier.raw(pixels).logits)
    empty = classifier.raw([]).logits
    logits = {name: np.concatenate([empty[name], *(p[name] for p in parts)]) for name in empty}
    return tuple(kept), logits, tuple(broken)


def answer(
    decoder: Decoder,
    samples: Sequence[Sample],
    logits: Logits,
    *,
    given: Sequence[str] = (),
    coarse: bool = False,
) -> Answers:
    """Decode logits into best labels and their confidences, those of the base colour in groups too.

    given: heads whose right label is a hint; what it decides is left out of the answers. coarse:
    see `Answers`.
    """
    taxonomy = load_taxonomy()
    accepted = {head: accepted_labels(samples, head, taxonomy) for head in decoder.labels}
    hints = [
        {head: accepted[head][row][0] for head in given if len(accepted[head][row]) == 1}
        for row in range(len(samples))
    ]
    probabilities = decoder.probabilities(logits, hints)
    best = decoder.best(probabilities)
    own = tuple(sample.label for sample in samples) if coarse else None
    heads = {
        head: _answers_of(
            probabilities[head],
            best[head],
            decoder.labels[head],
            accepted[head],
            own,
            decoder.thresholds[head],
        )
        for head in decoder.labels
        if head not in _decided_by(given, decoder)
    }
    if "base_colour" in heads:
        p, groups = _in_groups(probabilities["base_colour"], decoder, taxonomy)
        heads[GROUPED] = _answers_of(
            p,
            p.argmax(axis=1),
            groups,
            accepted_labels(samples, COLOUR_GROUP, taxonomy),
            own,
            decoder.thresholds["base_colour"],
        )
    return Answers(tuple(samples), heads)


def accepted_labels(
    samples: Sequence[Sample], head: str, taxonomy: Taxonomy
) -> tuple[tuple[str, ...], ...]:
    """The right labels of each sample; none for a head that no data set labels."""
    if head not in known_heads():
        return ((),) * len(samples)
    known = head_of(head, taxonomy)
    return tuple(known.accepted(sample.accepted) for sample in samples)


def skipped_summary(skipped: Sequence[Skipped]) -> dict[str, Any]:
    """How many and which rows or labels were left out."""
    return {
        "count": len(skipped),
        "by_reason": dict(Counter(entry.reason for entry in skipped).most_common()),
        "items": [{"id": entry.item_id, "reason": entry.reason} for entry in skipped],
    }


def _answers_of(
    probabilities: NDArray[np.float64],
    best: NDArray[np.int64],
    labels: Sequence[str],
    accepted: tuple[tuple[str, ...], ...],
    own: tuple[str, ...] | None,
    threshold: float,
) -> HeadAnswers:
    """Of one head. own: the data set's own label of each sample, where it has such."""
    index = {label: i for i, label in enumerate(labels)}
    right = np.array(
        [
            sum(p[index[label]] for label in names if label in index)
            for p, names in zip(probabilities, accepted, strict=True)
        ],
        np.float64,
    )
    return HeadAnswers(
        accepted=accepted,
        truth=own or tuple(names[0] if names else "" for names in accepted),
        best=tuple(labels[i] for i in best),
        confidence=probabilities[np.arange(len(best)), best],
        right=right,
        threshold=threshold,
        coarse=own is not None,
    )


def _decided_by(given: Sequence[str], decoder: Decoder) -> set[str]:
    """The given heads, and the levels of the tree above one."""
    depths = [TREE_LEVELS.index(head) for head in given if head in TREE_LEVELS]
    above = TREE_LEVELS[: max(depths, default=0)] if decoder.parents else ()
    return {*given, *above}


def _in_groups(
    colours: NDArray[np.float64], decoder: Decoder, taxonomy: Taxonomy
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(N, C) probabilities of base colours → (N, G) of their groups, and the groups' names."""
    head = head_of(COLOUR_GROUP, taxonomy)
    group = [head.labels.index(head.label_of[name]) for name in decoder.labels["base_colour"]]
    return marginals(colours, np.array(group), len(head.labels)), head.labels


def _invalid(message: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, message)
