"""Do the masks of a clip look like those of one subject that is filmed whole? What does not is worth a look."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

SMALL = 0.004  # of the picture: less is a speck, or a subject of a few pixels
CUT_OFF, OFTEN = 0.3, 0.4  # of the mask's size lies on the picture's border; in this share of the frames
JUMP = 0.55  # of the clip's usual overlap of two frames' masks (centres brought together): a step below it is abrupt
SWELL = 1.5  # times the usual change in area from frame to frame: the same
JUMPS, LEAST_JUMPS = 0.05, 2  # share of abrupt steps, and their number, that is worth a word


def mask_doubts(masks: UInt8[np.ndarray, "t h w"]) -> list[str]:
    """What looks wrong, as phrases that follow "the masks"; empty where nothing does.

    Steps are compared with the clip's own, because a film of few frames a second changes much in every step. In the
    true masks of animals that run and turn (as filmed, and every second or fourth frame of it) no step is abrupt; in a
    small network's masks of such films a tenth to a sixth of the steps are.
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
        abrupt = (overlaps < JUMP * np.median(overlaps)) | (changes > SWELL * np.median(changes))
        if abrupt.sum() >= LEAST_JUMPS and abrupt.mean() > JUMPS:
            doubts.append(f"change abruptly in {abrupt.sum()} of {len(steps)} steps")
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
