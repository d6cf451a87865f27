"""`python -m classification train | evaluate | predict | export`."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from classification.config import load_config
from classification.datasets import open_dataset
from classification.predictor import MAX_BATCH, AttributeClassifier
from vision.bundle import WEIGHTS_DIR, Bundle, open_bundle, resolve, update_metrics
from vision.errors import VestiaryError
from vision.garments import Crop, Labels
from vision.image import RgbImage
from vision.predictions import write_predictions

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Model = Annotated[str, typer.Option(help="A bundle's folder under the weights, or `default`.")]
WeightsDir = Annotated[Path, typer.Option(help="Folder of the bundles.")]
Threads = Annotated[int, typer.Option(min=0, help="Cores to use; 0 for ONNX Runtime's choice.")]
ConfigFile = Annotated[Path, typer.Option(help="A file of configs/classification.")]
Products = Annotated[Path, typer.Option(help="Fashion Product Images, a folder or a zip.")]
HomePhotos = Annotated[
    Path | None, typer.Option(help="The clothing dataset of home photos, a folder or a zip.")
]
StreetPhotos = Annotated[Path | None, typer.Option(help="Clothing Co-Parsing, a folder or a zip.")]
RunsDir = Annotated[Path, typer.Option(help="Where checkpoints go.")]


@app.command("predict")
def predict_command(
    images: Annotated[Path, typer.Option(help="A folder or a zip of photos.")],
    output: Annotated[Path, typer.Option(help="JSON Lines file to write, one line a photo.")],
    model: Model = "default",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Answer `unknown` under the bundle's thresholds.")
    ] = False,
) -> None:
    """Write the attributes of every photo as one JSON line, in the order of the names."""
    classifier = AttributeClassifier(_open(model, weights_dir), threads, allow_unknown=unknown)

    def answers(photos: Sequence[RgbImage]) -> list[dict[str, Any]]:
        labels = classifier.predict([whole(photo) for photo in photos])
        return [{"attributes": attributes_as_json(one)} for one in labels]

    write_predictions(images, output, answers, MAX_BATCH)


@app.command("evaluate")
def evaluate_command(
    data: Annotated[Path, typer.Option(help="Products or home photos, a folder or a zip.")],
    model: Model = "default",
    split: Annotated[
        str, typer.Option(help="train, validation, calibration, test or all.")
    ] = "all",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Print accuracy, calibration and coverage as one JSON object."""
    from classification.evaluate import evaluate

    typer.echo(json.dumps(evaluate(_open(model, weights_dir), data, split, threads)))


@app.command("train")
def train_command(
    config: ConfigFile,
    products: Products,
    home_photos: HomePhotos = None,
    street_photos: StreetPhotos = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Train, or continue an interrupted run; prints the finished weights' path."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from classification.train import train

    settings = load_config(config)
    paths = [path for path in (products, home_photos, street_photos) if path is not None]
    datasets = [open_dataset(path) for path in paths]
    typer.echo(train(settings, datasets, runs_dir / settings.name))


@app.command("export")
def export_command(
    config: ConfigFile,
    products: Products,
    home_photos: HomePhotos = None,
    street_photos: StreetPhotos = None,
    runs_dir: RunsDir = Path("runs"),
    weights_dir: WeightsDir = WEIGHTS_DIR,
) -> None:
    """Write a bundle from a finished run: graph, parity, temperatures, figures on `test`."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.config.set_image_data_format("channels_first")
    from classification.evaluate import evaluate
    from classification.export import export
    from classification.train import WEIGHTS

    settings = load_config(config)
    paths = [path for path in (products, home_photos, street_photos) if path is not None]
    datasets = [open_dataset(path) for path in paths]
    folder = weights_dir / settings.name
    command = f"python -m classification train --config configs/classification/{config.name}"
    bundle = export(settings, runs_dir / settings.name / WEIGHTS, datasets, folder, command)
    metrics = {}
    for dataset, path in zip(datasets, paths, strict=True):
        figures = evaluate(bundle, path, "test")
        figures["skipped"] = figures["skipped"]["count"]
        metrics[f"{dataset.layout}_test"] = figures
    update_metrics(folder, "classification", metrics)
    typer.echo(json.dumps({"bundle": str(folder), "parity": dict(bundle.parity)}))


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
