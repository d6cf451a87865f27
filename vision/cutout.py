"""Cut a garment out of what it lies on or hangs before.

GrabCut: Rother, Kolmogorov and Blake, SIGGRAPH 2004, https://doi.org/10.1145/1015706.1015720. Skin
by its chroma: Chai and Ngan, "Face Segmentation Using Skin-Color Map in Videophone Applications",
IEEE Transactions on Circuits and Systems for Video Technology 9(4), 1999.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Longer photos are cut out at this length: the colours of a garment need no more.
_LONG_SIDE = 224
_ITERATIONS = 3
# Of the box: less is a print or a shadow, more is what GrabCut says when it tells nothing apart.
_LEAST_SHARE, _GREATEST_SHARE = 0.15, 0.97
# Certain background around a box that leaves hardly any, as a share of the photo's sides.
_FRAME = 0.015
# Ranges of Cr and Cb, 0–255, that skin of all tones lies in.
_SKIN_CR, _SKIN_CB = (133, 173), (77, 127)


def cut_out(
    pixels: NDArray[np.uint8], xyxy: tuple[float, float, float, float]
) -> NDArray[np.bool_] | None:
    """(H, W) bool: what stands out within a box, in an (H, W, 3) uint8 RGB photo.

    For a photo of nothing but what is in the box: all around it is taken for background. None when
    nothing can be told apart.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    small_wh = max(2, round(width * scale)), max(2, round(height * scale))
    small = cv2.resize(pixels, small_wh, interpolation=cv2.INTER_AREA).astype(np.uint8)
    x1, y1, x2, y2 = np.round(np.multiply(xyxy, np.divide(small_wh * 2, (width, height) * 2)))
    box = slice(int(max(0, y1)), int(y2)), slice(int(max(0, x1)), int(x2))
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    labels[box] = cv2.GC_PR_FGD
    frame = max(1, round(_FRAME * max(small_wh)))
    labels[:frame] = labels[-frame:] = cv2.GC_BGD
    labels[:, :frame] = labels[:, -frame:] = cv2.GC_BGD
    if not (labels == cv2.GC_PR_FGD).any():
        return None
    found = grab_cut(small, labels, _ITERATIONS)
    share = np.count_nonzero(found[box]) / max(1, found[box].size)
    if not _LEAST_SHARE <= share <= _GREATEST_SHARE:
        return None
    enlarged = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    mask: NDArray[np.bool_] = enlarged >= 0.5
    return mask


def grab_cut(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], iterations: int
) -> NDArray[np.bool_]:
    """(h, w) bool: the foreground of an (h, w, 3) uint8 image.

    labels: (h, w) of OpenCV's four `GC_` classes, some of them background and some foreground, each
    certain or probable.
    """
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))  # colour models, to be filled
    cv2.setRNGSeed(0)  # its clusters start at random
    whole, found = (0, 0, *labels.shape[::-1]), labels.copy()
    cv2.grabCut(
        np.ascontiguousarray(image),
        found,
        whole,
        background,
        foreground,
        iterations,
        cv2.GC_INIT_WITH_MASK,
    )
    return np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD))


def skin_share(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Share of a mask's pixels that have the colour of skin, in [0, 1]; 0 for an empty mask.

    pixels: (H, W, 3) uint8 RGB. Beige and tan cloth has that colour too.
    """
    chroma = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)[mask]
    if not len(chroma):
        return 0.0
    (low_cr, high_cr), (low_cb, high_cb) = _SKIN_CR, _SKIN_CB
    _, cr, cb = chroma.T
    skin = (cr >= low_cr) & (cr <= high_cr) & (cb >= low_cb) & (cb <= high_cb)
    return float(skin.mean())
