from __future__ import annotations

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

import timm  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from detection.backbone import efficientnet_lite0, fold_batch_norm  # noqa: E402


def test_folding_batch_norm_changes_no_answer() -> None:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = network.forward_features(images)
        fold_batch_norm(network)
        after = network.forward_features(images)

    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wanted", [("c3", "c4", "c5"), ("c2", "c3", "c4", "c5")])
def test_maps_are_as_the_shapes_say(wanted: tuple[str, ...]) -> None:
    backbone = efficientnet_lite0(False, 0, wanted).eval()

    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, 96, 64))

    shapes = backbone.output_shape()
    assert tuple(features) == tuple(shapes) == wanted
    for name, values in features.items():
        stride = shapes[name].stride
        assert values.shape == (1, shapes[name].channels, 96 // stride, 64 // stride)
