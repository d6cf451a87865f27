"""Training of the attribute classifier: `python -m classification train --config FILE`.

Photos are decoded once into memory; threads augment the next batches while the network learns.
Work is cut into rounds, a few to an epoch. After each round the weights and the optimiser are
saved, so the same command goes on where it stopped; a round depends on the seed and on its number
only, so an interrupted run sees the same batches as one that was not.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID, track

from classification import fashion_mnist
from classification.augment import CATALOGUE, GREY, STREET, Augmentation, random_view
from classification.averaging import averaged, measure_batch_norms
from classification.backbones import BACKBONES
from classification.balance import label_counts, offsets
from classification.config import (
    HOME_PHOTOS,
    PRODUCTS,
    STREET_PHOTOS,
    TrainConfig,
)
from classification.datasets import (
    PhotoDataset,
    Sample,
    Skipped,
    Targets,
    encode,
)
from classification.distil import teach
from classification.fashion_mnist import FashionMnist
from classification.heads import head_of
from classification.network import build_network, load_pretrained
from classification.predictor import AttributeClassifier
from classification.preprocess import letterbox, normalise
from classification.unfold import unfold
from vision.bundle import METADATA, WEIGHTS_DIR, open_bundle, resolve
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import Taxonomy, load_taxonomy

LOGGER = logging.getLogger(__name__)

WEIGHTS = "network.weights.h5"
_CHECKPOINT = "checkpoint.weights.h5"
_NEXT_CHECKPOINT = "next.weights.h5"
_STATE = "state.json"
_LOG = "log.csv"
# Batches that batch norms are measured on.
_MEASURED = 12
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# Settings that may change between two starts of one run, as how long it is to be; any other makes
# it another run.
_MAY_CHANGE = ("threads", "epochs", "first_share")


TrainingSet = PhotoDataset | FashionMnist


@dataclass(frozen=True)
class Source:
    """One data set, decoded. images: (N, h, w, channels) uint8. accepted: head → (N, C) float32,
    1 where a label is a right answer, a row of zeros where nobody labelled that head.
    """

    images: NDArray[np.uint8]
    accepted: Targets
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.images)


# Decoded sizes (h, w): catalogue photos as they come, others with room to crop.
_DECODED = {
    PRODUCTS: ((80, 60), CATALOGUE),
    HOME_PHOTOS: ((160, 120), STREET),
    STREET_PHOTOS: ((160, 120), STREET),
}


def load_source(
    dataset: TrainingSet, split: str, heads: Sequence[str], taxonomy: Taxonomy
) -> tuple[Source, tuple[Skipped, ...]]:
    """Decode one split into memory. Broken images are left out and returned as skipped."""
    if isinstance(dataset, FashionMnist):
        return _fashion_mnist_source(dataset, split, heads), ()
    size_hw, augmentation = _DECODED[dataset.layout]
    samples = dataset.split(split)
    images = np.empty((len(samples), *size_hw, 3), np.uint8)
    kept: list[Sample] = []
    skipped: list[Skipped] = []
    title = f"decoding {dataset.layout}/{split}"
    console = Console(stderr=True)
    for sample in track(samples, title, console=console, disable=not console.is_terminal):
        try:
            images[len(kept)] = letterbox(dataset.pixels(sample), size_hw)
        except PermanentError as error:
            skipped.append(Skipped(sample.item_id, error.message))
        else:
            kept.append(sample)
    return Source(images[: len(kept)], encode(kept, heads, taxonomy), augmentation), tuple(skipped)


def _fashion_mnist_source(dataset: FashionMnist, split: str, heads: Sequence[str]) -> Source:
    part = dataset.split(split)
    accepted = np.eye(len(fashion_mnist.LABELS), dtype=np.float32)[part.labels]
    return Source(part.images[..., None], dict.fromkeys(heads, accepted), GREY)


class Batches(keras.utils.PyDataset):
    """Augmented batches of one or more sources, a fixed number of photos of each.

    Batch k of round r is a function of the seed and of r·steps + k.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, int]],
        *,
        size_hw: tuple[int, int],
        steps: int,
        first_round: int,
        seed: int,
        augment: float = 1.0,
        workers: int = 2,
    ) -> None:
        super().__init__(workers=workers, max_queue_size=16)
        self._sources = [(source, count) for source, count in sources if count]
        self._size_hw = size_hw
        self._steps = steps
        self._round = first_round
        self._seed = seed
        self._augment = augment
        self._order = lru_cache(maxsize=8)(self._permutation)

    def __len__(self) -> int:
        return self._steps

    def on_epoch_end(self) -> None:
        self._round += 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], Targets]:
        step = self._round * self._steps + index
        rng = np.random.default_rng((self._seed, step))
        views: list[NDArray[np.uint8]] = []
        targets: list[Targets] = []
        for number, (source, count) in enumerate(self._sources):
            chosen = self._indices(number, step * count, count)
            views += [self._view(source, i, rng) for i in chosen]
            targets.append({head: rows[chosen] for head, rows in source.accepted.items()})
        together = {head: np.concatenate([t[head] for t in targets]) for head in targets[0]}
        return to_backend_layout(normalise(np.stack(views))), together

    def _view(self, source: Source, index: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        if rng.random() < self._augment:
            return random_view(source.images[index], self._size_hw, source.augmentation, rng)
        return plain_view(source.images[index], self._size_hw)

    def _indices(self, number: int, start: int, count: int) -> list[int]:
        """The next `count` of an endless stream of permutations of one source."""
        length = len(self._sources[number][0])
        positions = (divmod(k, length) for k in range(start, start + count))
        return [int(self._order(number, cycle)[place]) for cycle, place in positions]

    def _permutation(self, number: int, cycle: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._seed, number, cycle))
        return rng.permutation(len(self._sources[number][0]))


class PlainBatches(keras.utils.PyDataset):
    """Batches of one source in order, not augmented, for validation."""

    def __init__(self, source: Source, size_hw: tuple[int, int], batch: int = 128) -> None:
        super().__init__(workers=1)
        self._source = source
        self._size_hw = size_hw
        self._batch = batch

    @property
    def labelled_heads(self) -> tuple[str, ...]:
        """Heads of which some row has a label."""
        return tuple(head for head, rows in self._source.accepted.items() if rows.any())

    def __len__(self) -> int:
        return -(-len(self._source) // self._batch)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], Targets]:
        rows = slice(index * self._batch, (index + 1) * self._batch)
        images = np.stack([plain_view(i, self._size_hw) for i in self._source.images[rows]])
        targets = {head: accepted[rows] for head, accepted in self._source.accepted.items()}
        return to_backend_layout(normalise(images)), targets


def plain_view(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, channels) uint8 → (H, W, channels) uint8 as the served network gets it."""
    return image if image.shape[:2] == size_hw else letterbox(image, size_hw)


def to_backend_layout(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, H, W, 3) as the running Keras wants it."""
    if keras.config.image_data_format() == "channels_first":
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images


@keras.saving.register_keras_serializable("vestiary")
class AcceptedLabelsLoss(keras.losses.Loss):
    """−log of the probability that all accepted labels have together, with label smoothing.

    With one accepted label this is cross-entropy; with none the row counts nothing.
    y_true: (B, C) of zeros and ones. y_pred: (B, C) logits. adjustment: C numbers that are added to
    the logits, or none.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        adjustment: Sequence[float] = (),
        name: str = "accepted_labels",
    ) -> None:
        super().__init__(name=name)
        self.label_smoothing = label_smoothing
        self.adjustment = tuple(adjustment)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true = ops.cast(y_true, "float32")
        log_p = _log_probabilities(y_pred, self.adjustment)
        accepted = ops.logsumexp(log_p + (y_true - 1.0) * 1e9, axis=-1)
        smooth = ops.mean(log_p, axis=-1)
        loss = -(1.0 - self.label_smoothing) * accepted - self.label_smoothing * smooth
        labelled = ops.max(y_true, axis=-1)
        return ops.where(labelled > 0, loss, ops.zeros_like(loss))

    def get_config(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "adjustment": self.adjustment,
            "name": self.name,
        }


@keras.saving.register_keras_serializable("vestiary")
class SoftTargetsLoss(keras.losses.Loss):
    """Cross-entropy with targets that are probabilities. y_true: (B, C). y_pred: (B, C) logits.

    adjustment: C numbers that are added to the logits, or none.
    """

    def __init__(self, adjustment: Sequence[float] = (), name: str = "soft_targets") -> None:
        super().__init__(name=name)
        self.adjustment = tuple(adjustment)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        log_p = _log_probabilities(y_pred, self.adjustment)
        return -ops.sum(ops.cast(y_true, "float32") * log_p, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"adjustment": self.adjustment, "name": self.name}


def _log_probabilities(logits: Any, adjustment: Sequence[float]) -> Any:
    logits = ops.cast(logits, "float32")
    if adjustment:
        logits = logits + ops.convert_to_tensor(adjustment, "float32")
    return ops.log_softmax(logits, axis=-1)


@keras.saving.register_keras_serializable("vestiary")
class AcceptedAccuracy(keras.metrics.Metric):
    """Share of labelled rows whose highest logit is an accepted label."""

    def __init__(self, name: str = "accuracy") -> None:
        super().__init__(name=name)
        self.correct = self.add_variable((), "zeros", name="correct")
        self.labelled = self.add_variable((), "zeros", name="labelled")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # noqa: ARG002
        y_true = ops.cast(y_true, "float32")
        best = ops.one_hot(ops.argmax(y_pred, axis=-1), y_pred.shape[-1])
        self.correct.assign_add(ops.sum(best * y_true))
        self.labelled.assign_add(ops.sum(ops.max(y_true, axis=-1)))

    def result(self) -> Any:
        return self.correct / ops.maximum(self.labelled, 1.0)


@keras.saving.register_keras_serializable("vestiary")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then a cosine to zero (https://arxiv.org/abs/1708.07120)."""

    def __init__(self, peak: float, steps: int, warm_up: float) -> None:
        self.peak = peak
        self.steps = steps
        self.warm_up = warm_up

    def __call__(self, step: Any) -> Any:
        progress = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        rising = (progress + 0.01) / (self.warm_up + 0.01)
        falling = 0.5 * (1 + ops.cos(np.pi * (progress - self.warm_up) / (1 - self.warm_up)))
        return self.peak * ops.where(progress < self.warm_up, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warm_up": self.warm_up}


def compile_network(
    network: keras.Model,
    config: TrainConfig,
    steps: int,
    counts: Mapping[str, NDArray[np.int64]] | None = None,
) -> None:
    """Attach losses, metrics and the optimiser for a run of `steps` steps.

    counts: head → (C,) how often each label occurs; needed for `class_balance`.
    """
    optimizer = keras.optimizers.AdamW(
        OneCycle(config.learning_rate, steps, config.warm_up),
        weight_decay=config.weight_decay,
        use_ema=True,
        ema_momentum=config.ema,
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    network.compile(
        optimizer=optimizer,
        loss={head: _loss(config, (counts or {}).get(head)) for head in config.heads},
        loss_weights=dict(config.heads),
        metrics={head: AcceptedAccuracy() for head in config.heads},
        jit_compile=False,
    )


def _loss(config: TrainConfig, counts: NDArray[np.int64] | None) -> keras.losses.Loss:
    """One head's. Frequent labels get a start in it that they need not learn."""
    adjustment: Sequence[float] = ()
    if config.class_balance:
        assert counts is not None
        adjustment = (-offsets(counts, config.class_balance)).tolist()
    if config.teacher is not None:
        return SoftTargetsLoss(adjustment)
    return AcceptedLabelsLoss(config.label_smoothing, adjustment)


class RichProgress(keras.callbacks.Callback):
    """A bar for each round on stderr; nothing where stderr is not a terminal.

    Keras decides the signatures.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._bar = Progress(console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._bar.start()
        self._task = self._bar.add_task(f"round {epoch + 1}", total=self.params["steps"])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        if self._task is not None:
            self._bar.advance(self._task)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._bar.stop()


class Checkpoint(keras.callbacks.Callback):
    """Weights to disk after every round, and scores of the averaged weights after every epoch."""

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        validation: Mapping[str, PlainBatches],
        seen: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        super().__init__()
        self._run = run
        self._config = config
        self._validation = validation
        self._seen = seen
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        rounds = epoch + 1
        self.model.save_weights(self._run / _NEXT_CHECKPOINT)
        (self._run / _NEXT_CHECKPOINT).replace(self._run / _CHECKPOINT)
        state = {"rounds": rounds, "config": _plain(self._config)}
        (self._run / _STATE).write_text(json.dumps(state, indent=1))
        row: dict[str, Any] = {"round": rounds, "loss": round((logs or {})["loss"], 4)}
        if rounds % self._config.rounds_per_epoch == 0 or rounds == self._config.rounds:
            row |= self._scores()
        row["seconds"] = round(time.monotonic() - self._began, 1)
        self._began = time.monotonic()
        _append(self._run / _LOG, ["round", "loss", *self._columns(), "seconds"], row)
        LOGGER.info("round %s", json.dumps(row))

    def _columns(self) -> list[str]:
        return [
            f"{name}_{head}"
            for name, batches in self._validation.items()
            for head in batches.labelled_heads
        ]

    def _scores(self) -> dict[str, float]:
        """Column → accuracy of the averaged weights."""
        with averaged(self.model, self._seen):
            return self._scores_now()

    def _scores_now(self) -> dict[str, float]:
        scores = {}
        for name, batches in self._validation.items():
            logs = self.model.evaluate(batches, verbose=0, return_dict=True)
            for head in batches.labelled_heads:
                # Keras leaves the head's name out where there is only one.
                key = "accuracy" if len(self._config.heads) == 1 else f"{head}_accuracy"
                scores[f"{name}_{head}"] = round(float(logs[key]), 4)
        return scores


def train(config: TrainConfig, datasets: Sequence[TrainingSet], run: Path) -> Path:
    """Train, or go on with the run in folder `run`, and return the finished weights' path.

    datasets: one of each layout that the config wants.

    Raises `PermanentError` (`validation_error`) when `run` holds another config's checkpoint or
    a data set that the config wants is not given.
    """
    run.mkdir(parents=True, exist_ok=True)
    done = _finished_rounds(run, config)
    cv2.setNumThreads(1)
    limit_threads(config.threads)
    keras.utils.set_random_seed(config.seed)
    sources, validation, counts = _load_sources(config, datasets)
    counted, per_batch = sources[0]
    steps = max(1, len(counted) // (per_batch * config.rounds_per_epoch))
    seen = _seen(sources, config)
    network = _network(config, run, steps * config.rounds, () if done else seen, counts)
    if done:
        network.load_weights(run / _CHECKPOINT)
        LOGGER.info("going on after round %d, step %d", done, int(network.optimizer.iterations))
    callbacks = [Checkpoint(run, config, validation, seen), RichProgress()]
    for size_hw, start, end in phases(config):
        first = max(start, done)
        if first < end:
            batches = Batches(
                sources,
                size_hw=size_hw,
                steps=steps,
                first_round=first,
                seed=config.seed,
                augment=config.augment,
            )
            network.fit(batches, initial_epoch=first, epochs=end, callbacks=callbacks, verbose=0)
    # The moving average ships; `fit` has put it in place unless there was nothing left to do.
    network.optimizer.finalize_variable_values(network.trainable_variables)
    measure_batch_norms(network, seen)
    network.save_weights(run / WEIGHTS)
    return run / WEIGHTS


def limit_threads(threads: int) -> None:
    """Cores the running backend may use; 0 leaves the choice to it."""
    if not threads:
        return
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def phases(config: TrainConfig) -> list[tuple[tuple[int, int], int, int]]:
    """(input size, first round, round after the last) of each part of training; none is empty."""
    change = round(config.rounds * config.first_share)
    parts = [(config.first_hw, 0, change), (config.input_hw, change, config.rounds)]
    return [part for part in parts if part[1] < part[2]]


def _seen(sources: Sequence[tuple[Source, int]], config: TrainConfig) -> list[NDArray[np.float32]]:
    """Photos as training shows them, to measure batch norms on."""
    batches = Batches(
        sources, size_hw=config.input_hw, steps=_MEASURED, first_round=0, seed=config.seed
    )
    return [batches[index][0] for index in range(_MEASURED)]


def _network(
    config: TrainConfig,
    run: Path,
    steps: int,
    seen: Sequence[NDArray[np.float32]] = (),
    counts: Mapping[str, NDArray[np.int64]] | None = None,
) -> keras.Model:
    """A network ready to train.

    seen: photos that a bundle to start from is measured on. counts: of the labels, by head.
    """
    taxonomy = load_taxonomy()
    heads = {head: len(head_of(head, taxonomy).labels) for head in config.heads}
    keras.config.set_dtype_policy(_POLICIES[config.precision])
    input_hw = config.input_hw if BACKBONES[config.backbone].fixed_size else (None, None)
    network = build_network(config.backbone, heads, dropout=config.dropout, input_hw=input_hw)
    if config.start_from is not None:
        _start_from(network, config.start_from, run.parent, seen)
    elif config.pretrained:
        load_pretrained(network)
    if config.freeze_until is not None:
        freeze_before(network, config.freeze_until)
    compile_network(network, config, steps, counts)
    network.optimizer.build(network.trainable_variables)
    return network


def freeze_before(network: keras.Model, first: str) -> None:
    """Take every layer before the one called `first` out of training.

    The first layers see the most pixels, so a step without their gradients costs much less: 15
    instead of 27 ms a photo for EfficientNet-Lite0 at 128x96 frozen until `block3_expand`.

    Raises `PermanentError` (`validation_error`) listing the layers that learn.
    """
    names = [layer.name for layer in network.layers]
    if first not in names:
        learning = [layer.name for layer in network.layers if layer.trainable_variables]
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR,
            f"freeze_until: {network.name} has no layer {first!r}; known: {', '.join(learning)}",
        )
    for layer in network.layers[: names.index(first)]:
        layer.trainable = False


def _start_from(
    network: keras.Model, name: str, runs: Path, seen: Sequence[NDArray[np.float32]]
) -> None:
    """Weights of another finished run or, without it, of the bundle that it became.

    The network must not be compiled yet: a run's file holds its optimiser too, whose step count
    would end this run's schedule before it began.
    """
    if (runs / name / WEIGHTS).is_file():
        network.load_weights(runs / name / WEIGHTS)
    elif (WEIGHTS_DIR / name / METADATA).is_file():
        heads = unfold(network, open_bundle(WEIGHTS_DIR / name, "classification"), seen)
        LOGGER.info("going on from the bundle %s with its heads %s", name, ", ".join(heads))
    else:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR,
            f"start_from: {runs / name / WEIGHTS} is missing, and there is no bundle {name}; "
            "finish that run first",
        )


def _load_sources(
    config: TrainConfig, datasets: Sequence[TrainingSet]
) -> tuple[list[tuple[Source, int]], dict[str, PlainBatches], dict[str, NDArray[np.int64]]]:
    """Sources to train on with their photos per batch, validation batches, and how often each label
    of each head occurs in the sources, where it is the only right one.
    """
    taxonomy = load_taxonomy()
    given = {dataset.layout: dataset for dataset in datasets}
    sources: list[tuple[Source, int]] = []
    validation: dict[str, PlainBatches] = {}
    counts: dict[str, NDArray[np.int64]] = {}
    for layout, count in config.photos_per_batch.items():
        if layout not in given:
            raise PermanentError(
                ErrorCode.VALIDATION_ERROR, f"{config.name} trains on {layout}; none are given"
            )
        dataset = given[layout]
        if isinstance(dataset, PhotoDataset):
            _report_skipped(layout, dataset.skipped)
        for split in ("train", "validation"):
            source, broken = load_source(dataset, split, tuple(config.heads), taxonomy)
            _report_skipped(f"{layout}/{split}", broken)
            LOGGER.info("%s/%s: %d photos", layout, split, len(source))
            if split == "train":
                for head, rows in source.accepted.items():
                    found = label_counts(rows)
                    counts[head] = counts[head] + found if head in counts else found
                sources.append((_taught(source, config), count))
            elif len(source):
                validation[layout] = PlainBatches(source, config.input_hw)
    return sources, validation, counts


def _taught(source: Source, config: TrainConfig) -> Source:
    """The source with the teacher's answers in its targets, where the config names a teacher."""
    if config.teacher is None:
        return source
    bundle = open_bundle(resolve(config.teacher, "classification"), "classification")
    teacher = AttributeClassifier(bundle, config.threads)
    LOGGER.info("asking %s about %d photos", config.teacher, len(source))
    accepted = teach(teacher, list(source.images), source.accepted, config.teacher_share)
    return replace(source, accepted=accepted)


def _report_skipped(where: str, skipped: Sequence[Skipped]) -> None:
    for entry in skipped:
        LOGGER.warning("%s: skipped %s: %s", where, entry.item_id, entry.reason)
    if skipped:
        LOGGER.warning("%s: skipped %d in all", where, len(skipped))


def _finished_rounds(run: Path, config: TrainConfig) -> int:
    state_path = run / _STATE
    if not state_path.is_file():
        return 0
    state = json.loads(state_path.read_text())
    # A setting that the run does not know is younger than it, and was what it is by default.
    defaults = {f.name: f.default for f in fields(TrainConfig) if f.default is not MISSING}
    before, now = defaults | state["config"], _plain(config)
    changed = [k for k in now if k not in _MAY_CHANGE and now[k] != before.get(k)]
    if changed:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR,
            f"{run} holds the run of another config ({', '.join(changed)} differ); "
            "remove the folder or name another",
        )
    return int(state["rounds"])


def _plain(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def _append(path: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerow(row)
