"""Training of boxes, tags and masks, and of the attributes where the data set has any.

Clothing Co-Parsing has none: there the attribute head follows on its own (`train_attributes.py`).

A run lives in one folder: `last.pt` (to resume from), `best.pt` (averaged weights of the best
validation), `log.csv`. The same command goes on where the last one stopped, on the same batches.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from style_maskrcnn.checkpoint import (
    build,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from style_maskrcnn.config import Config
from style_maskrcnn.datasets import (
    Batch,
    LabelSet,
    Sample,
    batches_of_epoch,
    decode_photo,
    epoch_order,
    known_tags,
    make_samples,
    read_instances,
    repeat_factors,
    split_ids,
)
from style_maskrcnn.fashion_data import FashionTruth, known_labels, make_fashion_samples
from style_maskrcnn.layouts import CCP_LAYOUT, open_dataset
from style_maskrcnn.network import StyleNetwork
from style_maskrcnn.postprocess import OutputSpec, RawOutput, postprocess
from style_maskrcnn.preprocess import InputSpec, preprocess
from style_maskrcnn.progress import progress_bar
from style_maskrcnn.scoring import Truth, coarse_scores, fine_scores
from style_maskrcnn.targets import Target
from training.ccp import CcpDataset
from training.graph_weights import load_graph_weights
from vision.bundle import WEIGHTS_DIR, open_bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import StyleInstances
from vision.taxonomy import Taxonomy, load_taxonomy

# What the exported module calls the network.
GRAPH_PREFIX = "network."
# What a network that goes on from another one may have besides.
FRESH_PARTS = {"attribute_head", "semantic_head"}
LAST, BEST, LOG = "last.pt", "best.pt", "log.csv"
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """What a run reads once. truth: annotated instances of the validation photos.

    taxonomy: what groups the tags into garment classes; None where the categories are no tags.
    """

    labels: LabelSet
    train: list[Sample]
    validation: list[Sample]
    truth: Truth
    taxonomy: Taxonomy | None


@dataclass
class Progression:
    """How far a run is; stored in `last.pt`. best: the best validation score so far."""

    step: int = 0
    minutes: float = 0.0
    best: float = -1.0


def load_data(path: Path, config: Config) -> Data:
    """Samples of the train and validation splits; the train split alone decides the tags."""
    return (load_ccp if config.data.layout == CCP_LAYOUT else load_fashion)(path, config)


def load_fashion(path: Path, config: Config) -> Data:
    """As `load_data`, of a layout whose instances carry attributes."""
    dataset, taxonomy = open_dataset(config.data.layout, path), load_taxonomy()
    for skipped in dataset.skipped:
        log.warning("photo %s: %s", skipped.photo_id, skipped.reason)
    log.info("%d annotations left out", len(dataset.skipped))
    train_ids, validation_ids = (dataset.of_split(s) for s in ("train", "validation"))
    labels = known_labels(
        dataset, train_ids, taxonomy, config.data.min_instances, config.data.min_attributes
    )
    return Data(
        labels=labels,
        train=make_fashion_samples(dataset, train_ids, labels),
        validation=make_fashion_samples(dataset, validation_ids, labels),
        truth=FashionTruth(dataset, validation_ids),
        taxonomy=None,
    )


def load_ccp(path: Path, config: Config) -> Data:
    """As `load_data`, of Clothing Co-Parsing."""
    dataset, taxonomy = CcpDataset(path), load_taxonomy()
    for skipped in dataset.skipped:
        log.warning("photo %s left out: %s", skipped.photo_id, skipped.reason)
    found = {
        split: read_instances(
            dataset, split_ids(dataset, split, config.data.fractions, config.data.salt), taxonomy
        )
        for split in ("train", "validation")
    }
    labels = known_tags(found["train"], taxonomy, config.data.min_instances)
    return Data(
        labels=labels,
        train=make_samples(dataset, found["train"], labels),
        validation=make_samples(dataset, found["validation"], labels),
        truth=found["validation"],
        taxonomy=taxonomy,
    )


def train(config: Config, data_path: Path, run: Path, threads: int = 0) -> Path:
    """Train to the end and return the path of the best checkpoint.

    Raises `PermanentError` (`dataset_invalid`) when the data cannot be used.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(config.schedule.seed)
    run.mkdir(parents=True, exist_ok=True)
    data = load_data(data_path, config)
    if len(data.train) < config.schedule.batch_size:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{data_path} has {len(data.train)} photos to train on"
        )
    Trainer(config, data, run).run()
    return run / BEST


class Trainer:
    """One run: the network, its averaged twin, the optimiser and where they are."""

    def __init__(self, config: Config, data: Data, run: Path) -> None:
        self.config, self.data, self.folder = config, data, run
        self.network = build(config, data.labels, pretrained=config.network.pretrained)
        if config.start_from:
            start_from(self.network, config.start_from, data.labels, run.parent)
        self.network.to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = make_optimizer(self.network, config)
        self.factors = repeat_factors(data.train, config.data.repeat_threshold)
        # Every epoch draws its repeats anew; the schedule counts with their expectation.
        self.steps_per_epoch = int(self.factors.sum()) // config.schedule.batch_size
        self.total_steps = self.steps_per_epoch * config.schedule.epochs
        self.at = Progression()
        if (run / LAST).is_file():
            self._resume()

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, by steps or by the clock, whichever is further."""
        limit = self.config.schedule.max_minutes
        by_clock = self.at.minutes / limit if limit else 0.0
        return min(1.0, max(self.at.step / self.total_steps, by_clock))

    def run(self) -> None:
        """Train from where the run stands to its end."""
        schedule = self.config.schedule
        started = time.monotonic() - self.at.minutes * 60
        saved = time.monotonic()
        evaluated = int(self.progress * schedule.evaluations)
        with progress_bar() as bar:
            task = bar.add_task("training", total=self.total_steps, completed=self.at.step)
            while self.progress < 1:
                losses = self._step()
                self.at.minutes = (time.monotonic() - started) / 60
                bar.update(task, completed=self.at.step)
                if self.at.step % 20 == 0:
                    self._write_log(losses)
                if int(self.progress * schedule.evaluations) > evaluated:
                    evaluated = int(self.progress * schedule.evaluations)
                    self._evaluate()
                if time.monotonic() - saved > 60 * schedule.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
        self._save()

    def _step(self) -> dict[str, float]:
        schedule = self.config.schedule
        rate = learning_rate_factor(self.at.step, schedule.warmup_steps, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        batch = self._batch(self.at.step)
        images = torch.from_numpy(batch.images).contiguous(memory_format=torch.channels_last)
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
            attributes = len(self.data.labels.attribute_names)
            losses = self.network.losses(images, targets_of(batch, attributes))
        if "attributes" in losses:
            losses["attributes"] = losses["attributes"] * schedule.attribute_weight
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            raise FloatingPointError(f"the loss at step {self.at.step} is {float(total)}")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), schedule.gradient_norm)
        self.optimizer.step()
        self.at.step += 1
        average(self.averaged, self.network, averaging_decay(self.at.step, schedule.averaging))
        return {name: float(value.detach()) for name, value in losses.items()}

    def _batch(self, step: int) -> Batch:
        schedule = self.config.schedule
        epoch, index = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.factors, schedule.seed, epoch)
        # Rounded repeats may leave an epoch a little short; its photos then start over.
        order = np.resize(order, self.steps_per_epoch * schedule.batch_size)
        batches = batches_of_epoch(
            self.data.train,
            order,
            schedule.batch_size,
            self.config.input.train_long_sides,
            (schedule.seed, epoch),
            first=index,
            augmentation=self.config.augmentation,
        )
        return next(batches)

    def _evaluate(self) -> None:
        spec = output_spec(self.data.labels, self.config)
        found = predict_samples(
            self.averaged, self.data.validation, self.config.input.long_side, spec
        )
        fine = fine_scores(self.data.truth, found, self.data.labels.class_names)
        scores = {
            "fine_mask_AP": fine["mask"]["AP"],
            "fine_mask_AP50": fine["mask"]["AP50"],
        }
        judged = [fine["mask"]["AP"] or 0.0]
        if self.data.taxonomy is not None:
            coarse = coarse_scores(self.data.truth, found, self.data.taxonomy)
            scores["coarse_mask_AP"] = coarse["mask"]["AP"]
            scores["coarse_mask_AP50"] = coarse["mask"]["AP50"]
            scores["coarse_box_AP50"] = coarse["box"]["AP50"]
            judged.append(coarse["mask"]["AP"] or 0.0)
        log.info("step %d: %s", self.at.step, scores)
        self._write_log(scores)
        value = sum(judged) / len(judged)
        if value > self.at.best:
            self.at.best = value
            save_checkpoint(
                self.folder / BEST, self.averaged, self.config, self.data.labels, scores=scores
            )

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "at": dataclasses.asdict(self.at),
            "class_names": self.data.labels.class_names,
        }
        write_atomically(self.folder / LAST, state)

    def _resume(self) -> None:
        state = torch.load(self.folder / LAST, map_location="cpu", weights_only=True)
        if tuple(state["class_names"]) != self.data.labels.class_names:
            raise PermanentError(
                ErrorCode.DATASET_INVALID,
                f"{self.folder / LAST} was trained on other tags; choose another run folder",
            )
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.at = Progression(**state["at"])
        log.info("resumed at step %d of %d", self.at.step, self.total_steps)

    def _write_log(self, values: Mapping[str, Any]) -> None:
        path = self.folder / LOG
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", "minutes", "name", "value"])
            for name, value in values.items():
                writer.writerow([self.at.step, f"{self.at.minutes:.2f}", name, value])


def start_from(network: StyleNetwork, name: str, labels: LabelSet, runs: Path) -> None:
    """The best weights of another run or, without it, those of the bundle of this name.

    Attribute heads start afresh, and so does a semantic head that the other network has not.

    Raises `PermanentError` (`dataset_invalid`) when they know other tags than the data.
    """
    path = runs / name / BEST
    if path.is_file():
        checkpoint = load_checkpoint(path)
        _expect_same_tags(name, checkpoint.labels.class_names, labels)
        weights = checkpoint.network.state_dict()
        shared = {n: w for n, w in weights.items() if n.split(".")[0] != "attribute_head"}
        missing, left_over = network.load_state_dict(shared, strict=False)
        if left_over or {n.split(".")[0] for n in missing} - FRESH_PARTS:
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"start_from: {path} is of another network"
            )
        return
    bundle = open_bundle(WEIGHTS_DIR / name, "style")
    _expect_same_tags(name, OutputSpec.from_bundle(bundle).class_names, labels)
    load_graph_weights(network, bundle.graph_path, GRAPH_PREFIX)


def _expect_same_tags(name: str, known: Sequence[str], labels: LabelSet) -> None:
    if tuple(known) != labels.class_names:
        other = sorted(set(known) ^ set(labels.class_names))
        raise PermanentError(
            ErrorCode.DATASET_INVALID,
            f"start_from: {name} knows other tags than the data set: {', '.join(other)}",
        )


def make_optimizer(network: StyleNetwork, config: Config) -> torch.optim.Optimizer:
    """AdamW; the backbone learns slower, and vectors (biases) do not decay."""
    schedule = config.schedule
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "base_lr": schedule.learning_rate * (schedule.backbone_rate if is_backbone else 1),
                "weight_decay": schedule.weight_decay if decays else 0.0,
            }
            for (is_backbone, decays), parameters in groups.items()
        ],
        lr=schedule.learning_rate,
    )


def learning_rate_factor(step: int, warmup: int, progress: float) -> float:
    """Share of the peak rate: half a cosine to 0 over the run, risen to over the warm-up steps."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * progress))


def averaging_decay(step: int, decay: float) -> float:
    """The average's decay, shorter at the start so that random first weights are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


def average(averaged: StyleNetwork, network: StyleNetwork, decay: float) -> None:
    """Move the averaged weights towards the current ones, in place."""
    with torch.no_grad():
        for kept, current in zip(averaged.parameters(), network.parameters(), strict=True):
            if current.requires_grad:
                kept.lerp_(current, 1 - decay)


def targets_of(batch: Batch, attribute_count: int = 0) -> list[Target]:
    """Ground truth of a batch as tensors."""
    columns = (batch.boxes, batch.class_ids, batch.masks, batch.ignore_boxes, batch.attribute_ids)
    return [
        Target(
            _tensor(boxes),
            _tensor(class_ids),
            _tensor(masks),
            _tensor(ignore_boxes),
            _multi_hot(attribute_ids, attribute_count) if attribute_count else None,
        )
        for boxes, class_ids, masks, ignore_boxes, attribute_ids in zip(*columns, strict=True)
    ]


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _multi_hot(attribute_ids: Sequence[Sequence[int]], count: int) -> Tensor:
    """(M, count) float32, 1 where an instance has the attribute."""
    marks = torch.zeros(len(attribute_ids), count)
    for row, ids in enumerate(attribute_ids):
        marks[row, list(ids)] = 1.0
    return marks


def output_spec(labels: LabelSet, config: Config) -> OutputSpec:
    """How answers are read while no serving score has been chosen yet."""
    return OutputSpec(
        labels.class_names,
        labels.coarse_of_class,
        (),
        serving_score=0.5,
        mask_threshold=config.output.mask_threshold,
        duplicate_iou=config.output.duplicate_iou,
    )


def predict_samples(
    network: StyleNetwork, samples: Sequence[Sample], long_side: int, spec: OutputSpec
) -> dict[str, StyleInstances]:
    """Instances of each photo by id, as `evaluate` would find them in the exported bundle."""
    network.eval()
    return {
        sample.photo_id: predict_photo(network, decode_photo(sample), long_side, spec)
        for sample in samples
    }


def predict_photo(
    network: StyleNetwork, pixels: Any, long_side: int, spec: OutputSpec
) -> StyleInstances:
    """Instances of one upright photo, doubtful ones too."""
    source = preprocess(pixels, InputSpec(long_side))
    with torch.no_grad():
        output = network(torch.from_numpy(source.tensor))
    raw = RawOutput(
        output.boxes.numpy(),
        output.scores.numpy(),
        output.class_ids.numpy(),
        output.masks.numpy(),
        output.attributes.numpy(),
    )
    return postprocess(raw, source, spec, believed_only=False)
