"""Training of the upper-body network.

A run lives in one folder: `upper_bodies.json` (where the style model found them), `last.pt` (to
resume from), `final.pt` (averaged weights at the end), `log.csv`. The same command goes on where
the last one stopped, on the same batches.

Dimension glossary
    P: photos; K: regions; G: groups; V: values of all groups together; h, w: input size.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from style_maskrcnn.checkpoint import write_atomically
from style_maskrcnn.config import parse
from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.preprocess import resize, resized_size
from style_maskrcnn.progress import progress_bar
from style_maskrcnn.train import averaging_decay, learning_rate_factor
from style_maskrcnn.upper_body.answers import AnswerSpec, GroupSpec
from style_maskrcnn.upper_body.config import AugmentationConfig, UpperBodyConfig
from style_maskrcnn.upper_body.dataset import (
    VotedDataset,
    VotedPhoto,
    frequencies,
    label_matrix,
)
from style_maskrcnn.upper_body.finding import (
    Boxes,
    find_upper_bodies,
    read_photo,
    same_person,
)
from style_maskrcnn.upper_body.groups import GROUPS, PATTERN_GROUPS
from style_maskrcnn.upper_body.network import UpperBodyNetwork, adjusted_loss
from style_maskrcnn.upper_body.region import RegionSpec, cut, region_of, to_input
from style_maskrcnn.upper_body.scoring import mean_balanced_accuracy, vote_scores
from vision.errors import ErrorCode, PermanentError

LAST, FINAL, LOG = "last.pt", "final.pt", "log.csv"
# Photos are held in memory no larger: an upper body then still has more pixels than the input.
LONG_SIDE = 320
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo, its upper bodies and votes.

    pixels: (H, W, 3) uint8 RGB. boxes: (N, 4) float32 xyxy in its pixels, N ≥ 1, surest first.
    labels: (G,) int64.
    """

    pixels: NDArray[np.uint8]
    boxes: Boxes
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Data:
    """What a run reads once. shares: for each group how often its values occur in `train`."""

    train: list[Sample]
    validation: list[Sample]
    shares: list[NDArray[np.float64]]


def load_data(path: Path, model: StyleModel, config: UpperBodyConfig, run: Path) -> Data:
    """Samples of the train and validation splits."""
    dataset = VotedDataset(path)
    for skipped in dataset.skipped:
        log.warning("%s left out: %s", skipped.photo_id, skipped.reason)
    splits = {
        split: make_samples(dataset, chosen, model, config, run)
        for split in ("train", "validation")
        if (chosen := dataset.of_split(split))
    }
    train = splits.get("train", [])
    if len(train) < config.schedule.batch_size:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{path} has {len(train)} photos to train on"
        )
    labels = np.stack([sample.labels for sample in train])
    return Data(train, splits.get("validation", []), frequencies(labels, GROUPS))


def make_samples(
    dataset: VotedDataset,
    photos: Sequence[VotedPhoto],
    model: StyleModel,
    config: UpperBodyConfig,
    run: Path,
) -> list[Sample]:
    """Samples of the photos that can be decoded, in their order.

    Where the style model finds no upper body, the whole photo is taken for one.
    """
    found = find_upper_bodies(model, dataset, photos, run)
    samples = []
    for photo, labels in zip(photos, label_matrix(photos), strict=True):
        if photo.photo_id not in found:
            continue
        image = read_photo(dataset, photo)
        assert image is not None  # It was decoded to look for upper bodies.
        height, width = image.pixels.shape[:2]
        boxes = same_person(found[photo.photo_id], config.data.regions, config.data.same_person_iou)
        if not len(boxes):
            boxes = np.array([[0, 0, width, height]], np.float32)
        scale = min(1.0, LONG_SIDE / max(height, width))
        size_wh = resized_size((width, height), round(max(height, width) * scale))
        samples.append(Sample(resize(image.pixels, size_wh), boxes * np.float32(scale), labels))
    return samples


def train(
    config: UpperBodyConfig, data_path: Path, model: StyleModel, run: Path, threads: int = 0
) -> Path:
    """Train to the end and return the path of the checkpoint.

    model: lists every candidate. Raises `PermanentError` (`dataset_invalid`) when the data cannot
    be used.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(config.schedule.seed)
    run.mkdir(parents=True, exist_ok=True)
    data = load_data(data_path, model, config, run)
    model.close()
    Trainer(config, data, run).run()
    return run / FINAL


class Trainer:
    """One run: the network, its averaged twin, the optimiser and where they are."""

    def __init__(self, config: UpperBodyConfig, data: Data, run: Path) -> None:
        self.config, self.data, self.folder = config, data, run
        self.network = UpperBodyNetwork(
            config.network, GROUPS, pretrained=config.network.pretrained
        ).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = make_optimizer(self.network, config)
        self.steps_per_epoch = len(data.train) // config.schedule.batch_size
        self.total_steps = self.steps_per_epoch * config.schedule.epochs
        self.step, self.minutes = 0, 0.0
        if (run / LAST).is_file():
            self._resume()

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, by steps or by the clock, whichever is further."""
        limit = self.config.schedule.max_minutes
        return min(1.0, max(self.step / self.total_steps, self.minutes / limit if limit else 0.0))

    def run(self) -> None:
        """Train from where the run stands to its end."""
        schedule = self.config.schedule
        started = time.monotonic() - self.minutes * 60
        saved = time.monotonic()
        with progress_bar() as bar:
            task = bar.add_task("training", total=self.total_steps, completed=self.step)
            while self.progress < 1:
                loss = self._step()
                self.minutes = (time.monotonic() - started) / 60
                bar.update(task, completed=self.step)
                epoch, rest = divmod(self.step, self.steps_per_epoch)
                if rest == 0:
                    self._write_log({"loss": loss})
                    if epoch % schedule.evaluate_every == 0 and self.data.validation:
                        self._evaluate()
                if time.monotonic() - saved > 60 * schedule.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
        self._save()
        save_checkpoint(self.folder / FINAL, self.averaged, self.config)

    def _step(self) -> float:
        schedule = self.config.schedule
        rate = learning_rate_factor(self.step, schedule.warmup_steps, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        regions, labels = self._batch()
        self.network.train()
        loss = adjusted_loss(
            self.network(regions),
            labels,
            GROUPS,
            self.data.shares,
            prior=schedule.prior,
            smoothing=schedule.smoothing,
        )
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss at step {self.step} is {float(loss)}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), schedule.gradient_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        return float(loss.detach())

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Every batch draws from a generator of its own, so a resumed run sees the same views."""
        schedule = self.config.schedule
        epoch, index = divmod(self.step, self.steps_per_epoch)
        order = np.random.default_rng((schedule.seed, epoch)).permutation(len(self.data.train))
        chosen = order[index * schedule.batch_size : (index + 1) * schedule.batch_size]
        rng = np.random.default_rng((schedule.seed, epoch, index))
        samples = [self.data.train[i] for i in chosen]
        views = [make_view(s, self.config.region, self.config.augmentation, rng) for s in samples]
        regions = torch.from_numpy(to_input(np.stack(views)))
        labels = torch.from_numpy(np.stack([s.labels for s in samples]))
        return regions.contiguous(memory_format=torch.channels_last), labels

    def _average(self) -> None:
        decay = averaging_decay(self.step, self.config.schedule.averaging)
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.network.parameters(), strict=True)
            for kept, current in pairs:
                if current.requires_grad:
                    kept.lerp_(current, 1 - decay)

    def _evaluate(self) -> None:
        logits = predict_samples(self.averaged, self.data.validation, self.config.region)
        labels = np.stack([sample.labels for sample in self.data.validation])
        scores = vote_scores(plain_spec(), logits, labels)
        mean = {"validation_balanced_accuracy": mean_balanced_accuracy(scores)}
        log.info("step %d: %s", self.step, mean)
        self._write_log(mean)

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
        }
        write_atomically(self.folder / LAST, state)

    def _resume(self) -> None:
        state = torch.load(self.folder / LAST, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.minutes = int(state["step"]), float(state["minutes"])
        log.info("resumed at step %d of %d", self.step, self.total_steps)

    def _write_log(self, values: Mapping[str, Any]) -> None:
        path = self.folder / LOG
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", "minutes", "name", "value"])
            for name, value in values.items():
                writer.writerow([self.step, f"{self.minutes:.2f}", name, value])


def plain_spec() -> AnswerSpec:
    """How logits are read before anything was calibrated."""
    return AnswerSpec(
        tuple(GroupSpec(g.name, g.values, is_pattern=g in PATTERN_GROUPS) for g in GROUPS)
    )


def make_optimizer(network: UpperBodyNetwork, config: UpperBodyConfig) -> torch.optim.Optimizer:
    """AdamW; what ImageNet taught learns slower, and vectors (biases) do not decay."""
    schedule = config.schedule
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_pretrained = name.startswith(("backbone.", "expansion."))
            groups.setdefault((is_pretrained, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "base_lr": schedule.learning_rate
                * (schedule.backbone_rate if is_pretrained else 1),
                "weight_decay": schedule.weight_decay if decays else 0.0,
            }
            for (is_pretrained, decays), parameters in groups.items()
        ],
        lr=schedule.learning_rate,
    )


def make_view(
    sample: Sample, spec: RegionSpec, settings: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: one of the sample's upper bodies, moved, mirrored and recoloured."""
    region = region_of(sample.boxes[rng.integers(len(sample.boxes))], spec)
    sides = np.tile(region[2:] - region[:2], 2)
    shift = np.tile(rng.uniform(-settings.shift, settings.shift, 2), 2)
    grow = rng.uniform(-settings.stretch, settings.stretch, 2) / 2
    moved = region + sides * (shift + np.concatenate([-grow, grow]))
    view = cut(sample.pixels, moved.astype(np.float32), (spec.width, spec.height))
    if rng.random() < 0.5:
        view = np.ascontiguousarray(view[:, ::-1])
    return _erase(_recolour(view, settings.colour, rng), settings.erase, rng)


def predict_samples(
    network: UpperBodyNetwork, samples: Sequence[Sample], spec: RegionSpec, batch_size: int = 32
) -> NDArray[np.float32]:
    """(P, V) logits of each sample's surest upper body, as the exported bundle would see it."""
    network.eval()
    views = [cut(s.pixels, region_of(s.boxes[0], spec), (spec.width, spec.height)) for s in samples]
    with torch.no_grad():
        logits = [
            network(torch.from_numpy(to_input(np.stack(views[i : i + batch_size]))))
            for i in range(0, len(views), batch_size)
        ]
    return np.asarray(torch.cat(logits).numpy())


def save_checkpoint(path: Path, network: UpperBodyNetwork, config: UpperBodyConfig) -> None:
    """Weights with all that is needed to build their network again."""
    write_atomically(path, {"weights": network.state_dict(), "config": dataclasses.asdict(config)})


def load_checkpoint(path: Path) -> tuple[UpperBodyNetwork, UpperBodyConfig]:
    """The network of a checkpoint, in evaluation mode.

    Raises `PermanentError` (`model_unavailable`) when there is none.
    """
    if not path.is_file():
        raise PermanentError(ErrorCode.MODEL_UNAVAILABLE, f"{path} does not exist")
    state = torch.load(path, map_location="cpu", weights_only=True)
    config = parse(UpperBodyConfig, state["config"])
    network = UpperBodyNetwork(config.network, GROUPS)
    network.load_state_dict(state["weights"])
    return network.eval(), config


def _recolour(
    view: NDArray[np.uint8], strength: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Gain, contrast and saturation, each by up to `strength`, in one matrix product."""
    gain, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    mixed = saturation * np.eye(3) + (1 - saturation) / 3
    middle = gain * float(view.mean())
    matrix = np.hstack([gain * contrast * mixed, np.full((3, 1), middle * (1 - contrast))])
    return cv2.transform(view, matrix).astype(np.uint8)


def _erase(view: NDArray[np.uint8], chance: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """With that chance a rectangle of up to 40 % of each side is hidden (random erasing)."""
    if rng.random() >= chance:
        return view
    height, width = view.shape[:2]
    tall, wide = (int(side * rng.uniform(0.1, 0.4)) for side in (height, width))
    top, left = int(rng.integers(height - tall)), int(rng.integers(width - wide))
    return cv2.rectangle(
        view.copy(), (left, top), (left + wide, top + tall), rng.uniform(0, 255, 3).tolist(), -1
    ).astype(np.uint8)
