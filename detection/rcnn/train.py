"""Training of Detectron2's own networks with its `DefaultTrainer`.

The run's folder then holds `config.yaml` and `model_final.pth`, which `python -m detection import`
makes a bundle of, and `labels.txt`. The same command continues a run that was interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import JSONWriter
from detectron2.utils.file_io import PathManager
from rich.console import Console
from rich.progress import Progress

from detection.datasets import register
from detection.layouts import open_set, read_all
from detection.layouts.records import Findings, Instance, LabelledPhoto, LabelledSet
from detection.rcnn.config import RcnnConfig
from detection.rcnn.regions import RegionMapper, is_supported, region_aware
from detection.rcnn.settings import training_settings
from training.coco_scores import FoundInstances, TrueInstance, coco_scores
from vision.errors import ErrorCode, PermanentError

log = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pth"
BEST_WEIGHTS = "model_best"

Record = dict[str, Any]


class GarmentTrainer(DefaultTrainer):  # type: ignore[misc]  # Detectron2 has no types
    """`DefaultTrainer` that leaves ignore regions be, scores the validation photos and keeps the
    best weights by AP.
    """

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        return super().build_model(region_aware(cfg) if is_supported(cfg) else cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        mapper = (RegionMapper if is_supported(cfg) else DatasetMapper)(cfg, is_train=True)
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:  # noqa: ARG003
        return BoxEvaluator(dataset_name)

    def build_hooks(self) -> list[Any]:
        best = hooks.BestCheckpointer(
            self.cfg.TEST.EVAL_PERIOD,
            BestWeights(self.model, self.cfg.OUTPUT_DIR),
            "bbox/AP",
            file_prefix=BEST_WEIGHTS,
        )
        *first, writer = super().build_hooks()
        return [*first, best, writer, ProgressBar()]

    def build_writers(self) -> list[Any]:
        """`metrics.json` alone: Detectron2's others need TensorBoard or many steps."""
        return [JSONWriter(str(Path(self.cfg.OUTPUT_DIR) / "metrics.json"))]


class BestWeights(DetectionCheckpointer):  # type: ignore[misc]
    """Writes weights that an interrupted run does not go on from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Nothing: the last checkpoint is another."""


class ProgressBar(HookBase):  # type: ignore[misc]
    """Steps done and to come, on stderr where somebody watches."""

    def __init__(self) -> None:
        self._progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())

    def before_train(self) -> None:
        self._progress.start()
        self._task = self._progress.add_task(
            "training", total=self.trainer.max_iter, completed=self.trainer.start_iter
        )

    def after_step(self) -> None:
        self._progress.advance(self._task)

    def after_train(self) -> None:
        self._progress.stop()


class BoxEvaluator(DatasetEvaluator):  # type: ignore[misc]
    """COCO's figures of boxes, by the same code as `python -m detection evaluate`."""

    def __init__(self, dataset_name: str) -> None:
        records: list[Record] = DatasetCatalog.get(dataset_name)
        self._truth = {record["image_id"]: truth_of(record) for record in records}
        self._class_names = MetadataCatalog.get(dataset_name).thing_classes
        self._found: dict[str, FoundInstances] = {}

    def reset(self) -> None:
        self._found = {}

    def process(self, inputs: Sequence[Record], outputs: Sequence[Record]) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._found[given["image_id"]] = FoundInstances(
                instances.pred_boxes.tensor.numpy(),
                instances.scores.numpy(),
                instances.pred_classes.numpy(),
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        ids = list(self._found)
        scores = coco_scores(
            [self._truth[i] for i in ids], [self._found[i] for i in ids], self._class_names
        )
        wanted = ("AP", "AP50", "AP75", "AR_100")
        known = {k: math.nan if scores[k] is None else scores[k] for k in wanted}
        return {"bbox": known}


def train_rcnn(
    config: RcnnConfig, data: Path, runs_dir: Path = Path("runs"), images: Path | None = None
) -> Path:
    """Train on the set at `data`, continuing what is there. Returns `model_final.pth`'s path.

    images: where a COCO file's photos are. Data that were wrong are listed in `problems.json`.

    Raises `ConfigError` for an unknown key, network or layout, and `PermanentError` for unusable
    data or weights to start from that could not be fetched.
    """
    folder = runs_dir / "detection" / config.name
    folder.mkdir(parents=True, exist_ok=True)
    training = open_set(data, config.layout, config.train_split, images)
    validation = open_set(data, config.layout, config.validation_split, images)
    cfg = training_settings(config, len(training.class_names), folder)
    cfg.MODEL.WEIGHTS = _local_weights(cfg.MODEL.WEIGHTS)
    findings = Findings()
    root = images or (data.parent if data.is_file() else data)
    for name, labelled in zip(
        (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), (training, validation), strict=True
    ):
        register(name, records_of(labelled, root, findings), labelled.class_names)
    _write_down(folder, cfg, training.class_names, findings)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    trainer = GarmentTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return folder / FINAL_WEIGHTS


def records_of(labelled: LabelledSet, root: Path, findings: Findings) -> list[Record]:
    """Detectron2's standard dictionaries of every usable photo with a garment.

    Raises `PermanentError` (`dataset_invalid`) when the photos are not files under `root`.
    """
    records = [
        _record(photo, root)
        for photo in read_all(labelled, findings, "reading labels")
        if photo.instances
    ]
    if not records or not Path(records[0]["file_name"]).is_file():
        raise PermanentError(
            ErrorCode.DATASET_INVALID,
            f"{root} holds no photo as a file; Detectron2 reads from a folder, so unpack archives",
        )
    return records


def truth_of(record: Record) -> tuple[TrueInstance, ...]:
    """What is in a record's photo, as the scores take it."""
    return tuple(
        TrueInstance(
            class_id=annotation["category_id"],
            xyxy=tuple(annotation["bbox"]),
            area=annotation["area"],
            crowd=bool(annotation["crowd"]),
        )
        for annotation in record["annotations"]
    )


def _record(photo: LabelledPhoto, root: Path) -> Record:
    width, height = photo.resolution_wh
    return {
        "file_name": str(root / photo.file),
        "image_id": photo.photo_id,
        "width": width,
        "height": height,
        "annotations": [_annotation(instance) for instance in photo.instances],
    }


def _annotation(instance: Instance) -> Record:
    """Crowds, and with them an instance that has lost its mask, become ignore regions."""
    region = instance.crowd or instance.class_id is None
    outline: Any = [list(polygon) for polygon in instance.polygons]
    if instance.mask:
        outline = instance.mask.as_coco()
    return {
        "bbox": list(instance.xyxy),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": instance.class_id or 0,
        "iscrowd": int(region or not outline),
        "segmentation": outline,
        "area": instance.area,
        "crowd": region,
    }


def _local_weights(name: str) -> str:
    """The path of the weights to start from, fetched where they have an address."""
    if not name:
        return name
    try:
        return str(PathManager.get_local_path(name))
    # A web error is an OSError; what the model zoo does not know is one of the others.
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise PermanentError(
            ErrorCode.MODEL_UNAVAILABLE,
            f"the weights to start from, {name}, could not be fetched ({error}); put a file's path "
            "into MODEL.WEIGHTS, or set `pretrained: false` to start from random ones",
        ) from error


def _write_down(folder: Path, cfg: CfgNode, class_names: Iterable[str], findings: Findings) -> None:
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    (folder / "labels.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
    problems = folder / "problems.json"
    problems.write_text(json.dumps(findings.as_json(), indent=1), encoding="utf-8")
    for problem, count in findings.counts.items():
        log.warning("%d × %s (listed in %s)", count, problem, problems)
