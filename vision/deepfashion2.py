"""DeepFashion2's thirteen names, derived from garment class and sleeves.

Ge et al., "DeepFashion2: A Versatile Benchmark for Detection, Pose Estimation, Segmentation and
Re-Identification of Clothing Images", CVPR 2019. Its names say class and sleeves in one; here they
are two answers of two models, and the name follows from both (`configs/taxonomy.yaml`).
"""

from __future__ import annotations

from vision.garments import Style
from vision.taxonomy import UNKNOWN_SLEEVES, Taxonomy


def deepfashion2_name(category: str | None, style: Style | None, taxonomy: Taxonomy) -> str | None:
    """One of the thirteen, such as `long_sleeve_dress`.

    category: garment class. style: what the style model says of the garment. None where there is
    no such name for the class, and where the name depends on sleeves that nothing is known of.
    """
    names = taxonomy.deepfashion2_of_sleeves.get(category or "", {})
    return names.get(_sleeves(style, taxonomy))


def _sleeves(style: Style | None, taxonomy: Taxonomy) -> str:
    if style is None:
        return UNKNOWN_SLEEVES
    answer = style.attributes.get("sleeve_length")
    if answer is None:
        return taxonomy.sleeves_of_tag.get(style.label, UNKNOWN_SLEEVES)
    skin = style.attributes.get("skin_exposure")
    if answer.label == "none" and skin is not None and skin.label == "yes":
        return "bare"
    return answer.label
