"""What a training step sees: photos of three data sets, varied and wrapped for Detectron2.

Street photos with masks (Clothing Co-Parsing) teach what a dressed person wears. Home photos and
packshots show one garment each and nobody, so that such a photo gets one box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import Boxes, BoxMode, Instances
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from detection.augmentation import IGNORED, View, augment, paste, pixel_classes
from detection.config import AugmentationConfig, MixConfig
from training.home_photos import HomePhotoDataset, foreground_box
from training.products import Product, ProductDataset, paste_product, product_mask
from training.split import DEFAULT_FRACTIONS, split_of
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage, decode
from vision.taxonomy import Taxonomy, load_taxonomy

Record = dict[str, Any]

# Packshots of these classes show the product alone; those of clothes mostly show it worn, with
# other garments around that nobody labelled.
PACKSHOT_CLASSES = ("footwear", "bag", "headwear", "eyewear", "belt", "neckwear")
# Of each of those classes at most so many, so that shoes do not drown the rest.
PACKSHOTS_OF_CLASS = 400


@dataclass(frozen=True)
class TrainingSample:
    """Detectron2's loader calls it for every record: decode, vary, and wrap as tensors.

    donors: records with masks whose garments are pasted onto others.
    """

    augmentation: AugmentationConfig
    donors: Sequence[Record] = ()

    def __call__(self, record: Record) -> dict[str, Any]:
        # Torch's generator is the one that its loader seeds apart in every worker.
        rng = np.random.default_rng(int(torch.randint(2**31, (1,))))
        view = self._view(record, rng)
        if view.owners is not None and self.donors and rng.random() < self.augmentation.copy_paste:
            view = self._with_pasted(view, rng)
        return _wrapped(view)

    def _view(self, record: Record, rng: np.random.Generator) -> View:
        if record.get("packshot"):
            view = _packshot_view(record, self.augmentation, rng)
        else:
            view = view_of(record)
        single = record.get("single", False)
        long_side = self.augmentation.single_long_side if single else None
        return augment(view, self.augmentation, rng, long_side)

    def _with_pasted(self, view: View, rng: np.random.Generator) -> View:
        donor = self._view(self.donors[int(rng.integers(len(self.donors)))], rng)
        candidates = np.flatnonzero(donor.class_ids != IGNORED)
        count = min(len(candidates), int(rng.integers(1, self.augmentation.max_pasted + 1)))
        chosen = rng.choice(candidates, count, replace=False)
        return paste(view, donor, np.sort(chosen), self.augmentation.min_visible)


def view_of(record: Record) -> View:
    """A record's photo, decoded, with its instances; `IGNORED` those that are crowds."""
    annotations = record["annotations"]
    owners = None
    if "owners" in record:
        encoded = np.frombuffer(record["owners"], np.uint8)
        owners = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
    return View(
        decode(EncodedImage(record["encoded"])).pixels,
        np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4),
        np.array([IGNORED if a["iscrowd"] else a["category_id"] for a in annotations], np.int64),
        owners,
    )


def _packshot_view(
    record: Record, augmentation: AugmentationConfig, rng: np.random.Generator
) -> View:
    """A product on a light canvas of its own, with the long side that `augment` then wants."""
    pixels = decode(EncodedImage(record["encoded"])).pixels
    pasted = paste_product(pixels, float(rng.uniform(*augmentation.single_long_side)), rng)
    class_ids = np.array([record["annotations"][0]["category_id"]], np.int64)
    return View(pasted.pixels, pasted.xyxy[None], class_ids)


def _wrapped(view: View) -> dict[str, Any]:
    """Ignore regions stay among the instances, as `IGNORED`, for the network to leave unjudged."""
    instances = Instances(view.pixels.shape[:2])
    instances.gt_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(view.xyxy)))
    instances.gt_classes = torch.from_numpy(view.class_ids)
    image = torch.from_numpy(np.ascontiguousarray(view.pixels.transpose(2, 0, 1)))
    classes = pixel_classes(view, len(load_taxonomy().garment_classes))
    return {"image": image, "instances": instances, "sem_seg": torch.from_numpy(classes)}


def home_photo_records(dataset: HomePhotoDataset, split: str) -> list[Record]:
    """One record for each home photo of a split whose garment has a class and stands out."""
    taxonomy = load_taxonomy()
    console = Console(stderr=True)
    chosen = [
        photo
        for photo in dataset.photos
        if photo.label in taxonomy.class_of_home_photo and split_of(photo.photo_id) == split
    ]
    records = []
    for photo in track(chosen, "home photos", console=console, disable=not console.is_terminal):
        encoded = dataset.photo_bytes(photo.photo_id)
        try:
            pixels = decode(EncodedImage(encoded)).pixels
        except PermanentError:
            continue
        box = foreground_box(pixels)
        if box is not None:
            class_name = taxonomy.class_of_home_photo[photo.label]
            class_id = taxonomy.garment_classes.index(class_name)
            records.append(_single(photo.photo_id, encoded, pixels, box, class_id))
    return records


def packshot_records(dataset: ProductDataset, split: str, seed: int) -> list[Record]:
    """One record for each of some products of a split whose packshots show them alone."""
    class_of = _class_of_article_type(load_taxonomy())
    by_class: dict[int, list[Product]] = {}
    for product in dataset.of_split(split, DEFAULT_FRACTIONS, salt=""):
        class_id = class_of.get(product.attributes.get("articleType", ""))
        if class_id is not None:
            by_class.setdefault(class_id, []).append(product)
    rng = np.random.default_rng(seed)
    records = []
    for class_id, products in sorted(by_class.items()):
        for index in rng.permutation(len(products))[:PACKSHOTS_OF_CLASS]:
            pixels = dataset.photo(products[index])
            # Nothing stands out from a photo without a white background.
            if pixels is not None and not product_mask(pixels).all():
                encoded = dataset.photo_bytes(products[index])
                whole = np.array([0, 0, *pixels.shape[1::-1]], np.float32)
                record = _single(products[index].product_id, encoded, pixels, whole, class_id)
                records.append({**record, "packshot": True})
    return records


def _single(
    photo_id: str,
    encoded: bytes,
    pixels: NDArray[np.uint8],
    box: NDArray[np.float32],
    class_id: int,
) -> Record:
    annotation = {
        "bbox": box.tolist(),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": class_id,
        "iscrowd": 0,
    }
    return {
        "image_id": photo_id,
        "encoded": encoded,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "annotations": [annotation],
        "single": True,
    }


def _class_of_article_type(taxonomy: Taxonomy) -> dict[str, int]:
    return {
        article_type: taxonomy.garment_classes.index(name)
        for name in PACKSHOT_CLASSES
        for article_type in taxonomy.article_types_of_class[name]
    }


def repeat_factors(
    street: Sequence[Record],
    home: Sequence[Record],
    packshots: Sequence[Record],
    mix: MixConfig,
    threshold: float,
) -> torch.Tensor:
    """How often a pass shows each record, in the order street, home, packshots.

    Street photos with a rare class are repeated (LVIS, https://arxiv.org/abs/1908.03195); the
    others get what makes their set the share of all photos that `mix` names.
    """
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        list(street), threshold
    )
    street_share = 1 - mix.home_photos - mix.packshots
    shown = float(factors.sum()) / street_share
    rest = [
        torch.full((len(records),), shown * share / max(1, len(records)))
        for records, share in ((home, mix.home_photos), (packshots, mix.packshots))
    ]
    return torch.cat([factors, *rest])


def open_sources(
    mix: MixConfig, home_photos: Path | None, products: Path | None, seed: int
) -> tuple[list[Record], list[Record]]:
    """The training records of home photos and packshots that `mix` wants.

    Raises `PermanentError` (`dataset_invalid`) where one is wanted and not given.
    """
    home = HomePhotoDataset(_given(home_photos, "home photos")) if mix.home_photos else None
    packshots = ProductDataset(_given(products, "products")) if mix.packshots else None
    return (
        home_photo_records(home, "train") if home else [],
        packshot_records(packshots, "train", seed) if packshots else [],
    )


def _given(path: Path | None, name: str) -> Path:
    if path is None:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"the configuration's mix wants {name}; none are given"
        )
    return path
