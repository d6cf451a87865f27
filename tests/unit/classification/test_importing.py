"""Bundles from state dicts as torchvision's networks and fastai's have them, and from files that
are something else.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from classification import __main__ as command
from classification.predictor import AttributeClassifier
from vision.bundle import open_bundle
from vision.errors import ErrorCode, PermanentError

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
safetensors = pytest.importorskip("safetensors.torch")

from classification.importing import (  # noqa: E402
    EMBEDDING_LENGTH,
    ImportOptions,
    import_weights,
    read_labels,
)
from classification.importing.state_dicts import from_state, read_state  # noqa: E402

HEADS = {"gender": ("Men", "Women"), "season": ("Summer", "Fall", "Winter", "Spring")}
SEASON = {"season": HEADS["season"]}
RESNET = ImportOptions("resnet18", (64, 48))


def torchvision_network(architecture: str = "resnet18", classes: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.get_model(architecture, weights=None, num_classes=classes)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "running_mean" in name or name.endswith("bias"):
                tensor.normal_(0, 0.2)
            elif "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif name.endswith("layer_scale"):  # would hide the blocks
                tensor.normal_(0, 1)
    return network.eval()


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    return torchvision_network()


def write_labels(folder: Path, labels: object = HEADS["season"]) -> Path:
    path = folder / "labels.json"
    path.write_text(json.dumps(labels), encoding="utf-8")
    return path


def logits_of(network, images: np.ndarray) -> np.ndarray:
    ((weight, bias),) = network.heads.values()
    with torch.no_grad():
        return (network.body.eval()(torch.from_numpy(images)) @ weight.T + bias).numpy()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_state_dict_becomes_a_bundle_that_answers_the_same(
    tmp_path: Path, resnet, suffix: str
) -> None:
    weights = tmp_path / f"resnet.{suffix}"
    state = resnet.state_dict()
    safetensors.save_file(state, weights) if suffix == "safetensors" else torch.save(state, weights)

    import_weights(weights, write_labels(tmp_path), RESNET, tmp_path / "resnet", "the command")

    bundle = open_bundle(tmp_path / "resnet", "classification")
    classifier = AttributeClassifier(bundle)
    photo = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    raw = classifier.raw([photo])
    # What torchvision's own transforms make of it.
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    image = ((photo / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        expected = resnet(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(raw.logits["season"], expected, atol=1e-3)
    assert raw.embedding.shape == (1, EMBEDDING_LENGTH)
    assert np.linalg.norm(raw.embedding) == pytest.approx(1, abs=1e-5)
    assert bundle.labels == {"attributes": {"season": list(HEADS["season"])}}
    assert bundle.parity["quantised"]["precision"] == "fp32"
    card = (tmp_path / "resnet" / "README.md").read_text(encoding="utf-8")
    assert "the command" in card
    assert bundle.parity["source_sha256"] in card


def test_weights_may_be_kept_narrow(tmp_path: Path, resnet) -> None:
    weights = tmp_path / "resnet.pth"
    torch.save(resnet.state_dict(), weights)
    labels = write_labels(tmp_path)
    options = ImportOptions("resnet18", (64, 48), precision="fp16")

    bundle = import_weights(weights, labels, options, tmp_path / "narrow", "none")

    assert bundle.graph_path.stat().st_size < 0.55 * weights.stat().st_size
    assert bundle.parity["quantised"]["bytes"] == bundle.graph_path.stat().st_size


@pytest.mark.parametrize("prefix", ["module.", "model.backbone."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_prefixes_and_wrappings_are_taken_off(
    tmp_path: Path, resnet, prefix: str, wrapper: str | None
) -> None:
    state = {prefix + name: tensor for name, tensor in resnet.state_dict().items()}
    path = tmp_path / "wrapped.pth"
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)

    network = from_state(read_state(path), "resnet18", SEASON)

    images = noise(2, 3, 40, 40)
    with torch.no_grad():
        expected = resnet(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits_of(network, images), expected, atol=1e-4)


def test_convnext_answers_as_torchvisions() -> None:
    convnext = torchvision_network("convnext_tiny")

    network = from_state(convnext.state_dict(), "convnext_tiny", SEASON)

    images = noise(1, 3, 64, 64)
    with torch.no_grad():
        expected = convnext(torch.from_numpy(images)).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(logits_of(network, images), expected, atol=1e-4)


def test_several_heads_are_found_by_their_names(resnet) -> None:
    state = {f"backbone.{k}": v for k, v in resnet.state_dict().items() if "fc." not in k}
    state |= {"backbone.head_gender.weight": torch.ones(2, 512)}
    state |= {"backbone.head_gender.bias": torch.zeros(2)}
    state |= {"backbone.heads.season.1.weight": torch.ones(4, 512)}

    network = from_state(state, "resnet18", HEADS)

    assert {head: tuple(w.shape) for head, (w, _) in network.heads.items()} == {
        "gender": (2, 512),
        "season": (4, 512),
    }
    assert not network.heads["season"][1].any()  # no bias is a bias of zeros


def fastai_state(resnet: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """As `cnn_learner` builds it: the cut body, and the head that fastai documents."""
    nn = torch.nn

    class ConcatPool(nn.Module):
        def forward(self, maps):
            return torch.cat([maps.amax((2, 3), True), maps.mean((2, 3), True)], 1)

    body = nn.Sequential(*list(resnet.children())[:-2])
    head = nn.Sequential(
        *(ConcatPool(), nn.Flatten(), nn.BatchNorm1d(1024), nn.Dropout(0.25)),
        *(nn.Linear(1024, 512, bias=False), nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(0.5)),
        nn.Linear(512, 4),
    )
    network = nn.Sequential(body, head).eval()
    for module in (head[2], head[6]):
        module.running_mean.normal_(0, 0.2)
        module.running_var.uniform_(0.5, 2)
    return network, network.state_dict()


def test_a_resnet_as_fastai_cuts_it(resnet) -> None:
    learner, state = fastai_state(resnet)

    network = from_state(state, "resnet18", SEASON)

    images = noise(2, 3, 60, 60)
    with torch.no_grad():
        expected = learner(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits_of(network, images), expected, atol=1e-4)


def test_what_fastais_head_lacks_is_named(resnet) -> None:
    _, state = fastai_state(resnet)
    del state["1.4.weight"]

    with pytest.raises(PermanentError, match=r"tensor '1\.4\.weight' of fastai's head is missing"):
        from_state(state, "resnet18", SEASON)


def changed(state: dict[str, torch.Tensor], **tensors: torch.Tensor | None) -> dict:
    kept = dict(state)
    for name, tensor in tensors.items():
        if tensor is None:
            del kept[name]
        else:
            kept[name] = tensor
    return kept


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"layer3.0.conv2.weight": None}, "tensor 'layer3.0.conv2.weight' is missing, and 0 more"),
        ({"conv1.weight": None, "bn1.bias": None}, "tensor 'bn1.bias' is missing, and 1 more"),
        ({"fc.weight": None}, "tensor 'fc.weight' is missing"),
        ({"extra.weight": torch.zeros(3)}, "tensor 'extra.weight' belongs to no layer"),
        (
            {"layer1.0.bn1.bias": torch.zeros(65)},
            "tensor 'layer1.0.bn1.bias' has the shape (65,), not (64,)",
        ),
        (
            {"fc.weight": torch.zeros(5, 512)},
            "fc.weight answers 5 labels; 4 are given for season",
        ),
        ({"fc.weight": torch.zeros(4)}, "tensor 'fc.weight' has the shape (4,)"),
    ],
)
def test_a_state_dict_of_another_network_names_the_tensor(
    resnet, tensors: dict[str, torch.Tensor | None], said: str
) -> None:
    with pytest.raises(PermanentError) as raised:
        from_state(changed(resnet.state_dict(), **tensors), "resnet18", SEASON)

    assert raised.value.code is ErrorCode.BUNDLE_INVALID
    assert said in raised.value.message


def test_a_head_that_no_layer_is_called_after_is_named(resnet) -> None:
    with pytest.raises(PermanentError, match="0 layers are called after the head 'gender'"):
        from_state(resnet.state_dict(), "resnet18", HEADS)


class Dangerous:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_objects_are_never_unpickled(tmp_path: Path, save) -> None:
    trap = tmp_path / "sprung"
    path = tmp_path / "weights.pth"
    save({"conv1.weight": Dangerous(trap)}, path)

    with pytest.raises(PermanentError, match="Python objects, which are never loaded"):
        read_state(path)

    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.safetensors", b"nothing of the kind", "cannot be read"),
        ("a.pth", b"", "cannot be read"),
        ("none.pth", None, "cannot be read"),
    ],
)
def test_a_file_without_tensors_is_told(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(PermanentError, match=said):
        read_state(tmp_path / name)


def test_a_list_of_tensors_or_of_numbers_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    torch.save({"conv1.weight": 3}, tmp_path / "number.pt")

    with pytest.raises(PermanentError, match="holds no state dict"):
        read_state(tmp_path / "list.pt")
    with pytest.raises(PermanentError, match=r"'conv1\.weight' is no tensor"):
        read_state(tmp_path / "number.pt")


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ("a.pkl", RESNET, "weights are read from .h5, .hdf5, .keras, .pth, .pt, .safetensors"),
        ("a.pth", ImportOptions("resnet99", (64, 48)), "unknown architecture 'resnet99'; known:"),
        ("a.h5", RESNET, "Keras files are imported as vgg19, not as resnet18"),
        ("a.pth", ImportOptions("resnet18", (8, 8), scaling="log"), "unknown scaling 'log'; known"),
        ("a.pth", ImportOptions("resnet18", (8, 8), precision="int3"), "unknown precision 'int3'"),
        ("a.pth", ImportOptions("resnet18", (0, 8)), "input of 0x8"),
    ],
)
def test_options_that_cannot_be_are_told_with_the_known_ones(
    tmp_path: Path, weights: str, options: ImportOptions, said: str
) -> None:
    with pytest.raises(PermanentError) as raised:
        import_weights(tmp_path / weights, write_labels(tmp_path), options, tmp_path / "b", "none")

    assert raised.value.code is ErrorCode.VALIDATION_ERROR
    assert said in raised.value.message


def test_labels_come_as_text_as_a_list_or_by_head(tmp_path: Path) -> None:
    text = tmp_path / "labels.txt"
    text.write_text("Summer\nFall\n\n Winter \nSpring\n", encoding="utf-8")

    assert read_labels(text) == SEASON
    assert read_labels(text, "weather") == {"weather": HEADS["season"]}
    assert read_labels(write_labels(tmp_path)) == SEASON
    assert read_labels(write_labels(tmp_path, HEADS)) == HEADS


@pytest.mark.parametrize(
    ("content", "head", "said"),
    [
        ("[1, 2]", None, "holds no list of labels"),
        ('{"season": {}}', None, "holds no list of labels"),
        ("[]", None, "holds no list of labels"),
        ('["a", "b", "a"]', None, "names 'a' twice"),
        ('["MenApparel", "WomenApparel"]', None, "are those of no attribute"),
        ('{"season": ["Fall"]}', "gender", "has labels of season, not of gender"),
        ("[", None, "labels.json"),
    ],
)
def test_labels_that_cannot_be_used_are_told(
    tmp_path: Path, content: str, head: str | None, said: str
) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(PermanentError) as raised:
        read_labels(path, head)

    assert raised.value.code is ErrorCode.VALIDATION_ERROR
    assert said in raised.value.message


def test_the_embedding_keeps_the_angles_of_the_features(tmp_path: Path) -> None:
    from classification.importing import _projection
    from classification.importing.network import Network

    few = noise(6, 40)
    network = Network(torch.nn.Identity(), {"season": (torch.zeros(4, 40), torch.zeros(4))})

    turned = few @ _projection(network).numpy()

    assert turned.shape == (6, EMBEDDING_LENGTH)
    np.testing.assert_allclose(turned @ turned.T, few @ few.T, atol=1e-4)


def test_the_command_writes_a_bundle_and_says_how_it_was_made(
    tmp_path: Path, resnet, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    given = {
        "--weights": tmp_path / "resnet.pth",
        "--labels": write_labels(tmp_path),
        "--architecture": "resnet18",
        "--input": "40x30",
        "--name": "mine",
        "--scaling": "signed",
        "--precision": "int8_weights",
        "--weights-dir": tmp_path,
    }

    with pytest.raises(SystemExit) as ended:
        command.main(["import", *(str(part) for pair in given.items() for part in pair)])

    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["bundle"] == str(tmp_path / "mine")
    bundle = open_bundle(tmp_path / "mine", "classification")
    assert (bundle.input["height"], bundle.input["width"]) == (40, 30)
    assert (bundle.input["mean"], bundle.input["padding"]) == (0.5, "none")
    assert bundle.command.startswith(
        "python -m classification import --weights resnet.pth --labels labels.json"
    )
    assert bundle.graph_path.stat().st_size < 0.3 * (tmp_path / "resnet.pth").stat().st_size


def test_an_input_that_is_no_size_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    required = ("--weights", "a.pth", "--labels", "l.txt", "--architecture", "vgg19", "--name", "n")

    with pytest.raises(SystemExit) as ended:
        command.main(["import", *required, "--input", "80,60"])

    assert ended.value.code == 1
    assert "--input is height x width, as 80x60, not '80,60'" in capsys.readouterr().err
