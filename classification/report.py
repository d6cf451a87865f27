"""An evaluation as one HTML page with everything in it: figures, diagrams, and the photos that the
bundle is most wrong about. It needs no network, no script and no other file.

The top losses and the most confused pairs are what fastai's `ClassificationInterpretation` shows
(https://docs.fast.ai/interpret.html); the reliability diagram is that of Guo et al.
(https://arxiv.org/abs/1706.04599). Glossary: N samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classification.calibrate import ECE_BINS
from classification.datasets import Sample
from classification.evaluate import Evaluation
from classification.photos import Photos
from classification.scores import HeadAnswers
from training.page import data_uri, page_environment

PAGE = "index.html"
TEMPLATES = Path(__file__).resolve().parent / "templates"
# A confusion matrix of more classes than this cannot be read.
MOST_CLASSES = 25
MOST_LOSSES = 14
_CURVE_POINTS = 100


@dataclass(frozen=True)
class Bin:
    """Answers of one range of confidences. low, high: its ends. count: how many. confidence,
    accuracy: their means.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Cell:
    """How often a class got an answer. share: of the class. right: whether that is right."""

    answer: str
    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Row:
    """A class of a confusion matrix. others: how often it got an answer that has no column."""

    truth: str
    support: int
    cells: tuple[Cell, ...]
    others: int


@dataclass(frozen=True)
class Confusion:
    """rows: the most frequent classes. columns: answers. left_out: how many classes have no row."""

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    left_out: int


@dataclass(frozen=True)
class Loss:
    """An answer that gave the right labels little. picture: a data URI."""

    item_id: str
    truth: str
    answer: str
    confidence: float
    right: float
    loss: float
    picture: str


@dataclass(frozen=True)
class Section:
    """All about one head. scores: its `head_scores`. coarse: see `HeadAnswers`. curve: (coverage,
    accuracy) pairs.
    """

    name: str
    coarse: bool
    scores: Mapping[str, Any]
    bins: tuple[Bin, ...]
    curve: tuple[tuple[float, float], ...]
    confusion: Confusion
    losses: tuple[Loss, ...]

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()


def write_report(evaluation: Evaluation, figures: Mapping[str, Any], folder: Path) -> Path:
    """Write the page into `folder`, made if need be, and return its path.

    figures: what `classification.evaluate.figures` says of the evaluation.
    """
    scores = figures.get("attributes", figures)
    sections = [
        section(name, answers, scores[name], evaluation.answers.samples, evaluation.photos)
        for name, answers in evaluation.answers.heads.items()
        if answers.labelled.any()
    ]
    template = page_environment(TEMPLATES).get_template("report.html")
    page = template.render(figures=figures, sections=sections)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def section(
    name: str,
    answers: HeadAnswers,
    scores: Mapping[str, Any],
    samples: Sequence[Sample],
    photos: Photos,
) -> Section:
    """What the page shows of one head. samples: those of the answers."""
    labelled = answers.on_labelled()
    return Section(
        name=name,
        coarse=answers.coarse,
        scores=scores,
        bins=tuple(reliability(labelled.confidence, labelled.correct)),
        curve=tuple(coverage_curve(labelled.confidence, labelled.correct)),
        confusion=confusion(labelled),
        losses=tuple(top_losses(answers, samples, photos)),
    )


def reliability(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = ECE_BINS
) -> Iterator[Bin]:
    """The bins of the expected calibration error that are not empty."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    for number in np.unique(index):
        inside = index == number
        yield Bin(
            low=number / bins,
            high=(number + 1) / bins,
            count=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(correct[inside].mean()),
        )


def coverage_curve(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], points: int = _CURVE_POINTS
) -> Iterator[tuple[float, float]]:
    """(share answered, accuracy of those), from the surest answers to all of them.

    The first point has a twentieth of the answers: of fewer, accuracy is mostly chance.
    """
    count = len(confidence)
    surest_first = correct[np.argsort(-confidence, kind="stable")]
    right = np.cumsum(surest_first)
    for answered in np.unique(np.linspace(max(1, count // 20), count, points).astype(int)):
        yield answered / count, float(right[answered - 1] / answered)


def confusion(answers: HeadAnswers, most: int = MOST_CLASSES) -> Confusion:
    """The most frequent classes against the same labels or, where a class is the data set's own,
    against the most frequent answers.
    """
    support = Counter(answers.truth)
    classes = [name for name, _ in support.most_common(most)]
    given = [name for name, _ in Counter(answers.best).most_common(most)]
    columns = given if answers.coarse else classes
    pairs = Counter(zip(answers.truth, answers.best, strict=True))
    right = {
        (truth, answer)
        for truth, answer, is_right in zip(
            answers.truth, answers.best, answers.correct, strict=True
        )
        if is_right
    }
    rows = []
    for truth in classes:
        cells = tuple(
            Cell(
                answer=answer,
                count=pairs[truth, answer],
                share=pairs[truth, answer] / support[truth],
                right=(truth, answer) in right,
            )
            for answer in columns
        )
        others = support[truth] - sum(cell.count for cell in cells)
        rows.append(Row(truth, support[truth], cells, others))
    return Confusion(tuple(rows), tuple(columns), len(support) - len(classes))


def top_losses(
    answers: HeadAnswers, samples: Sequence[Sample], photos: Photos, most: int = MOST_LOSSES
) -> Iterator[Loss]:
    """The wrong answers that gave the right labels least, with their photos; the worst first."""
    wrong = np.flatnonzero(answers.labelled & ~answers.correct)
    for row in wrong[np.argsort(answers.right[wrong], kind="stable")][:most]:
        right = float(answers.right[row])
        yield Loss(
            item_id=samples[row].item_id,
            truth=answers.truth[row],
            answer=answers.best[row],
            confidence=float(answers.confidence[row]),
            right=right,
            loss=float(-np.log(max(right, 1e-12))),
            picture=data_uri(photos.pixels(samples[row])),
        )
