"""Do the masks of a clip look like those of one subject that is filmed whole? What does not is worth a look."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

SMALL = 0.004  # of the picture: less is a speck, or a subject of a few pixels
CUT_OFF, OFTEN = 0.3, 0.4  # of the mask's size lies on the picture's border; in this share of the frames
JUMP, SWELL = 0.45, 1.5  # overlap of two frames' masks, centres brought together; factor between their areas
JUMPS = 0.04  # in this share of the steps


def mask_doubts(masks: UInt8[np.ndarray, "t h w"]) -> list[str]:
    """What looks wrong, as phrases that follow "the masks"; empty where nothing does.

    The thresholds lie between true masks of animals that run and turn (in 19 of 20 steps the overlap is above 0.53 and
    areas change by less than 1.3) and a small network's masks of such films (0.08 to 0.47, areas by 1.6 to 5).
    """
    solid = masks > 127
    area = solid.sum((1, 2)).astype(float)
    if not (area > 0).any():
        return []
    doubts = []
    if np.median(area) < SMALL * solid[0].size:
        doubts.append(f"cover {100 * float(np.median(area)) / solid[0].size:.1g} % of the picture only")
    cut = float(np.mean(_on_border(solid) > CUT_OFF * np.sqrt(np.maximum(area, 1))))
    if cut > OFTEN:
        doubts.append(f"run out of the picture in {100 * cut:.0f} % of the frames")
    steps = [(a, b) for a, b in pairwise(solid) if a.any() and b.any()]
    if steps:
        overlaps = np.array([_overlap(a, b) for a, b in steps])
        changes = np.array([max(a.sum() / b.sum(), b.sum() / a.sum()) for a, b in steps])
        jumps = float(np.mean((overlaps < JUMP) | (changes > SWELL)))
        if jumps > JUMPS:
            doubts.append(f"change abruptly in {max(1, round(jumps * len(steps)))} of {len(steps)} steps")
    return doubts


def _on_border(solid: Bool[np.ndarray, "t h w"]) -> np.ndarray:
    """Mask pixels on the border of each picture."""
    return (solid[:, 0].sum(1) + solid[:, -1].sum(1) + solid[:, 1:-1, 0].sum(1) + solid[:, 1:-1, -1].sum(1)).astype(
        float
    )


def _overlap(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """IoU after the centres are brought together: a subject may move, but it keeps its shape for one frame."""
    move = np.argwhere(b).mean(0) - np.argwhere(a).mean(0)
    shift = np.array([[1, 0, move[1]], [0, 1, move[0]]], np.float32)
    moved = cv2.warpAffine(a.astype(np.uint8), shift, (a.shape[1], a.shape[0]), flags=cv2.INTER_NEAREST) > 0
    return float((moved & b).sum() / max((moved | b).sum(), 1))
