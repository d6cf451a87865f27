from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")

from style_maskrcnn.config import AttributeGroup, NetworkConfig  # noqa: E402
from style_maskrcnn.export import compare, export_onnx  # noqa: E402
from style_maskrcnn.network import StyleNetwork  # noqa: E402
from style_maskrcnn.targets import Target  # noqa: E402
from tests.unit.style_maskrcnn.networks import (  # noqa: E402
    CLASS_NAMES,
    GROUPS,
    TINY,
    TINY_SEMANTIC,
)
from vision.errors import ErrorCode, PermanentError  # noqa: E402
from vision.session import OnnxSession  # noqa: E402


def network(
    *,
    finds_something: bool = True,
    groups: Sequence[AttributeGroup] = GROUPS,
    config: NetworkConfig = TINY,
) -> StyleNetwork:
    torch.manual_seed(3)
    built = StyleNetwork(config, len(CLASS_NAMES), (0, 1, 2), groups).eval()
    if built.semantic_head is not None:
        torch.nn.init.normal_(built.semantic_head.logits.weight, std=0.3)
    # Random weights as they start find nothing; these find something of every class everywhere.
    for layer, std in ((built.box_head.classes, 1.0), (built.rpn.objectness, 0.5)):
        torch.nn.init.normal_(layer.weight, std=std)
    torch.nn.init.constant_(built.box_head.classes.bias[-1:], -5.0 if finds_something else 1e4)
    return built


def target(size_hw: tuple[int, int]) -> Target:
    masks = torch.zeros(2, *size_hw, dtype=torch.uint8)
    masks[0, 10:50, 10:40] = 1
    masks[1, 60:80, 30:60] = 1
    return Target(
        boxes=torch.tensor([[10.0, 10, 40, 50], [30.0, 60, 60, 80]]),
        class_ids=torch.tensor([0, 2]),
        masks=masks,
        ignore_boxes=torch.zeros(0, 4),
    )


def photos(*sizes: tuple[int, int]) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1, 3, *hw)).astype(np.float32) for hw in sizes]


def test_answers_of_one_photo() -> None:
    with torch.no_grad():
        output = network()(torch.from_numpy(photos((96, 64))[0]))
    count = len(output.scores)
    assert 0 < count <= 10
    assert output.boxes.shape == (count, 4)
    assert output.masks.shape == (count, 28, 28)
    assert output.attributes.shape == (count, 5)
    assert (output.scores.diff() <= 0).all()
    assert (output.boxes >= 0).all()
    assert (output.boxes[:, 2] <= 64).all()
    assert (output.boxes[:, 3] <= 96).all()
    assert ((output.masks >= 0) & (output.masks <= 1)).all()


def test_losses_are_finite_and_reach_every_part() -> None:
    net = network().train()
    losses = net.losses(torch.randn(2, 3, 96, 64), [target((96, 64))] * 2)
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box", "mask"}
    reaches_every_part(net, losses)


def test_losses_of_a_network_with_a_semantic_head() -> None:
    net = network(config=TINY_SEMANTIC).train()
    losses = net.losses(torch.randn(2, 3, 96, 64), [target((96, 64))] * 2)
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box", "mask", "semantic"}
    reaches_every_part(net, losses)


def reaches_every_part(net: StyleNetwork, losses: dict[str, torch.Tensor]) -> None:
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and not name.startswith("attribute_head"):
            assert parameter.grad is not None, name


def test_losses_of_photos_without_garments() -> None:
    empty = Target(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 64, 64, dtype=torch.uint8),
        torch.zeros(0, 4),
    )
    losses = network().train().losses(torch.randn(1, 3, 64, 64), [empty])
    assert losses["box"] == losses["mask"] == losses["rpn_box"] == 0
    assert losses["class"] > 0


def test_it_learns_one_photo_by_heart() -> None:
    torch.manual_seed(5)
    net = StyleNetwork(TINY, len(CLASS_NAMES), (0, 1, 2)).train()
    image = torch.full((1, 3, 96, 64), 0.8)
    image[:, 0, 10:50, 10:40] = -0.9
    image[:, 1, 60:80, 30:60] = -0.9
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 5e-4)
    values = []
    for _ in range(50):
        total = torch.stack(list(net.losses(image, [target((96, 64))]).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    assert np.mean(values[-10:]) < 0.6 * np.mean(values[:5])


def test_mask_channels_must_fit_the_classes() -> None:
    with pytest.raises(ValueError, match="2 mask channels, 3 classes"):
        StyleNetwork(TINY, 3, (0, 1))


def test_exported_graph_answers_like_the_network_at_any_size(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    net = network()
    export_onnx(net, path, (96, 64))
    parity = compare(net, path, photos((96, 64), (64, 96), (32, 32), (160, 128)))
    assert parity.inputs == 4
    assert parity.detections >= 4
    assert set(parity.to_bundle()["measured"]) == {"boxes", "scores", "masks", "attributes"}


def test_exported_graph_of_a_photo_where_nothing_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    net = network(finds_something=False)
    export_onnx(net, path, (96, 64))
    assert compare(net, path, photos((96, 64), (64, 64))).detections == 0
    values = OnnxSession(path, 1).run({"image": photos((96, 64))[0]})
    assert values["boxes"].shape == (0, 4)
    assert values["masks"].shape == (0, 28, 28)
    assert values["attributes"].shape == (0, 5)


def test_exported_graph_with_a_semantic_head(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    net = network(config=TINY_SEMANTIC)
    export_onnx(net, path, (96, 64))
    assert compare(net, path, photos((96, 64), (64, 96), (160, 128))).detections >= 3
    values = OnnxSession(path, 1).run({"image": photos((96, 64))[0]})
    assert values["masks"].shape[1:] == (56, 56)
    empty = network(config=TINY_SEMANTIC, finds_something=False)
    export_onnx(empty, path, (96, 64))
    assert compare(empty, path, photos((96, 64))).detections == 0


def test_exported_graph_without_attribute_groups(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    net = network(groups=())
    export_onnx(net, path, (96, 64))
    assert compare(net, path, photos((96, 64))).detections > 0
    values = OnnxSession(path, 1).run({"image": photos((96, 64))[0]})
    assert values["attributes"].shape == (len(values["scores"]), 0)


def test_a_graph_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    net = network()
    export_onnx(net, path, (96, 64))
    net.mask_head.logits.bias.data += 0.5
    with pytest.raises(PermanentError, match="differs from its network: masks by") as caught:
        compare(net, path, photos((96, 64)))
    assert caught.value.code == ErrorCode.BUNDLE_INVALID
