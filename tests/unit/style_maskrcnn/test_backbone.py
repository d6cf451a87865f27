from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from style_maskrcnn.backbone import ARCHITECTURE, CHANNELS, STRIDES, Backbone  # noqa: E402
from style_maskrcnn.fpn import FeaturePyramid  # noqa: E402


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(1))


def test_folding_leaves_every_feature_as_it_was(
    photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(ARCHITECTURE, pretrained=False).eval()
    for module in whole.modules():  # statistics that folding has something to do with
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    state = whole.state_dict()
    extractor = timm.create_model(ARCHITECTURE, pretrained=False, features_only=True).eval()
    extractor.load_state_dict(state, strict=False)
    monkeypatch.setattr(
        "style_maskrcnn.backbone.efficientnet_lite_weights.renamed_like", lambda reference: state
    )
    ours = Backbone(pretrained=True, frozen_stages=0).eval()
    with torch.no_grad():
        for expected, actual in zip(extractor(photo)[1:], ours(photo), strict=True):
            assert torch.allclose(expected, actual, atol=1e-4 * float(expected.abs().max()))


def test_shapes_and_no_normalisation_left(photo: torch.Tensor) -> None:
    backbone = Backbone(pretrained=False, frozen_stages=2)
    features = backbone(photo)
    assert [tuple(f.shape) for f in features] == [
        (1, c, 96 // s, 160 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())


def test_frozen_stages_get_no_gradient(photo: torch.Tensor) -> None:
    backbone = Backbone(pretrained=False, frozen_stages=2)
    backbone(photo)[-1].sum().backward()
    frozen = [*backbone.stem.parameters(), *backbone.stages[:2].parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert all(p.grad is not None for p in backbone.stages[2:].parameters())


def test_depthwise_stays_float32_under_autocast(photo: torch.Tensor) -> None:
    backbone = Backbone(pretrained=False, frozen_stages=0)
    depthwise = next(m for m in backbone.stages[1].modules() if getattr(m, "groups", 1) > 1)
    seen = []
    depthwise.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        backbone(photo)
    assert seen == [torch.float32]


def test_pyramid_has_the_same_channels_at_every_level() -> None:
    sizes = ((24, 40), (12, 20), (6, 10), (3, 5))
    features = [torch.zeros(2, c, *hw) for c, hw in zip(CHANNELS, sizes, strict=True)]
    levels = FeaturePyramid(CHANNELS, 16)(features)
    assert [tuple(level.shape) for level in levels] == [(2, 16, *hw) for hw in sizes]


def test_coarse_context_reaches_the_finest_level() -> None:
    pyramid = FeaturePyramid((4, 4), 8)
    fine, coarse = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)
    before = pyramid([fine, coarse])[0]
    coarse[0, :, 0, 0] = 1  # top left quarter of a coarse cell: fine cells 0 and 1, plus the 3×3
    changed = (pyramid([fine, coarse])[0] - before).abs().sum(dim=(0, 1)) > 0
    assert changed[:2, :2].all()
    assert not changed[4:, 4:].any()
