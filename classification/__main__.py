"""`python -m classification train | evaluate | predict | export | import`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from classification import fashion_mnist
from classification.config import load_config
from classification.datasets import open_dataset
from classification.photos import as_photo, open_photos
from classification.predictor import MAX_BATCH, AttributeClassifier
from vision.archive import image_names, open_archive
from vision.bundle import WEIGHTS_DIR, Bundle, open_bundle, resolve, update_metrics
from vision.errors import ErrorCode, PermanentError, VestiaryError
from vision.garments import Crop, Labels
from vision.image import EncodedImage, RgbImage, decode
from vision.predictions import write_predictions

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Model = Annotated[str, typer.Option(help="A bundle's folder under the weights, or `default`.")]
WeightsDir = Annotated[Path, typer.Option(help="Folder of the bundles.")]
Threads = Annotated[int, typer.Option(min=0, help="Cores to use; 0 for ONNX Runtime's choice.")]
ConfigFile = Annotated[Path, typer.Option(help="A file of configs/classification.")]
Products = Annotated[Path | None, typer.Option(help="Fashion Product Images, a folder or a zip.")]
HomePhotos = Annotated[
    Path | None, typer.Option(help="The clothing dataset of home photos, a folder or a zip.")
]
StreetPhotos = Annotated[Path | None, typer.Option(help="Clothing Co-Parsing, a folder or a zip.")]
FashionMnistFiles = Annotated[
    Path | None, typer.Option("--fashion-mnist", help="Its IDX files, in a folder or a zip.")
]
Precision = Annotated[str, typer.Option(help="fp32, fp16, int8 or int8_weights.")]
RunsDir = Annotated[Path, typer.Option(help="Where checkpoints go.")]


@app.command("predict")
def predict_command(
    images: Annotated[
        Path, typer.Option(help="A folder or a zip of photos, or an IDX file of grey images.")
    ],
    output: Annotated[Path, typer.Option(help="JSON Lines file to write, one line a photo.")],
    model: Model = "default",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Answer `unknown` under the bundle's thresholds.")
    ] = False,
) -> None:
    """Write the attributes of every photo as one JSON line, in the order of the names.

    Of an IDX file, as Fashion-MNIST comes in, each line has the image's index and its class.
    """
    classifier = AttributeClassifier(_open(model, weights_dir), threads, allow_unknown=unknown)
    if fashion_mnist.is_idx(images):
        _predict_idx(classifier, images, output)
        return

    def answers(photos: Sequence[RgbImage]) -> list[dict[str, Any]]:
        labels = classifier.predict([whole(photo) for photo in photos])
        return [{"attributes": attributes_as_json(one)} for one in labels]

    write_predictions(images, output, answers, MAX_BATCH)


@app.command("evaluate")
def evaluate_command(
    data: Annotated[
        Path,
        typer.Option(
            help="Products, home or street photos or Fashion-MNIST, a folder or a zip.",
        ),
    ],
    model: Model = "default",
    split: Annotated[
        str, typer.Option(help="train, validation, calibration, test, t10k or all.")
    ] = "all",
    given: Annotated[
        list[str] | None,
        typer.Option(help="An attribute whose right label each photo's answer is told as a hint."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="A folder in which to write an HTML page about it all.")
    ] = None,
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Print accuracy, calibration and coverage as one JSON object."""
    from classification.evaluate import figures, measure

    evaluation = measure(_open(model, weights_dir), data, split, threads, given or ())
    content = figures(evaluation)
    if report is not None:
        from classification.report import write_report

        typer.echo(f"report: {write_report(evaluation, content, report)}", err=True)
    typer.echo(json.dumps(content))


@app.command("calibrate")
def calibrate_command(
    model: Model = "default",
    products: Products = None,
    home_photos: HomePhotos = None,
    street_photos: StreetPhotos = None,
    fashion_mnist_files: FashionMnistFiles = None,
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Fit a bundle's temperatures, thresholds and hints anew, and print them.

    They are fitted on the first data set given; the figures are those of `test` of all.
    """
    from classification.recalibrate import recalibrate

    paths = _given(products, home_photos, street_photos, fashion_mnist_files)
    if not paths:
        raise PermanentError(ErrorCode.VALIDATION_ERROR, "name a data set to calibrate on")
    bundle = recalibrate(_open(model, weights_dir), open_photos(paths[0]), threads)
    _write_figures(bundle, paths)
    fitted = {name: bundle.output[name] for name in ("temperatures", "thresholds")}
    typer.echo(json.dumps({"bundle": str(bundle.path), "version": bundle.version, **fitted}))


@app.command("train")
def train_command(
    config: ConfigFile,
    products: Products = None,
    home_photos: HomePhotos = None,
    street_photos: StreetPhotos = None,
    fashion_mnist_files: FashionMnistFiles = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Train, or continue an interrupted run; prints the finished weights' path."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from classification.train import TrainingSet, train

    settings = load_config(config)
    datasets: list[TrainingSet] = [
        open_dataset(path) for path in _given(products, home_photos, street_photos)
    ]
    if fashion_mnist_files is not None:
        datasets.append(fashion_mnist.open_fashion_mnist(fashion_mnist_files))
    typer.echo(train(settings, datasets, runs_dir / settings.name))


@app.command("export")
def export_command(
    config: ConfigFile,
    products: Products = None,
    home_photos: HomePhotos = None,
    street_photos: StreetPhotos = None,
    fashion_mnist_files: FashionMnistFiles = None,
    precision: Precision = "fp32",
    name: Annotated[
        str | None, typer.Option(help="The bundle's folder; the config's name unless given.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    weights_dir: WeightsDir = WEIGHTS_DIR,
) -> None:
    """Write a bundle from a finished run: graph, parity, temperatures, figures on `test`.

    The temperatures are fitted on the first data set given.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.config.set_image_data_format("channels_first")
    from classification.export import export
    from classification.train import WEIGHTS

    settings = load_config(config)
    paths = _given(products, home_photos, street_photos, fashion_mnist_files)
    if not paths:
        raise PermanentError(ErrorCode.VALIDATION_ERROR, "name the data sets that it learnt from")
    datasets = [open_photos(path) for path in paths]
    folder = weights_dir / (name or settings.name)
    command = f"python -m classification train --config configs/classification/{config.name}"
    weights = runs_dir / settings.name / WEIGHTS
    bundle = export(settings, weights, datasets, folder, command, precision)
    _write_figures(bundle, paths)
    typer.echo(json.dumps({"bundle": str(folder), "parity": dict(bundle.parity)}))


def _write_figures(bundle: Bundle, data: Sequence[Path]) -> None:
    """Measure a bundle on `test` of each data set, and put the figures into its metadata."""
    from classification.evaluate import brief, evaluate

    figures = [brief(evaluate(bundle, path, "test")) for path in data]
    metrics = {f"{entry['layout']}_test": entry for entry in figures}
    update_metrics(bundle.path, "classification", metrics)


@app.command("import")
def import_command(
    weights: Annotated[
        Path, typer.Option(help="A Keras .h5 or .keras file, a .pth or a .safetensors file.")
    ],
    labels: Annotated[
        Path, typer.Option(help="Its labels: a line each, or JSON: a list, or {head: list}.")
    ],
    architecture: Annotated[
        str,
        typer.Option(help="vgg19, vgg19_bn, convnext_tiny, resnet18, resnet34 or resnet50."),
    ],
    input_size: Annotated[str, typer.Option("--input", help="Height x width, as 80x60.")],
    name: Annotated[str, typer.Option(help="The bundle's folder.")],
    head: Annotated[
        str | None, typer.Option(help="What the labels answer, where they do not tell.")
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help="What its pixels were scaled to: unit [0, 1], signed [-1, 1], imagenet or caffe; "
            "unless given unit for Keras files, imagenet for others.",
        ),
    ] = None,
    padding: Annotated[
        str, typer.Option(help="none: photos are stretched; white: padded to the input's shape.")
    ] = "none",
    precision: Precision = "fp32",
    photos: Annotated[
        Path | None, typer.Option(help="For int8: a folder or zip of photos to calibrate on.")
    ] = None,
    weights_dir: WeightsDir = WEIGHTS_DIR,
) -> None:
    """Make a bundle of weights that were trained elsewhere. No code in them is run."""
    from classification.importing import ImportOptions, import_weights

    options = ImportOptions(
        architecture, _size(input_size), head, scaling, padding=padding, precision=precision
    )
    command = (
        f"python -m classification import --weights {weights.name} --labels {labels.name} "
        f"--architecture {architecture} --input {input_size} --name {name} --padding {padding} "
        f"--precision {precision}"
        + (f" --head {head}" if head else "")
        + (f" --scaling {scaling}" if scaling else "")
    )
    some = [] if photos is None else _some_photos(photos)
    bundle = import_weights(weights, labels, options, weights_dir / name, command, some)
    typer.echo(json.dumps({"bundle": str(bundle.path), "parity": dict(bundle.parity)}))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if found is None:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR, f"--input is height x width, as 80x60, not {text!r}"
        )
    return int(found[1]), int(found[2])


def _some_photos(path: Path) -> list[NDArray[np.uint8]]:
    """Up to as many photos as int8 is calibrated on, evenly spread over a folder or zip."""
    from classification.quantise import CALIBRATION_PHOTOS

    with contextlib.closing(open_archive(path)) as archive:
        names = image_names(archive)
        chosen = names[:: max(1, -(-len(names) // CALIBRATION_PHOTOS))]
        photos = []
        for name in chosen:
            try:
                photos.append(decode(EncodedImage(archive.read(name))).pixels)
            except PermanentError as error:
                logging.warning("skipped %s: %s", name, error.message)
        return photos


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None]


def _predict_idx(classifier: AttributeClassifier, images: Path, output: Path) -> None:
    """A line for each image: its index, the number and name of its class, and how sure."""
    if fashion_mnist.HEAD not in classifier.heads:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR,
            f"an IDX file needs a bundle that answers {fashion_mnist.HEAD}; "
            f"{classifier.name} answers {', '.join(classifier.heads)}",
        )
    crops = [as_photo(image) for image in fashion_mnist.read_images(images)]
    answers = classifier.predict([Crop(pixels, (0, 0, *pixels.shape[1::-1])) for pixels in crops])
    with output.open("w", encoding="utf-8") as file:
        for index, labels in enumerate(answers):
            answer = labels.attributes[fashion_mnist.HEAD]
            line = {
                "index": index,
                "label": fashion_mnist.LABELS.index(answer.alternatives[0][0]),
                "name": answer.label,
                "confidence": round(answer.confidence, 4),
            }
            file.write(json.dumps(line) + "\n")


def attributes_as_json(labels: Labels) -> dict[str, dict[str, Any]]:
    """Label and confidence, four digits, of each attribute."""
    return {
        attribute: {"label": answer.label, "confidence": round(answer.confidence, 4)}
        for attribute, answer in labels.attributes.items()
    }


def whole(image: RgbImage) -> Crop:
    """The photo as one crop."""
    return Crop(image.pixels, (0, 0, *image.resolution_wh))


def _open(model: str, weights_dir: Path) -> Bundle:
    return open_bundle(resolve(model, "classification", weights_dir), "classification")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a failure we know is one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app(args=arguments)
    except VestiaryError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
