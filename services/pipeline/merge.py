"""Several photos of one product, merged into one description of it.

A photo shows more than its product: the shirt that is sold, and the trousers worn with it. So the
garments of all photos are sorted into slots by their class, one slot is the product's, and the
answers of its garments, one of each photo, are pooled.

**Which slot.** In each photo every garment has a share of the attention: how surely it was found ×
how central it is × how surely it was classified, over the sum of all garments. The slot with the
largest share, averaged over the photos, is the product's, so that a garment all photos agree on
beats one that has a single photo to itself. What the caller knows (a hint such as `article_type`)
rules out slots that cannot be it. A photo in which nothing was found is a close-up of the product.

**Which answer.** The linear opinion pool (Stone, "The Opinion Pool", Annals of Mathematical
Statistics 32(4), 1961): each photo votes for every label with its calibrated probability, and the
average of these is the product's confidence in it. Photos of a product are far from independent,
so multiplying their probabilities would be much too sure; the average of calibrated probabilities
errs to the other side where photos agree (Ranjan and Gneiting, "Combining probability forecasts",
JRSS B 72(1), 2010), and no single photo can veto a label. A label that no photo was sure of is
`unknown`. The levels of the product tree are pooled from the root down, each among the children of
the answer above, so that they cannot contradict each other. What a person said outvotes the models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import fsum, hypot

import numpy as np
from numpy.typing import NDArray

from vision.colour import MAX_COLOURS, MIN_SHARE
from vision.garments import ATTRIBUTES, UNKNOWN, Colour, Garment, ImageReport, Prediction
from vision.taxonomy import Taxonomy

# From the root down: an answer at one level needs an answer at those before it.
TREE_LEVELS = ("master_category", "sub_category", "article_type")
MAX_ALTERNATIVES = 3


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person said of one attribute of a garment, or of its `category`."""

    attribute: str
    value: str
    created_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class ProductPhoto:
    """One photo of a product. hints: known attribute → label. corrections: for each garment of the
    report, in order, what people said of it.
    """

    report: ImageReport
    hints: Mapping[str, str]
    corrections: tuple[tuple[Correction, ...], ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """What the photos say together.

    label: the answer, or `unknown` where no photo was sure of the best one. confidence: its average
    probability, also when `label` is `unknown`; 1 where a person said it. votes: photos whose own
    answer it is, out of `photos` that have one. alternatives: up to three (label, average
    probability), best first. corrected: whether a person said it.
    """

    label: str
    confidence: float
    votes: int
    photos: int
    alternatives: tuple[tuple[str, float], ...]
    corrected: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class MergedGarment:
    """One garment as all photos show it.

    category: its class, None where no photo names one. share: of the attention, averaged over the
    photos, in [0, 1]. members: (photo, garment) indices, at most one garment of a photo.
    attributes, style_attributes: attribute → vote. embedding: (E,) float32 of unit length, None
    when nothing was classified.
    """

    category: str | None
    share: float
    members: tuple[tuple[int, int], ...]
    attributes: Mapping[str, Vote]
    colours: tuple[Colour, ...]
    style: Vote | None
    style_attributes: Mapping[str, Vote]
    embedding: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """main: the garment that is the product, None when no photo shows any. others: what else the
    photos show, largest share first.
    """

    main: MergedGarment | None
    others: tuple[MergedGarment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A garment of a photo. share: of the photo's attention."""

    position: tuple[int, int]
    garment: Garment
    category: str | None
    share: float
    corrections: tuple[Correction, ...]


def merge(photos: Sequence[ProductPhoto], taxonomy: Taxonomy) -> Product:
    """The product that the photos show, whatever their order."""
    seen = [_seen_in(index, photo, taxonomy) for index, photo in enumerate(photos)]
    shares = _shares(seen)
    if not shares:
        return Product(None, ())
    possible = _possible(shares, photos, taxonomy)
    main = max(possible, key=lambda category: (shares[category], str(category)))
    chosen = _main_members(main, seen)
    taken = {one.position for one in chosen}
    others = []
    for category in sorted(shares, key=lambda name: (-shares[name], str(name))):
        members = [one for one in _most_prominent(seen, category) if one.position not in taken]
        if category != main and members:
            others.append(_merged(category, shares[category], members, taxonomy))
    return Product(_merged(main, shares[main], chosen, taxonomy), tuple(others))


def prominence(garment: Garment, resolution_wh: tuple[int, int]) -> float:
    """How likely a garment is the one the photo was taken for: score × centrality × certainty.

    Of the rules that `python -m benchmarks.products` compares, this one finds the product most
    often. Area would make it worse: the larger garment is often the one worn with the product, or
    a second, looser name for the product itself.
    """
    score = 1.0 if garment.score is None else garment.score
    return score * centrality(garment, resolution_wh) * certainty(garment)


def centrality(garment: Garment, resolution_wh: tuple[int, int]) -> float:
    """1 for a box in the middle of the photo, 0 for one in a corner."""
    width, height = resolution_wh
    x1, y1, x2, y2 = garment.xyxy
    off_centre = hypot((x1 + x2) / width - 1, (y1 + y2) / height - 1) / hypot(1, 1)
    return max(0.0, 1 - off_centre)


def certainty(garment: Garment) -> float:
    """The probability of the best article type; 1 where nothing was classified. A garment that is
    cut off, covered or misnamed is one the classifier cannot make out.
    """
    labels = garment.labels
    if labels is None or "article_type" not in labels.attributes:
        return 1.0
    return labels.attributes["article_type"].confidence


def _seen_in(index: int, photo: ProductPhoto, taxonomy: Taxonomy) -> list[_Seen]:
    garments = photo.report.garments
    weights = [prominence(garment, photo.report.resolution_wh) for garment in garments]
    total = sum(weights)
    return [
        _Seen(
            position=(index, ordinal),
            garment=garment,
            category=_category(garment, photo.corrections[ordinal], taxonomy),
            share=weight / total if total else 1 / len(garments),
            corrections=photo.corrections[ordinal],
        )
        for ordinal, (garment, weight) in enumerate(zip(garments, weights, strict=True))
    ]


def _category(
    garment: Garment, corrections: Sequence[Correction], taxonomy: Taxonomy
) -> str | None:
    """What a person said, or the model that found it, or else what its article type belongs to."""
    said = _newest(corrections)
    if "category" in said:
        return said["category"]
    if garment.category is not None:
        return garment.category
    article = _own_label(garment, said, "article_type")
    for name, articles in taxonomy.article_types_of_class.items():
        if article in articles:
            return name
    return taxonomy.sub_category_of.get(article)


def _own_label(garment: Garment, said: Mapping[str, str], attribute: str) -> str:
    if attribute in said:
        return said[attribute]
    if garment.labels is None or attribute not in garment.labels.attributes:
        return UNKNOWN
    return garment.labels.attributes[attribute].label


def _shares(seen: Sequence[Sequence[_Seen]]) -> dict[str | None, float]:
    """Category → its part of the attention. Close-ups say what the product is only among
    themselves: a model that finds nothing in a photo has seen less than one that does.
    """
    found = [[one for one in photo if one.garment.source != "whole_image"] for photo in seen]
    counted = [photo for photo in (found if any(found) else seen) if photo]
    shares: dict[str | None, float] = {}
    for photo in counted:
        for one in photo:
            shares[one.category] = shares.get(one.category, 0.0) + one.share / len(counted)
    return shares


def _possible(
    shares: Mapping[str | None, float],
    photos: Sequence[ProductPhoto],
    taxonomy: Taxonomy,
) -> list[str | None]:
    """The categories that the hints leave; all where they leave none."""
    paths = [{k: photo.hints[k] for k in TREE_LEVELS if k in photo.hints} for photo in photos]
    fit = [
        category
        for category in shares
        if any(path and _may_be(category, path, taxonomy) for path in paths)
    ]
    return fit or list(shares)


def _may_be(category: str | None, path: Mapping[str, str], taxonomy: Taxonomy) -> bool:
    """Whether some article type of a category lies on the part of the tree that is known."""
    articles = taxonomy.article_types_of_class.get(category or "")
    if articles is None:
        articles = tuple(a for a, sub in taxonomy.sub_category_of.items() if sub == category)
    return any(
        all(_path(article, taxonomy)[level] == label for level, label in path.items())
        for article in articles
        if article in taxonomy.sub_category_of
    )


def _path(article: str, taxonomy: Taxonomy) -> dict[str, str]:
    sub = taxonomy.sub_category_of[article]
    return {
        "master_category": taxonomy.master_category_of[sub],
        "sub_category": sub,
        "article_type": article,
    }


def _main_members(main: str | None, seen: Sequence[Sequence[_Seen]]) -> list[_Seen]:
    """Of each photo the garment that is the product.

    Where the photo has none of its category: a close-up, or the most prominent garment if it is of
    the same subcategory, because a shirt may be a top in one photo and outerwear in another.
    """
    members = _most_prominent(seen, main)
    subs = {_own_label(m.garment, _newest(m.corrections), "sub_category") for m in members}
    subs.discard(UNKNOWN)
    with_main = {member.position[0] for member in members}
    for photo in seen:
        if not photo or photo[0].position[0] in with_main:
            continue
        best = max(photo, key=lambda one: one.share)
        sub = _own_label(best.garment, _newest(best.corrections), "sub_category")
        if best.garment.source == "whole_image" or sub in subs:
            members.append(best)
    return sorted(members, key=lambda one: one.position)


def _most_prominent(seen: Iterable[Sequence[_Seen]], category: str | None) -> list[_Seen]:
    """Of each photo with the category, its most prominent garment of it."""
    candidates = ([one for one in photo if one.category == category] for photo in seen)
    return [max(photo, key=lambda one: one.share) for photo in candidates if photo]


def _merged(
    category: str | None, share: float, members: Sequence[_Seen], taxonomy: Taxonomy
) -> MergedGarment:
    garments = [member.garment for member in members]
    said = _newest(correction for member in members for correction in member.corrections)
    styles = [garment.style for garment in garments if garment.style is not None]
    names = dict.fromkeys(name for style in styles for name in style.attributes)
    return MergedGarment(
        category=category,
        share=share,
        members=tuple(member.position for member in members),
        attributes=_attributes(garments, said, taxonomy),
        colours=_colours(garments),
        style=pool([Prediction(s.label, s.score) for s in styles]) if styles else None,
        style_attributes={
            name: pool([s.attributes[name] for s in styles if name in s.attributes])
            for name in names
        },
        embedding=_embedding(garments),
    )


def _attributes(
    garments: Sequence[Garment], said: Mapping[str, str], taxonomy: Taxonomy
) -> dict[str, Vote]:
    answers = {
        name: [
            garment.labels.attributes[name]
            for garment in garments
            if garment.labels is not None and name in garment.labels.attributes
        ]
        for name in ATTRIBUTES
    }
    said = _with_parents(said, taxonomy)
    votes: dict[str, Vote] = {}
    allowed: tuple[str, ...] | None = None
    for name in ATTRIBUTES:
        if name in said:
            votes[name] = _corrected(answers[name], said[name])
        elif answers[name]:
            votes[name] = pool(answers[name], allowed if name in TREE_LEVELS else None)
        if name in TREE_LEVELS:
            allowed = _children(votes[name].label, name, taxonomy) if name in votes else ()
    return votes


def _with_parents(said: Mapping[str, str], taxonomy: Taxonomy) -> dict[str, str]:
    """A corrected article type or subcategory says what stands above it as well."""
    article, sub = said.get("article_type", ""), said.get("sub_category", "")
    if article in taxonomy.sub_category_of:
        return {**said, **_path(article, taxonomy)}
    if sub in taxonomy.master_category_of:
        return {**said, "master_category": taxonomy.master_category_of[sub]}
    return dict(said)


def _children(label: str, level: str, taxonomy: Taxonomy) -> tuple[str, ...]:
    parents = (
        taxonomy.master_category_of if level == "master_category" else taxonomy.sub_category_of
    )
    return tuple(child for child, parent in parents.items() if parent == label)


def pool(answers: Sequence[Prediction], allowed: Sequence[str] | None = None) -> Vote:
    """The linear opinion pool of at least one answer.

    allowed: the labels the answer may be one of; None for any.
    """
    cast: dict[str, list[float]] = {}
    for answer in answers:
        for label, probability in answer.alternatives or ((answer.label, answer.confidence),):
            cast.setdefault(label, []).append(probability)
    cast.pop(UNKNOWN, None)
    # `fsum` rounds once, so that the order of the photos cannot matter.
    averages = [(label, fsum(shares) / len(answers)) for label, shares in cast.items()]
    ranked = sorted(averages, key=lambda entry: (-entry[1], entry[0]))
    best, confidence = next(
        ((label, share) for label, share in ranked if allowed is None or label in allowed),
        (UNKNOWN, 0.0),
    )
    votes = sum(answer.label == best for answer in answers) if best != UNKNOWN else 0
    return Vote(
        label=best if votes else UNKNOWN,
        confidence=min(1.0, confidence),
        votes=votes,
        photos=len(answers),
        alternatives=tuple(ranked[:MAX_ALTERNATIVES]),
    )


def _corrected(answers: Sequence[Prediction], label: str) -> Vote:
    votes = sum(answer.label == label for answer in answers)
    pooled = pool(answers).alternatives if answers else ()
    return Vote(label, 1.0, votes, len(answers), pooled, corrected=True)


def _newest(corrections: Iterable[Correction]) -> dict[str, str]:
    """Attribute → what was said of it last."""
    ordered = sorted(corrections, key=lambda correction: correction.created_at)
    return {correction.attribute: correction.value for correction in ordered}


def _colours(garments: Sequence[Garment]) -> tuple[Colour, ...]:
    """Shares averaged over the photos; a colour's hex is that of the photo with most of it.

    Those that come first in most photos come first.
    """
    firsts = Counter(garment.colours[0].name for garment in garments if garment.colours)
    shares: dict[str, float] = {}
    largest: dict[str, Colour] = {}
    for garment in garments:
        for colour in garment.colours:
            shares[colour.name] = shares.get(colour.name, 0.0) + colour.share / len(garments)
            if colour.name not in largest or largest[colour.name].share < colour.share:
                largest[colour.name] = colour
    ranked = sorted(shares.items(), key=lambda entry: (-firsts[entry[0]], -entry[1], entry[0]))
    return tuple(
        Colour(name, largest[name].hex, round(share, 4))
        for name, share in ranked[:MAX_COLOURS]
        if share >= MIN_SHARE
    )


def _embedding(garments: Sequence[Garment]) -> NDArray[np.float32] | None:
    """The direction of the sum."""
    embeddings = [garment.labels.embedding for garment in garments if garment.labels is not None]
    if not embeddings:
        return None
    total = np.sum(embeddings, axis=0)
    length = float(np.linalg.norm(total))
    return np.asarray(total / length if length else embeddings[0], dtype=np.float32)
