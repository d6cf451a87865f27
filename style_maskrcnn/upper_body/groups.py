"""The attributes of an upper body, their values, and where the data set keeps them.

Chen, Gallagher and Girod, "Describing Clothing by Semantic Attributes", ECCV 2012. Six people voted
on each photo; a pattern is six votes, one a pattern, which more than one or none may win.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_YES = ("no", "yes")


@dataclass(frozen=True)
class VoteGroup:
    """Values of which one is right. column: of `labels.csv`, where 1 is the first value."""

    name: str
    column: str
    values: tuple[str, ...]


ATTRIBUTE_GROUPS = (
    VoteGroup("sleeve_length", "sleevelength", ("none", "short", "long")),
    VoteGroup("neckline", "neckline", ("v", "round", "other")),
    VoteGroup("collar", "collar", NO_YES),
    VoteGroup("placket", "placket", NO_YES),
    VoteGroup("necktie", "necktie", NO_YES),
    VoteGroup("scarf", "scarf", NO_YES),
    VoteGroup("skin_exposure", "skin_exposure", NO_YES),
)
# Served together, as the one attribute `pattern`.
PATTERN = "pattern"
PATTERN_GROUPS = (
    VoteGroup("solid", "pattern_solid", NO_YES),
    VoteGroup("floral", "pattern_floral", NO_YES),
    VoteGroup("spotted", "pattern_spot", NO_YES),
    VoteGroup("graphics", "pattern_graphics", NO_YES),
    VoteGroup("plaid", "pattern_plaid", NO_YES),
    VoteGroup("striped", "pattern_stripe", NO_YES),
)
GROUPS = (*ATTRIBUTE_GROUPS, *PATTERN_GROUPS)
