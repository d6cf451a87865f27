"""Keras VGG19 files as Keras itself writes them, and files that only look like them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vision.errors import ErrorCode, PermanentError

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
torch = pytest.importorskip("torch")
if keras.backend.backend() != "torch":
    pytest.skip("one backend is enough", allow_module_level=True)

from keras import layers  # noqa: E402

from classification.importing.keras_files import VGG19_BLOCKS, read_chain  # noqa: E402
from classification.importing.keras_network import from_chain  # noqa: E402

SIZE_HW = (40, 33)
LABELS = {"article_type": ("Shirts", "Jeans", "Heels")}
# VGG19 with a sixteenth of its channels: the same layers, but quick to save and to read.
NARROW_BLOCKS = tuple((count, filters // 16) for count, filters in VGG19_BLOCKS)


@pytest.fixture(autouse=True)
def narrow_vgg19(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the channels differ from the real one, whose 80 MB a test would wait for."""
    monkeypatch.setattr("classification.importing.keras_files.VGG19_BLOCKS", NARROW_BLOCKS)


def body_layers(padding: str = "same") -> list[object]:
    made: list[object] = []
    for block, (count, filters) in enumerate(NARROW_BLOCKS, start=1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            made.append(layers.Conv2D(filters, 3, padding=padding, activation="relu", name=name))
        made.append(layers.MaxPooling2D(2, name=f"block{block}_pool"))
    return made


def seed_form(pooling: object | None = None) -> object:
    """A sequence of VGG19's own layers, pooled, two dense layers and dropout: the seed's form."""
    return keras.Sequential(
        [
            keras.Input((*SIZE_HW, 3)),
            *body_layers(),
            pooling or layers.GlobalMaxPooling2D(),
            layers.Dense(24, activation="relu", name="dense"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", name="dense_1"),
        ]
    )


def nested_form() -> object:
    """VGG19 as one layer of a functional model, the first blocks frozen, and a batch norm."""
    images = keras.Input((*SIZE_HW, 3))
    body = keras.Sequential([keras.Input((*SIZE_HW, 3)), *body_layers()], name="vgg19")
    for layer in body.layers[:10]:
        layer.trainable = False
    x = layers.Flatten()(body(images))
    x = layers.BatchNormalization()(layers.Dense(24)(x))
    x = layers.Activation("relu")(x)
    return keras.Model(images, layers.Dense(3, activation="softmax")(x))


def randomised(model: object, seed: int = 0) -> object:
    """Weights under which every layer matters, biases and statistics too."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.dtype == "float32":
            shape = tuple(variable.shape)
            reach = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.2
            values = rng.normal(0, reach, shape)
            variable.assign(np.abs(values) + 0.5 if "variance" in variable.name else values)
    return model


def probabilities(path: Path, images: np.ndarray) -> np.ndarray:
    network = from_chain(read_chain(path), SIZE_HW, LABELS)
    ((weight, bias),) = network.heads.values()
    with torch.no_grad():
        features = network.body.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return torch.softmax(features @ weight.T + bias, 1).numpy()


def check_same(model: object, path: Path) -> None:
    light = np.linspace(0.1, 1, 4)[:, None, None, None]
    images = (light * np.random.default_rng(1).uniform(0, 1, (4, *SIZE_HW, 3))).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model.predict_on_batch(images))
    assert expected.std(axis=0).max() > 1e-3  # the answer depends on the image
    np.testing.assert_allclose(probabilities(path, images), expected, atol=1e-5)


@pytest.mark.parametrize("form", [seed_form, nested_form])
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_a_full_model_answers_as_it_does_in_keras(tmp_path: Path, form, suffix: str) -> None:
    model = randomised(form())
    path = tmp_path / f"model.{suffix}"
    model.save(path)

    check_same(model, path)


@pytest.mark.parametrize(
    "pooling",
    [layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D, layers.Flatten],
)
def test_weights_alone_are_those_of_a_vgg19(tmp_path: Path, pooling) -> None:
    model = randomised(seed_form(pooling()))
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)

    check_same(model, path)


def test_weights_alone_of_the_older_form_too(tmp_path: Path) -> None:
    model = randomised(seed_form(layers.GlobalAveragePooling2D()))
    model.save(tmp_path / "model.h5")
    path = tmp_path / "weights.h5"
    with h5py.File(tmp_path / "model.h5") as full, h5py.File(path, "w") as alone:
        # What TensorFlow's Keras 2 wrote: scopes with a number of their own, and `:0`.
        root = full["model_weights"]
        alone.attrs["layer_names"] = list(root.attrs["layer_names"])
        for layer in root.attrs["layer_names"]:
            group = alone.create_group(layer)
            names = []
            for weight in root[layer].attrs["weight_names"]:
                names.append(f"{layer}_7/{weight.rsplit('/', 1)[1]}:0".encode())
                group[names[-1]] = root[layer][weight][()]
            group.attrs["weight_names"] = names

    check_same(model, path)


def edited(tmp_path: Path, change) -> Path:
    """The seed's form as `.h5`, its config changed."""
    path = tmp_path / "model.h5"
    randomised(seed_form()).save(path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        change(config["config"]["layers"], file["model_weights"])
        file.attrs["model_config"] = json.dumps(config)
    return path


def replace(index: int, **content: object):
    def change(config_layers, weights) -> None:
        config_layers[index] = config_layers[index] | content

    return change


def setting(index: int, **content: object):
    def change(config_layers, weights) -> None:
        config_layers[index]["config"].update(content)

    return change


def without_weights(name: str):
    def change(config_layers, weights) -> None:
        weights[name].attrs["weight_names"] = np.array([])

    return change


def as_link(config_layers, weights) -> None:
    group = weights["dense"]
    path = group.attrs["weight_names"][0]
    del group[path]
    group[path] = h5py.ExternalLink("/etc/hostname.h5", "/secrets")


def as_external(config_layers, weights) -> None:
    group = weights["dense"]
    path = group.attrs["weight_names"][0]
    shape = group[path].shape
    del group[path]
    group.create_dataset(path, shape, "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def not_finite(config_layers, weights) -> None:
    group = weights["dense"]
    group[group.attrs["weight_names"][1]][0] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replace(1, class_name="Lambda"), "'block1_conv1' is of class Lambda, which is not"),
        (replace(1, class_name="TFOpLambda"), "is of class TFOpLambda, which is not imported"),
        (setting(1, activation="gelu"), "has activation 'gelu'; known: linear, relu, softmax"),
        (setting(1, dilation_rate=[2, 2]), "has dilation_rate [2, 2]; known: (1, 1)"),
        (setting(1, strides=[2, 2]), "has padding 'same' and strides (2, 2)"),
        (setting(0, batch_shape=[None, 80, 60, 3]), "takes (80, 60) (H, W), not (40, 33)"),
        (setting(-1, activation="relu"), "is no dense layer with a softmax"),
        (without_weights("block3_conv2"), "has no weights of layer 'block3_conv2'"),
        (as_link, "is missing or a link"),
        (as_external, "is no array in the file"),
        (not_finite, "holds numbers that are not finite"),
    ],
)
def test_a_model_that_cannot_be_imported_says_why(tmp_path: Path, change, said: str) -> None:
    path = edited(tmp_path, change)

    with pytest.raises(PermanentError) as raised:
        from_chain(read_chain(path), SIZE_HW, LABELS)

    assert raised.value.code is ErrorCode.BUNDLE_INVALID
    assert said in raised.value.message


def test_tensors_of_unexpected_shapes_are_named(tmp_path: Path) -> None:
    def change(config_layers, weights) -> None:
        group = weights["block4_conv2"]
        path = next(p for p in group.attrs["weight_names"] if p.endswith("kernel"))
        del group[path]
        group[path] = np.zeros((3, 3, 32, 30), np.float32)

    with pytest.raises(PermanentError) as raised:
        from_chain(read_chain(edited(tmp_path, change)), SIZE_HW, LABELS)

    assert raised.value.message == (
        "tensor 'block4_conv2/kernel' has the shape (3, 3, 32, 30), not (3, 3, 32, 32)"
    )


def test_as_many_labels_as_the_last_layer_answers(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    seed_form().save(path)

    with pytest.raises(PermanentError, match="answers 3 labels; 2 are given for article_type"):
        from_chain(read_chain(path), SIZE_HW, {"article_type": ("Shirts", "Jeans")})


def test_a_network_with_branches_is_no_chain(tmp_path: Path) -> None:
    images = keras.Input((*SIZE_HW, 3))
    pooled = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(images))
    outputs = [layers.Dense(3, name="a")(pooled), layers.Dense(3, name="b")(pooled)]
    keras.Model(images, outputs).save(tmp_path / "two.h5")

    with pytest.raises(PermanentError, match="layer 'b' does not follow 'a': no chain of layers"):
        read_chain(tmp_path / "two.h5")


def test_another_network_than_vgg19_is_told(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((*SIZE_HW, 3)),
            layers.Conv2D(8, 3, padding="same"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.save(tmp_path / "other.keras")
    model.save_weights(tmp_path / "other.weights.h5")

    with pytest.raises(PermanentError, match=r"VGG19 has blocks of .* this network"):
        from_chain(read_chain(tmp_path / "other.keras"), SIZE_HW, LABELS)
    with pytest.raises(PermanentError, match="this file has the weights of 1 and 1"):
        read_chain(tmp_path / "other.weights.h5")


def write_zip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.h5", b"no HDF5", "a.h5 cannot be read"),
        ("a.keras", b"no zip", "a.keras cannot be read"),
        ("none.h5", None, "none.h5 cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_told(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(PermanentError, match=said):
        read_chain(tmp_path / name)


def test_a_hollow_file_is_told(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.keras", config__json=b"{}", model__weights__h5=b"")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1.0]

    with pytest.raises(PermanentError, match=r"a\.keras"):
        read_chain(tmp_path / "a.keras")
    with pytest.raises(PermanentError, match="holds neither a Keras model nor its weights"):
        read_chain(tmp_path / "a.h5")
