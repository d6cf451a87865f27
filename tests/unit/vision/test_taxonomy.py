"""The label sets agree with each other."""

from vision.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()


def test_every_article_type_has_one_path_to_a_master_category():
    assert len(TAXONOMY.article_types) == 142
    for article in TAXONOMY.article_types:
        sub = TAXONOMY.sub_category_of[article]
        assert TAXONOMY.master_category_of[sub] in TAXONOMY.master_categories


def test_every_tag_is_a_garment_ignored_or_background():
    garment, ignored = set(TAXONOMY.class_of_tag), set(TAXONOMY.ignored_tags)
    background = set(TAXONOMY.background_tags)
    assert not garment & ignored
    assert not garment & background
    assert not ignored & background
    assert len(garment | ignored | background) == 59  # Clothing Co-Parsing's tags, null included
    assert set(TAXONOMY.class_of_tag.values()) == set(TAXONOMY.garment_classes)
    assert len(TAXONOMY.garment_classes) == 14


def test_every_garment_class_may_be_some_article_types():
    assert tuple(TAXONOMY.article_types_of_class) == TAXONOMY.garment_classes
    for articles in TAXONOMY.article_types_of_class.values():
        assert articles
        assert set(articles) <= set(TAXONOMY.article_types)


def test_labels_of_knows_every_attribute():
    assert "Tshirts" in TAXONOMY.labels_of("article_type")
    assert "Apparel" in TAXONOMY.labels_of("master_category")
    assert TAXONOMY.labels_of("gender") == ("Men", "Women", "Unisex", "Boys", "Girls")
    assert len(TAXONOMY.labels_of("base_colour")) == 46


def test_every_base_colour_is_in_one_of_eleven_groups():
    grouped = [colour for group in TAXONOMY.colour_groups.values() for colour in group]

    assert len(TAXONOMY.colour_groups) == 11
    assert sorted(grouped) == sorted(TAXONOMY.labels_of("base_colour"))
