"""Label sets, the product tree, and the maps between taxonomies, from `configs/taxonomy.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

# Sleeves that nothing is known of.
UNKNOWN_SLEEVES = "unknown"
SLEEVES = ("none", "bare", "short", "long", UNKNOWN_SLEEVES)

TAXONOMY_PATH = Path(__file__).resolve().parent.parent / "configs" / "taxonomy.yaml"


@dataclass(frozen=True)
class Taxonomy:
    """Names of everything that can be found.

    garment_classes: the detector's classes. class_of_tag: Clothing Co-Parsing tag → class.
    ignored_tags: tags that are neither found nor missed. background_tags: not clothing.
    class_of_home_photo: coarse label of the home photos → class.
    class_of_deepfashion2: DeepFashion2's category → class, in the order of its ids from 1.
    deepfashion2_coco_names: name in its official COCO files → category, where they differ.
    deepfashion2_of_sleeves: garment class → sleeves → DeepFashion2's name in reports.
    sleeves_of_tag: Clothing Co-Parsing tag → the sleeves it nearly always has.
    article_types_of_class: garment class → article types that a garment of the class may be.
    sub_category_of: article type → subcategory. master_category_of: subcategory → master category.
    attribute_labels: attribute outside the tree (gender, base_colour, season, usage) → labels.
    colour_groups: group of base colours → the base colours in it; each is in one group.
    palette_groups: the same groups → the palette's names in them; each is in one group.
    home_photo_article_types: coarse label of the home photos → article types that are right for it.
    street_tag_article_types: Clothing Co-Parsing tag → article types that are right for it.
    """

    garment_classes: tuple[str, ...]
    class_of_tag: Mapping[str, str]
    ignored_tags: tuple[str, ...]
    background_tags: tuple[str, ...]
    class_of_home_photo: Mapping[str, str]
    class_of_deepfashion2: Mapping[str, str]
    deepfashion2_coco_names: Mapping[str, str]
    deepfashion2_of_sleeves: Mapping[str, Mapping[str, str]]
    sleeves_of_tag: Mapping[str, str]
    article_types_of_class: Mapping[str, tuple[str, ...]]
    sub_category_of: Mapping[str, str]
    master_category_of: Mapping[str, str]
    attribute_labels: Mapping[str, tuple[str, ...]]
    colour_groups: Mapping[str, tuple[str, ...]]
    palette_groups: Mapping[str, tuple[str, ...]]
    home_photo_article_types: Mapping[str, tuple[str, ...]]
    street_tag_article_types: Mapping[str, tuple[str, ...]]

    @property
    def article_types(self) -> tuple[str, ...]:
        return tuple(self.sub_category_of)

    @property
    def sub_categories(self) -> tuple[str, ...]:
        return tuple(self.master_category_of)

    @property
    def master_categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.master_category_of.values()))

    def labels_of(self, attribute: str) -> tuple[str, ...]:
        """Every label an attribute may have. Raises `KeyError` for an unknown attribute."""
        tree = {
            "master_category": self.master_categories,
            "sub_category": self.sub_categories,
            "article_type": self.article_types,
        }
        return tree[attribute] if attribute in tree else self.attribute_labels[attribute]


@cache
def load_taxonomy(path: Path = TAXONOMY_PATH) -> Taxonomy:
    """The taxonomy in `path`; read once per process."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    garments = content["garments"]
    products: dict[str, dict[str, list[str]]] = content["products"]
    articles_of = {sub: articles for subs in products.values() for sub, articles in subs.items()}
    return Taxonomy(
        garment_classes=tuple(garments["classes"]),
        class_of_tag={tag: name for name, tags in garments["classes"].items() for tag in tags},
        ignored_tags=tuple(garments["ignore"]),
        background_tags=tuple(garments["background"]),
        class_of_home_photo=garments["home_photos"],
        class_of_deepfashion2=garments["deepfashion2"],
        deepfashion2_coco_names=garments["deepfashion2_coco_names"],
        deepfashion2_of_sleeves={
            name: _of_sleeves(names) for name, names in garments["deepfashion2_of_sleeves"].items()
        },
        sleeves_of_tag=garments["sleeves_of_tag"],
        article_types_of_class={
            name: tuple(articles) for name, articles in garments["article_types"].items()
        },
        sub_category_of={
            article: sub
            for subs in products.values()
            for sub, articles in subs.items()
            for article in articles
        },
        master_category_of={sub: master for master, subs in products.items() for sub in subs},
        attribute_labels={name: tuple(values) for name, values in content["attributes"].items()},
        colour_groups={group: tuple(names) for group, names in content["colour_groups"].items()},
        palette_groups={group: tuple(names) for group, names in content["palette_groups"].items()},
        home_photo_article_types={
            label: _expand(accepted, articles_of)
            for label, accepted in content["home_photos"].items()
        },
        street_tag_article_types={
            tag: _expand(accepted, articles_of) for tag, accepted in content["street_tags"].items()
        },
    )


def _of_sleeves(names: str | dict[str, str]) -> Mapping[str, str]:
    """Sleeves → name; a name alone stands for all."""
    return names if isinstance(names, dict) else dict.fromkeys(SLEEVES, names)


def _expand(
    accepted: list[str] | dict[str, list[str]], articles_of: Mapping[str, list[str]]
) -> tuple[str, ...]:
    """Article types as they stand, or `{all_of: [subcategory, …]}` spelt out."""
    if isinstance(accepted, list):
        return tuple(accepted)
    return tuple(article for sub in accepted["all_of"] for article in articles_of[sub])
