"""Weights back from graphs that PyTorch's exporter wrote here."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from vision.errors import PermanentError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import nn  # noqa: E402

from training.graph_weights import load_graph_weights  # noqa: E402


class Small(nn.Module):
    """A convolution, group norms and a linear layer, as detectors' heads have them."""

    def __init__(self, channels: int = 8, *, head: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 3),
            nn.GroupNorm(2, channels),
            nn.Conv2d(channels, channels, 1),
            nn.GroupNorm(4, channels),
        )
        for norm in (self.body[1], self.body[3]):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        self.head = nn.Linear(channels, head)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean(dim=(2, 3)))


class Exported(nn.Module):
    def __init__(self, network: Small) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Small, Path]:
    torch.manual_seed(0)
    network, path = Small(), tmp_path / "model.onnx"
    example = (torch.zeros(1, 3, 8, 8),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every constant
        torch.onnx.export(
            Exported(network).eval(), example, str(path), opset_version=17, dynamo=False
        )
    return network, path


def test_a_module_answers_as_the_one_that_was_exported(exported: tuple[Small, Path]) -> None:
    network, path = exported
    other = Small()

    assert load_graph_weights(other, path, "network.") == []

    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(other(images), network(images))


def test_a_part_that_the_graph_lacks_starts_afresh(exported: tuple[Small, Path]) -> None:
    network, path = exported
    other = Small()
    other.attributes = nn.Linear(8, 2)

    left = load_graph_weights(other, path, "network.")

    assert left == ["attributes.weight", "attributes.bias"]
    torch.testing.assert_close(other.head.weight, network.head.weight)


def test_a_graph_of_another_network_is_refused(exported: tuple[Small, Path]) -> None:
    with pytest.raises(PermanentError, match=r"its body\.0\.weight is \(8, 3, 3, 3\)"):
        load_graph_weights(Small(channels=16), exported[1], "network.")
    deeper = Small()
    deeper.body.append(nn.Conv2d(8, 8, 1))
    with pytest.raises(PermanentError, match=r"it has no body\.4\.weight"):
        load_graph_weights(deeper, exported[1], "network.")
