"""`python -m style_maskrcnn train | train-attributes | evaluate | predict | export`, and
`train-upper-body` and `export-upper-body` for the bundle of the upper body's attributes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.upper_body.predictor import AttributedStyleModel, UpperBodyModel
from vision.bundle import WEIGHTS_DIR, Bundle, open_bundle, resolve, resolve_optional
from vision.errors import VestiaryError
from vision.garments import StyleInstances
from vision.image import RgbImage
from vision.predictions import write_predictions

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Model = Annotated[str, typer.Option(help="A bundle's folder under the weights, or `default`.")]
Attributes = Annotated[
    str, typer.Option(help="The bundle of the upper body's attributes, `default` or `none`.")
]
WeightsDir = Annotated[Path, typer.Option(help="Folder of the bundles.")]
Threads = Annotated[int, typer.Option(min=0, help="Cores to use; 0 for the library's choice.")]
ConfigFile = Annotated[Path, typer.Option("--config", help="A file of configs/style_maskrcnn.")]
Run = Annotated[Path, typer.Option(help="The run's folder, made when missing.")]
Checkpoint = Annotated[Path, typer.Option(help="A .pt file of a run.")]


@app.command("predict")
def predict_command(
    images: Annotated[Path, typer.Option(help="A folder or a zip of photos.")],
    output: Annotated[Path, typer.Option(help="JSON Lines file to write, one line a photo.")],
    model: Model = "default",
    attributes: Attributes = "default",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
    believed_only: Annotated[
        bool, typer.Option(help="Only what the service would report, not every candidate.")
    ] = False,
) -> None:
    """Write the instances of every photo as one JSON line, in the order of the names."""
    style = StyleModel(_open(model, weights_dir), threads, believed_only=believed_only)
    upper_body = _upper_body(attributes, weights_dir, threads)
    predictor = style if upper_body is None else AttributedStyleModel(style, upper_body)

    def answers(photos: Sequence[RgbImage]) -> list[dict[str, Any]]:
        return [{"instances": instances_as_json(found)} for found in predictor.predict(photos)]

    write_predictions(images, output, answers, batch_size=1)


@app.command("evaluate")
def evaluate_command(
    data: Annotated[
        Path,
        typer.Option(help="Any data set the model knows, a folder or a zip; see docs/training.md."),
    ],
    model: Model = "default",
    attributes: Attributes = "default",
    split: Annotated[
        str, typer.Option(help="train, validation, calibration, test or all.")
    ] = "all",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Print the bundle's figures as one JSON object."""
    from style_maskrcnn.evaluate import evaluate

    bundle = _open(model, weights_dir)
    upper_body = _upper_body(attributes, weights_dir, threads)
    typer.echo(json.dumps(evaluate(bundle, data, split, threads, upper_body)))


@app.command("train")
def train_command(
    config: ConfigFile,
    data: Annotated[Path, typer.Option(help="A folder or a zip in the config's layout.")],
    run: Run = Path("runs/style_mask_rcnn"),
    threads: Threads = 0,
) -> None:
    """Train boxes, tags, masks and what attributes the layout has; prints the best checkpoint.

    A run that was stopped goes on.
    """
    from style_maskrcnn.config import load_config
    from style_maskrcnn.train import train

    typer.echo(train(load_config(config), data, run, threads))


@app.command("train-attributes")
def train_attributes_command(
    config: ConfigFile,
    checkpoint: Checkpoint,
    data: Annotated[Path, typer.Option(help="The Myntra catalogue, a folder or a zip.")],
    run: Run = Path("runs/style_mask_rcnn"),
    threads: Threads = 0,
) -> None:
    """Train the attribute head on a frozen network; prints the new checkpoint."""
    from style_maskrcnn.config import load_config
    from style_maskrcnn.train_attributes import train_attributes

    typer.echo(train_attributes(checkpoint, load_config(config), data, run, threads))


@app.command("train-upper-body")
def train_upper_body_command(
    config: ConfigFile,
    data: Annotated[Path, typer.Option(help="The Clothing Attribute Dataset, a folder or a zip.")],
    run: Run = Path("runs/style_attributes"),
    model: Model = "default",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Train the upper body's attributes, or go on where a run stopped; prints the checkpoint."""
    from style_maskrcnn.upper_body.config import load_config
    from style_maskrcnn.upper_body.train import train

    style = StyleModel(_open(model, weights_dir), threads, believed_only=False)
    typer.echo(train(load_config(config), data, style, run, threads))


@app.command("export-upper-body")
def export_upper_body_command(
    checkpoint: Checkpoint,
    data: Annotated[Path, typer.Option(help="The Clothing Attribute Dataset, to calibrate.")],
    run: Run = Path("runs/style_attributes"),
    name: Annotated[str, typer.Option(help="The bundle's name.")] = "style_attributes",
    model: Model = "default",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Write the bundle of the upper body's attributes: graph, calibration, parity, figures."""
    from style_maskrcnn.upper_body.export import export_upper_body

    style = StyleModel(_open(model, weights_dir), threads, believed_only=False)
    bundle = export_upper_body(checkpoint, data, style, weights_dir / name, run)
    typer.echo(json.dumps({"bundle": str(bundle.path), "parity": dict(bundle.parity)}))


@app.command("export")
def export_command(
    config: ConfigFile,
    checkpoint: Checkpoint,
    data: Annotated[Path, typer.Option(help="In the config's layout, to set the serving score.")],
    name: Annotated[str, typer.Option(help="The bundle's name.")] = "style_mask_rcnn",
    weights_dir: WeightsDir = WEIGHTS_DIR,
    threads: Threads = 0,
) -> None:
    """Write a bundle from a checkpoint: graph, serving score, parity with the network."""
    from style_maskrcnn.config import load_config
    from style_maskrcnn.export import export

    bundle = export(checkpoint, load_config(config), data, weights_dir / name, threads)
    typer.echo(json.dumps({"bundle": str(bundle.path), "parity": dict(bundle.parity)}))


def instances_as_json(found: StyleInstances) -> list[dict[str, Any]]:
    """Boxes in pixels of the upright photo, scores and confidences with four digits."""
    return [
        {
            "box": [float(edge) for edge in found.xyxy[index]],
            "label": label,
            "score": round(float(found.scores[index]), 4),
            "mask": found.masks[index].as_coco(),
            "attributes": {
                group: {"label": answer.label, "confidence": round(answer.confidence, 4)}
                for group, answer in found.attributes[index].items()
            },
        }
        for index, label in enumerate(found.labels)
    ]


def _open(model: str, weights_dir: Path) -> Bundle:
    return open_bundle(resolve(model, "style", weights_dir), "style")


def _upper_body(name: str, weights_dir: Path, threads: int) -> UpperBodyModel | None:
    folder = resolve_optional(name, "style_attributes", weights_dir)
    if folder is None:
        return None
    return UpperBodyModel(open_bundle(folder, "style_attributes"), threads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a failure we know is one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # The scorer reports every step of its own.
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    try:
        app(args=arguments)
    except (VestiaryError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
