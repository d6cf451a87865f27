"""Training of the garment detector with Detectron2.

Detectron2 gives the network, the data set catalogue, the sampler, the loader and the loop with its
hooks. What is evaluated and shipped is the moving average of the weights. The same command
continues a run that was interrupted.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.catalog import DatasetCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.engine import HookBase, TrainerBase
from rich.progress import Progress
from torch import nn

from detection.backbone import PIXEL_MEAN, PIXEL_STD
from detection.config import (
    DetectionConfig,
    InferenceConfig,
    ScheduleConfig,
    config_to_mapping,
)
from detection.datasets import (
    AnnotatedPhoto,
    detectron2_records,
    ids_of_split,
    read_photo,
    register,
)
from detection.network import DetectorNetwork, build_network, graph_form, raw_outputs
from detection.postprocess import BoxSelection, boxes_of
from detection.preprocess import InputFormat, prepare
from detection.samples import Record, TrainingSample, open_sources, repeat_factors
from detection.warm_start import BEST_CHECKPOINT, start_from
from training.ccp import CcpDataset
from training.coco_scores import FoundInstances, coco_scores
from vision.image import RgbImage
from vision.taxonomy import load_taxonomy

log = logging.getLogger(__name__)

LAST_CHECKPOINT = "last.pt"
# Keys of the schedule that a run may be continued with other values of.
CHANGEABLE = ("epochs", "evaluate_every", "checkpoint_every", "threads", "loader_workers")


class MovingAverage:
    """Exponential moving average of a network's weights (https://arxiv.org/abs/1803.05407).

    Early on it follows faster, so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            state = network.state_dict()
            for name, average in self.network.state_dict().items():
                if average.is_floating_point():
                    average.lerp_(state[name], 1 - decay)


class DetectionTrainer(TrainerBase):  # type: ignore[misc]  # Detectron2 has no types
    """One optimiser step per iteration: forward under autocast, backward, clip, AdamW, average."""

    def __init__(
        self,
        network: DetectorNetwork,
        batches: Iterable[list[dict[str, Any]]],
        schedule: ScheduleConfig,
    ) -> None:
        super().__init__()
        self.network = network.train()
        self.average = MovingAverage(network, schedule.ema_decay)
        self.optimizer = build_optimizer(network, schedule)
        self.schedule = schedule
        self.losses: dict[str, float] = {}
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._batches = iter(batches)

    def run_step(self) -> None:
        factor = learning_rate_factor(self.iter, self.max_iter, self.schedule.warmup_steps)
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=self.schedule.bf16):
            losses = self.network(next(self._batches))
        total = sum(losses.values())
        self.losses = {name: float(value.detach()) for name, value in losses.items()}
        if not all(map(math.isfinite, self.losses.values())):
            raise FloatingPointError(f"step {self.iter}: the loss is {self.losses}")
        self.optimizer.zero_grad()
        total.backward()
        # Weights that took one gradient that is not a number are lost, so the run stops before.
        nn.utils.clip_grad_norm_(
            self.network.parameters(), self.schedule.gradient_clip, error_if_nonfinite=True
        )
        self.optimizer.step()
        self.average.update(self.network, self.iter)

    def state(self, next_step: int) -> dict[str, Any]:
        return {
            "next_step": next_step,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Continue from `state`; gives the step to start with."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["next_step"])


def build_optimizer(network: DetectorNetwork, schedule: ScheduleConfig) -> torch.optim.AdamW:
    """AdamW with the backbone at its own rate and no decay on biases and normalisation."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone.bottom_up."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": schedule.backbone_learning_rate if backbone else schedule.learning_rate,
                "weight_decay": schedule.weight_decay if decays else 0.0,
            }
            for (backbone, decays), parameters in groups.items()
        ]
    )


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak rate at `step` of `steps`: a linear rise, then a half cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Checkpoints(HookBase):  # type: ignore[misc]
    """Writes everything needed to continue, every so many steps and at the end."""

    def __init__(self, folder: Path, every: int, config: DetectionConfig) -> None:
        self._path = folder / LAST_CHECKPOINT
        self._every = every
        self._config = config_to_mapping(config)

    def after_step(self) -> None:
        next_step = self.trainer.iter + 1
        if next_step % self._every == 0 or next_step == self.trainer.max_iter:
            save_atomically({**self.trainer.state(next_step), "config": self._config}, self._path)


class Validation(HookBase):  # type: ignore[misc]
    """Scores the averaged weights now and then, and keeps the best of them."""

    def __init__(
        self, folder: Path, every: int, photos: Sequence[AnnotatedPhoto], config: DetectionConfig
    ) -> None:
        self._folder = folder
        self._every = every
        self._photos = photos
        self._config = config
        self._path = folder / "validation.csv"

    def before_train(self) -> None:
        _drop_rows_after(self._path, self.trainer.start_iter)

    def after_step(self) -> None:
        next_step = self.trainer.iter + 1
        if next_step % self._every and next_step != self.trainer.max_iter:
            return
        network = self.trainer.average.network
        scores = validate(network, self._photos, self._config.inference)
        _append_row(
            self._path,
            {"step": next_step, **{k: scores[k] for k in ("AP", "AP50", "AP75", "AR_100")}},
        )
        log.info("step %d: validation AP %s, AP50 %s", next_step, scores["AP"], scores["AP50"])
        if scores["AP"] > best_score(self._folder):
            checkpoint = {
                "average": network.state_dict(),
                "config": config_to_mapping(self._config),
                "validation": scores,
                "step": next_step,
            }
            save_atomically(checkpoint, self._folder / BEST_CHECKPOINT)


class LossLog(HookBase):  # type: ignore[misc]
    """One CSV row a step, and a progress bar where somebody watches."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "losses.csv"
        self._progress = Progress(disable=not sys.stderr.isatty())
        self._started = time.perf_counter()

    def before_train(self) -> None:
        _drop_rows_after(self._path, self.trainer.start_iter)
        self._progress.start()
        self._task = self._progress.add_task(
            "training", total=self.trainer.max_iter, completed=self.trainer.start_iter
        )

    def after_step(self) -> None:
        elapsed = round(time.perf_counter() - self._started, 1)
        losses = {name: round(value, 4) for name, value in self.trainer.losses.items()}
        _append_row(self._path, {"step": self.trainer.iter + 1, "seconds": elapsed, **losses})
        self._progress.advance(self._task)

    def after_train(self) -> None:
        self._progress.stop()


def train(
    config: DetectionConfig,
    data: Path,
    runs_dir: Path = Path("runs"),
    home_photos: Path | None = None,
    products: Path | None = None,
) -> Path:
    """Train on the `train` split of Clothing Co-Parsing at `data`, continuing what is there.

    home_photos, products: data sets of which `config.mix` may want a share.

    Returns the best checkpoint by AP on the `validation` split, in `runs_dir`/detection/NAME.

    Raises `PermanentError` for unusable data or missing pretrained weights, and `ValueError` when
    the run's folder holds a run of another configuration or the run to start from is missing.
    """
    folder = runs_dir / "detection" / config.name
    folder.mkdir(parents=True, exist_ok=True)
    if config.schedule.threads:
        torch.set_num_threads(config.schedule.threads)
    dataset = CcpDataset(data)
    records = _training_records(dataset, f"{config.name}_train", folder)
    photos = [read_photo(dataset, i) for i in ids_of_split(dataset, "validation")]
    state = _interrupted_state(folder, config)
    start = int(state["next_step"]) if state else 0
    torch.manual_seed(config.schedule.seed + start)
    network = build_network(config.network, len(load_taxonomy().garment_classes))
    network = network.to(memory_format=torch.channels_last)
    if config.start_from is not None and not state:
        start_from(network, config.start_from, runs_dir / "detection")
    singles = open_sources(config.mix, home_photos, products, config.schedule.seed)
    batches = _batches((records, *singles), config, start)
    trainer = DetectionTrainer(network, batches, config.schedule)
    if state:
        trainer.restore(state)
    steps_per_epoch = math.ceil(len(records) / config.schedule.batch_size)
    trainer.register_hooks(
        [
            LossLog(folder),
            Validation(folder, config.schedule.evaluate_every * steps_per_epoch, photos, config),
            Checkpoints(folder, config.schedule.checkpoint_every, config),
        ]
    )
    trainer.train(start, config.schedule.epochs * steps_per_epoch)
    return folder / BEST_CHECKPOINT


def validate(
    network: DetectorNetwork, photos: Sequence[AnnotatedPhoto], inference: InferenceConfig
) -> dict[str, Any]:
    """COCO figures of a network on annotated photos, by the path that serving takes."""
    found = [detect(network, photo.image, inference) for photo in photos]
    return coco_scores([photo.truth for photo in photos], found, load_taxonomy().garment_classes)


def detect(network: DetectorNetwork, image: RgbImage, inference: InferenceConfig) -> FoundInstances:
    """One photo's detections in its own pixels, from the PyTorch network."""
    photo = prepare(image.pixels, InputFormat(inference.long_side, PIXEL_MEAN, PIXEL_STD))
    with torch.inference_mode():
        outputs = raw_outputs(network)(torch.from_numpy(photo.tensor)[None])
    form = graph_form(network)
    boxes = boxes_of(
        dict(zip(form.names, (output.numpy() for output in outputs), strict=True)),
        0,
        photo.padded_wh,
        form.strides,
        BoxSelection(inference.min_score, inference.nms_iou, inference.max_detections),
    )
    return FoundInstances(photo.to_photo(boxes.xyxy), boxes.scores, boxes.class_ids)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain values."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def best_score(folder: Path) -> float:
    """Validation AP of the best checkpoint in a run's folder, -1 without one."""
    path = folder / BEST_CHECKPOINT
    return float(load_checkpoint(path)["validation"]["AP"]) if path.exists() else -1.0


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that an interruption leaves the old one or the new one."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(content, unfinished)
    unfinished.replace(path)


def _training_records(dataset: CcpDataset, name: str, folder: Path) -> list[dict[str, Any]]:
    records, skipped = detectron2_records(dataset, ids_of_split(dataset, "train"))
    skipped = [*dataset.skipped, *skipped]
    if skipped:
        log.warning("%d photos left out, listed in %s", len(skipped), folder / "skipped.json")
    listed = [{"photo_id": s.photo_id, "reason": s.reason} for s in skipped]
    (folder / "skipped.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")
    register(name, records, load_taxonomy().garment_classes)
    registered: list[dict[str, Any]] = DatasetCatalog.get(name)
    return registered


def _batches(
    sources: tuple[list[Record], list[Record], list[Record]], config: DetectionConfig, start: int
) -> Iterable[list[dict[str, Any]]]:
    """Endless batches of street photos, home photos and packshots."""
    factors = repeat_factors(*sources, config.mix, config.schedule.repeat_threshold)
    batches: Iterable[list[dict[str, Any]]] = build_detection_train_loader(
        [record for source in sources for record in source],
        mapper=TrainingSample(config.augmentation, sources[0]),
        sampler=RepeatFactorTrainingSampler(factors, seed=config.schedule.seed + start),
        total_batch_size=config.schedule.batch_size,
        aspect_ratio_grouping=False,
        num_workers=config.schedule.loader_workers,
    )
    return batches


def _interrupted_state(folder: Path, config: DetectionConfig) -> dict[str, Any] | None:
    path = folder / LAST_CHECKPOINT
    if not path.exists():
        return None
    state = load_checkpoint(path)
    if _deciding(state["config"]) != _deciding(config_to_mapping(config)):
        raise ValueError(
            f"{path} is of another configuration; remove {folder} or choose another name"
        )
    return state


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what a run may be continued with other values of."""
    schedule = {k: v for k, v in config["schedule"].items() if k not in CHANGEABLE}
    sections = {name: config[name] for name in ("network", "mix", "augmentation")}
    return {**sections, **schedule}


def _drop_rows_after(path: Path, step: int) -> None:
    """Take back what an interrupted run logged behind its last checkpoint."""
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        path.unlink()
        for row in rows:
            _append_row(path, row)


def _append_row(path: Path, row: dict[str, Any]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
