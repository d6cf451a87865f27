"""`python -m detection convert | train | evaluate | predict | export | import`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from detection.config import ConfigError, load_config
from detection.predictor import MAX_BATCH, evaluation_min_score
from detection.serving import open_detector, require_detectron2
from vision.bundle import WEIGHTS_DIR, Bundle, open_bundle, resolve
from vision.errors import VestiaryError
from vision.garments import Detections
from vision.image import RgbImage
from vision.predictions import write_predictions

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Model = Annotated[str, typer.Option(help="A bundle's folder under the weights, or `default`.")]
WeightsDir = Annotated[Path, typer.Option(help="Folder of the bundles.")]
Threads = Annotated[int, typer.Option(min=0, help="Cores to use; 0 for ONNX Runtime's choice.")]
Data = Annotated[Path, typer.Option(help="The data set that the configuration is for.")]
Images = Annotated[Path | None, typer.Option(help="Where the photos of a COCO file are.")]
ConfigFile = Annotated[Path, typer.Option(help="A file of configs/detection.")]


@app.command("predict")
def predict_command(
    images: Annotated[Path, typer.Option(help="A folder or a zip of photos.")],
    output: Annotated[Path, typer.Option(help="JSON Lines file to write, one line a photo.")],
    model: Model = "default",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Weakest box written; default: the bundle's for evaluation."
        ),
    ] = None,
) -> None:
    """Write the garments of every photo as one JSON line, in the order of the names."""
    bundle = _open(model, weights_dir)
    least = evaluation_min_score(bundle) if min_score is None else min_score
    detector = open_detector(bundle, threads, least)

    def answers(photos: Sequence[RgbImage]) -> list[dict[str, Any]]:
        return [{"detections": detections_as_json(found)} for found in detector.predict(photos)]

    write_predictions(images, output, answers, MAX_BATCH)


@app.command("evaluate")
def evaluate_command(
    data: Annotated[
        Path, typer.Option(help="Clothing Co-Parsing, DeepFashion2, home photos, or a COCO file.")
    ],
    model: Model = "default",
    split: Annotated[
        str,
        typer.Option(help="all; of CCP train, validation, calibration, test; of DeepFashion2 its."),
    ] = "all",
    images: Images = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with pictures.")] = None,
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Print COCO's box figures, or for home photos the shares with one right box, as JSON."""
    from detection.evaluate import evaluation_of, figures
    from detection.home_photos import is_home_photos, score_home_photos

    if is_home_photos(data):
        detector = open_detector(_open(model, weights_dir), threads)
        typer.echo(json.dumps(score_home_photos(detector, data, split)))
        return
    evaluation = evaluation_of(_open(model, weights_dir), data, split, threads, images)
    values = figures(evaluation)
    if report is not None:
        from detection.report import write_report

        write_report(evaluation, values, report)
    typer.echo(json.dumps(values))


@app.command("convert")
def convert_command(
    layout: Annotated[str, typer.Argument(help="deepfashion2, ccp or coco.")],
    source: Annotated[Path, typer.Argument(help="The data set, a folder or a zip.")],
    coco: Annotated[Path, typer.Option(help="COCO file to write.")],
    split: Annotated[str, typer.Option(help="A split of the data set, or all.")] = "all",
) -> None:
    """Write a data set as one COCO file; prints what was written and counts what was wrong."""
    from detection.convert import convert
    from detection.layouts import open_set

    typer.echo(json.dumps(convert(open_set(source, layout, split), coco)))


@app.command("train")
def train_command(
    config: ConfigFile,
    data: Data,
    home_photos: Annotated[
        Path | None, typer.Option(help="Clothing Dataset, where the configuration wants it.")
    ] = None,
    products: Annotated[
        Path | None, typer.Option(help="Fashion Product Images, where it wants them.")
    ] = None,
    images: Images = None,
    runs_dir: Annotated[Path, typer.Option(help="Where checkpoints go.")] = Path("runs"),
) -> None:
    """Train, or continue an interrupted run; prints the best checkpoint's path."""
    require_detectron2()
    from detection.rcnn.config import is_rcnn_config, load_rcnn_config

    if is_rcnn_config(config):
        from detection.rcnn.train import train_rcnn

        typer.echo(train_rcnn(load_rcnn_config(config), data, runs_dir, images))
        return
    from detection.train import train

    typer.echo(train(load_config(config), data, runs_dir, home_photos, products))


@app.command("import")
def import_command(
    config: Annotated[Path, typer.Option(help="config.yaml that Detectron2 wrote.")],
    weights: Annotated[Path, typer.Option(help="model_final.pth, or a .pkl of the model zoo.")],
    labels: Annotated[
        str, typer.Option(help="deepfashion2, garments, or a file with one class name a line.")
    ],
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Weakest box served.")] = 0.55,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "unknown",
    weights_dir: WeightsDir = WEIGHTS_DIR,
) -> None:
    """Make a bundle of a network trained with Detectron2, served by Detectron2 itself."""
    require_detectron2()
    from detection.rcnn.importing import Checkpoint, import_checkpoint
    from detection.rcnn.labels import read_labels

    checkpoint = Checkpoint(config, weights, read_labels(labels), min_score, licence)
    command = f"python -m detection import --config {config.name} --weights {weights.name}"
    bundle = import_checkpoint(checkpoint, weights_dir / name, f"{command} --labels {labels}")
    typer.echo(json.dumps({"bundle": str(bundle.path), "version": bundle.version}))


@app.command("export")
def export_command(
    config: ConfigFile,
    checkpoint: Annotated[Path, typer.Option(help="best.pt of a run.")],
    data: Data,
    home_photos: Annotated[
        Path | None, typer.Option(help="Clothing Dataset, to measure photos of one garment.")
    ] = None,
    name: Annotated[str, typer.Option(help="The bundle's name.")] = "garment_detector",
    weights_dir: WeightsDir = WEIGHTS_DIR,
) -> None:
    """Write a bundle from a checkpoint: graph, threshold, parity, figures on the test split."""
    require_detectron2()
    from detection.export import export

    bundle = export(checkpoint, load_config(config), data, weights_dir / name, home_photos)
    typer.echo(json.dumps({"bundle": str(bundle.path), "parity": dict(bundle.parity)}))


def detections_as_json(found: Detections) -> list[dict[str, Any]]:
    """Boxes with a hundredth of a pixel, scores with four digits."""
    return [
        {"box": [round(float(v), 2) for v in box], "label": label, "score": round(float(score), 4)}
        for box, label, score in zip(found.xyxy, found.labels, found.scores, strict=True)
    ]


def _open(model: str, weights_dir: Path) -> Bundle:
    return open_bundle(resolve(model, "detection", weights_dir), "detection")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a failure we know is one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # It tells every score it computes, which the commands print as JSON.
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    try:
        app(args=arguments)
    except (VestiaryError, ConfigError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
