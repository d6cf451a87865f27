from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from style_maskrcnn.attribute_head import (  # noqa: E402
    UNLABELLED,
    AttributeHead,
    attribute_loss,
    balanced_weights,
)
from style_maskrcnn.config import AttributeGroup  # noqa: E402

GROUPS = (
    AttributeGroup("season", ("Summer", "Winter")),
    AttributeGroup("sleeve", ("none", "short", "long")),
)


def test_logits_for_every_value_of_every_group() -> None:
    assert AttributeHead(4, GROUPS, 8, 0.0)(torch.zeros(6, 4, 7, 7)).shape == (6, 5)


def test_without_groups_there_is_nothing_to_say() -> None:
    head = AttributeHead(4, (), 8, 0.0)
    assert head(torch.zeros(6, 4, 7, 7)).shape == (6, 0)
    assert list(head.parameters()) == []


def test_loss_is_a_softmax_within_each_group() -> None:
    labels = torch.tensor([[0, 2]])
    # Two equal values cost log 2, three log 3.
    loss = attribute_loss(torch.zeros(1, 5), labels, GROUPS)
    assert loss.item() == pytest.approx(math.log(2) + math.log(3))


def test_unlabelled_instances_cost_nothing_and_get_no_gradient() -> None:
    logits = torch.zeros(2, 5, requires_grad=True)
    labels = torch.tensor([[0, UNLABELLED], [UNLABELLED, UNLABELLED]])
    loss = attribute_loss(logits, labels, GROUPS)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad is not None
    touched = (logits.grad != 0).tolist()
    assert touched == [[True, True, False, False, False], [False] * 5]


def test_nothing_labelled_costs_nothing() -> None:
    labels = torch.full((3, 2), UNLABELLED)
    assert attribute_loss(torch.randn(3, 5), labels, GROUPS).item() == 0


def test_balanced_weights() -> None:
    labels = torch.tensor([0, 0, 0, 1, UNLABELLED])
    assert balanced_weights(labels, 3, power=0.0).tolist() == [1, 1, 0]
    # 1/3 and 1, scaled so that the four instances weigh 4 together: 3 · 2/3 + 1 · 2.
    assert balanced_weights(labels, 3, power=1.0).tolist() == pytest.approx([2 / 3, 2, 0])
