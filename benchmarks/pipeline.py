"""How much of an analysis the models take, and how much the house around them.

    python -m benchmarks.pipeline [--json]

Analyses a photo of 1000×1500 pixels again and again, warm, and in the same run the three models
alone on the same inputs. Last line with `--json`: one object. `overhead_over_models` is the whole
analysis over the models alone (1.0 would be a house that costs nothing); `shares` is each stage's
part of the whole; `cpu_ms` is the processor time of an analysis, of all cores, which a busy machine
hardly changes; `rss_mb` is the process's peak memory.
"""

from __future__ import annotations

import io
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from services.bootstrap import build_pipeline
from services.pipeline.crop import crop
from services.pipeline.run import Pipeline
from services.settings import Settings
from vision.image import EncodedImage, decode

SAMPLE = Path(__file__).resolve().parent.parent / "samples" / "grace_hopper.jpg"
RESOLUTION_WH = (1000, 1500)


def main(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    rounds: Annotated[int, typer.Option(min=3)] = 15,
) -> None:
    console = Console(stderr=True)
    pipeline = build_pipeline(Settings())
    photo = _photo()
    report = pipeline.analyze(photo)
    whole, alone = [], []
    stages: dict[str, list[float]] = {stage: [] for stage in report.timings_ms}
    models_alone = _models_alone(pipeline, photo)
    cpu = []
    for _ in track(range(rounds), "analysing", console=console, transient=True):
        began = time.process_time()
        whole.append(_milliseconds(lambda: _keep(stages, pipeline, photo)))
        cpu.append((time.process_time() - began) * 1000)
        alone.append(_milliseconds(models_alone))
    total = statistics.median(whole)
    figures = {
        "photo": list(RESOLUTION_WH),
        "garments": len(report.garments),
        "analysis_ms": round(total, 1),
        "cpu_ms": round(statistics.median(cpu), 1),
        "models_alone_ms": round(statistics.median(alone), 1),
        "overhead_over_models": round(total / statistics.median(alone), 3),
        "shares": {
            stage: round(statistics.median(times) / total, 3)
            for stage, times in stages.items()
            if stage != "total"
        },
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if as_json:
        print(json.dumps(figures))
    else:
        Console().print(figures)


def _photo() -> EncodedImage:
    """The sample at the size catalogue photos come in."""
    buffer = io.BytesIO()
    Image.open(SAMPLE).resize(RESOLUTION_WH).save(buffer, "JPEG", quality=90)
    return EncodedImage(data=buffer.getvalue())


def _models_alone(pipeline: Pipeline, photo: EncodedImage) -> Callable[[], None]:
    """The three models on ready inputs, nothing around them."""
    image = decode(photo)
    boxes = [garment.xyxy for garment in pipeline.analyze(photo).garments]
    crops = [crop(image, box) for box in boxes]

    def run() -> None:
        pipeline.detector.predict([image])
        pipeline.style_model.predict([image])
        pipeline.classifier.predict(crops)

    return run


def _keep(stages: dict[str, list[float]], pipeline: Pipeline, photo: EncodedImage) -> None:
    for stage, time_ms in pipeline.analyze(photo).timings_ms.items():
        stages[stage].append(time_ms)


def _milliseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    typer.run(main)
