"""Training of the attribute head alone, on the frozen features of a trained network.

Every product is pasted at a realistic size, its box's features are computed once, and the head
learns from them in minutes. Another data set with other groups needs only another way to get views
and labels: `learn` takes features and labels of any groups.

Dimension glossary
    R: views; D: pyramid channels; G: groups; V: values of all groups together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from style_maskrcnn.attribute_head import UNLABELLED, attribute_loss, balanced_weights
from style_maskrcnn.attribute_scoring import group_scores
from style_maskrcnn.checkpoint import build, load_checkpoint, save_checkpoint
from style_maskrcnn.config import AttributeGroup, AttributeTrainingConfig, Config
from style_maskrcnn.network import StyleNetwork
from style_maskrcnn.postprocess import softmax
from style_maskrcnn.preprocess import to_tensor
from style_maskrcnn.progress import progress_bar
from training.products import (
    Product,
    ProductDataset,
    attribute_labels,
    choose_products,
    paste_product,
)
from vision.taxonomy import Taxonomy, load_taxonomy

CHECKPOINT = "with_attributes.pt"
# Answers below a confidence are `unknown`; it is set so that of the others this share is right.
WANTED_PRECISION = 0.7
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Features:
    """Views with labels. pooled: (R, D, 7, 7) float16. labels: (R, G) int64."""

    pooled: Tensor
    labels: Tensor


def train_attributes(
    checkpoint: Path, config: Config, data_path: Path, run: Path, threads: int = 0
) -> Path:
    """Give a trained network an attribute head; return the new checkpoint's path.

    Raises `PermanentError` when the checkpoint or the data cannot be used.
    """
    if threads:
        torch.set_num_threads(threads)
    settings = config.attributes
    torch.manual_seed(settings.seed)
    trained = load_checkpoint(checkpoint)
    dataset = ProductDataset(data_path)
    groups = groups_of(settings.groups, load_taxonomy())
    network = build(config, trained.labels, groups)
    network.load_state_dict(trained.network.state_dict(), strict=False)
    network.to(memory_format=torch.channels_last)
    features = {
        split: extract(network, dataset, chosen, groups, settings)
        for split, chosen in _products_of_splits(dataset, config).items()
    }
    learn(network, features["train"], groups, settings)
    calibration = {
        group.name: calibrate(*_of_group(network, features["calibration"], groups, i))
        for i, group in enumerate(groups)
    }
    scores = {
        group.name: group_scores(*_of_group(network, features["test"], groups, i), group.values)
        for i, group in enumerate(groups)
    }
    log.info("attribute scores on the test split: %s", scores)
    facts = {**trained.facts, "confidence": calibration, "attribute_scores": scores}
    run.mkdir(parents=True, exist_ok=True)
    save_checkpoint(run / CHECKPOINT, network, trained.config, trained.labels, groups, **facts)
    return run / CHECKPOINT


def groups_of(names: Sequence[str], taxonomy: Taxonomy) -> tuple[AttributeGroup, ...]:
    """Groups with the taxonomy's labels. Raises `ValueError` listing the known attributes."""
    unknown = [name for name in names if name not in taxonomy.attribute_labels]
    if unknown:
        known = ", ".join(taxonomy.attribute_labels)
        raise ValueError(f"unknown attribute {', '.join(unknown)}; known: {known}")
    return tuple(AttributeGroup(name, taxonomy.attribute_labels[name]) for name in names)


def extract(
    network: StyleNetwork,
    dataset: ProductDataset,
    products: Sequence[Product],
    groups: Sequence[AttributeGroup],
    settings: AttributeTrainingConfig,
) -> Features:
    """Features of the products' boxes, `settings.views` of each; broken photos are left out."""
    pooled, used = [], []
    network.eval()
    with progress_bar() as bar:
        for product in bar.track(products, description="features"):
            pixels = dataset.photo(product)
            if pixels is None:
                log.warning("images/%s.jpg cannot be decoded, left out", product.product_id)
                continue
            # A generator for each product: its views do not depend on which others were chosen.
            rng = np.random.default_rng([settings.seed, *product.product_id.encode()])
            for _ in range(settings.views):
                pooled.append(_features_of_view(network, pixels, settings, rng))
                used.append(product)
    labels = attribute_labels(used, [(g.name, g.values) for g in groups])
    return Features(torch.cat(pooled).half(), torch.from_numpy(labels))


def learn(
    network: StyleNetwork,
    features: Features,
    groups: Sequence[AttributeGroup],
    settings: AttributeTrainingConfig,
) -> None:
    """Fit the attribute head, in place; nothing else of the network changes."""
    head = network.attribute_head
    weights = {
        group.name: balanced_weights(features.labels[:, i], len(group.values), settings.balance)
        for i, group in enumerate(groups)
    }
    optimizer = torch.optim.AdamW(
        head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps_per_epoch = math.ceil(len(features.labels) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, settings.epochs * steps_per_epoch
    )
    head.train()
    for _ in range(settings.epochs):
        for chosen in torch.randperm(len(features.labels)).split(settings.batch_size):
            logits = head(features.pooled[chosen].float())
            loss = attribute_loss(logits, features.labels[chosen], groups, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    head.eval()


def calibrate(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Temperature and least confidence of one group from (R, values) logits and (R,) labels.

    Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. The
    least confidence is the lowest at which `WANTED_PRECISION` of the answers are right; where there
    is none, the one that leaves only the surest answer.
    """
    temperatures = np.geomspace(0.25, 4, 65)
    losses = [
        float(nn.functional.cross_entropy(torch.from_numpy(logits / t), torch.from_numpy(labels)))
        for t in temperatures
    ]
    temperature = float(temperatures[int(np.argmin(losses))])
    probabilities = softmax((logits / temperature).astype(np.float32))
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(-confidence, kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # A threshold cannot part answers that are equally sure.
    cuts = np.append(np.diff(confidence[order]) != 0, True)
    enough = np.flatnonzero((precision >= WANTED_PRECISION) & cuts)
    least = confidence[order[enough[-1]]] if len(enough) else confidence.max()
    # All answers good enough: then no answer is refused, not even one less sure than any seen.
    if len(enough) and enough[-1] == len(order) - 1:
        least = 0.0
    # Rounded down, so that the least sure of the accepted answers stays accepted.
    return {"temperature": round(temperature, 4), "min_confidence": math.floor(least * 1e4) / 1e4}


def _products_of_splits(dataset: ProductDataset, config: Config) -> dict[str, list[Product]]:
    settings, data = config.attributes, config.data
    seed = settings.seed
    train, calibration, test = (
        dataset.of_split(split, data.fractions, data.salt)
        for split in ("train", "calibration", "test")
    )
    # Held-out products keep the catalogue's shares: no column, so no value, comes first.
    return {
        "train": choose_products(train, settings.groups, settings.products, seed),
        "calibration": choose_products(calibration, (), settings.held_out_products, seed),
        "test": choose_products(test, (), settings.held_out_products, seed),
    }


def _features_of_view(
    network: StyleNetwork,
    pixels: NDArray[np.uint8],
    settings: AttributeTrainingConfig,
    rng: np.random.Generator,
) -> Tensor:
    view = paste_product(pixels, float(rng.uniform(*settings.object_sizes)), rng)
    image = torch.from_numpy(to_tensor(view.pixels, view.pixels.shape[:2])[None])
    with torch.no_grad():
        features = network.features(image.contiguous(memory_format=torch.channels_last))
        return network.attribute_features(features, [torch.from_numpy(view.xyxy[None])])


def _of_group(
    network: StyleNetwork, features: Features, groups: Sequence[AttributeGroup], index: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(R', values) logits and (R',) labels of one group, over the views that are labelled."""
    start = sum(len(group.values) for group in groups[:index])
    known = features.labels[:, index] != UNLABELLED
    with torch.no_grad():
        logits: Any = torch.cat(
            [network.attribute_head(part.float()) for part in features.pooled[known].split(512)]
        )
    stop = start + len(groups[index].values)
    return logits[:, start:stop].numpy(), features.labels[known, index].numpy()
