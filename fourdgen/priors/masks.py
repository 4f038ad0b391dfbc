"""Cutting the subject out of a clip that brings no masks: which way, and what all ways share.

Ways, in the order in which `auto` tries them: a plain background (plain.py), U2-Net weights if they are on this machine
(neural.py), colour models and motion (classical.py). Where the camera stands still, the clip as a whole then corrects
what was found frame by frame (still.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fourdgen import weights
from fourdgen.priors import classical, neural, plain, still
from fourdgen.priors.subject import Box, follow
from fourdgen.report import FourdgenError, Reporter, Silent

Way = Literal["plain", "u2netp", "classical"]
NETWORKS = ("u2net", "u2netp")  # the better one first
SUBJECT_AREA = (0.001, 0.9)  # of the picture: a plain background that leaves less or more was none


@dataclass(frozen=True)
class Cut:
    """A clip with its subject cut out. `rgb` [t h w 3] has the background's share taken out of its rim pixels."""

    rgb: UInt8[np.ndarray, "t h w 3"]
    mask: UInt8[np.ndarray, "t h w"]
    way: Way


def network() -> tuple[str, Path] | None:
    """(name, file) of the mask network on this machine, or None."""
    for name in NETWORKS:
        path = weights.locate(name)
        if path is not None:
            return name, path
    return None


def cut_subject(
    rgb: UInt8[np.ndarray, "t h w 3"],
    box: Box | None = None,
    way: Way | None = None,
    threads: int = 1,
    report: Reporter = Silent(),
    label: str = "",
) -> Cut:
    """Finds the subject of a clip.

    box: (x, y, w, h) in pixels, where the subject is in the first frame; without it the most prominent thing is taken.
    way: insist on one; default: the best that works. Raises FourdgenError when the way insisted on cannot work.
    """
    if way in (None, "plain"):
        cut = _cut_plain(rgb, box)
        if cut is not None:
            return cut
        if way == "plain":
            raise FourdgenError(
                f"{label}: the background is not one plain colour",
                "leave --set ingest.masks=plain away, or give --masks",
            )
    found = network() if way != "classical" else None
    if found is not None:
        mask = neural.track(rgb, neural.open_network(found[1], threads), box, report)
    elif way == "u2netp":
        raise FourdgenError("there are no mask weights on this machine", "get them with `fourdgen doctor --fetch`")
    else:
        mask = follow(classical.foreground(rgb, box, report), box)
    if mask.any() and still.is_still(rgb, mask):
        mask = follow(still.correct(rgb, mask), box)
    return Cut(_unmixed(rgb, mask), mask, "u2netp" if found else "classical")


def _cut_plain(rgb: UInt8[np.ndarray, "t h w 3"], box: Box | None) -> Cut | None:
    background = plain.find_plain(rgb)
    if background is None:
        return None
    cuts = [plain.cut_plain(picture, background) for picture in rgb]
    mask = np.stack([m for _, m in cuts])
    covered = float(np.median((mask > 127).mean((1, 2))))
    if not SUBJECT_AREA[0] <= covered <= SUBJECT_AREA[1]:
        return None
    if box is not None:
        mask = follow(mask, box)
    return Cut(np.stack([p for p, _ in cuts]), mask, "plain")


def _unmixed(rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Takes the background's share out of soft pixels, with both colours estimated from the surroundings.

    The closed form of Forte (2021, "Approximate Fast Foreground Colour Estimation"), one pass.
    """
    out = rgb.copy()
    window = max(7, round(0.04 * max(mask.shape[1:]))) | 1
    for t in range(len(rgb)):
        soft = (mask[t] > 5) & (mask[t] < 250)
        if not soft.any():
            continue
        alpha = (mask[t].astype(np.float32) / 255)[..., None]
        color = rgb[t].astype(np.float32)
        solid, clear = (alpha > 0.9).astype(np.float32), (alpha < 0.1).astype(np.float32)
        front = _mean(color, solid + 0.02 * alpha, window)
        back = _mean(color, clear + 0.02 * (1 - alpha), window)
        better = front + alpha * (color - alpha * front - (1 - alpha) * back)
        out[t][soft] = better[soft].clip(0, 255).round().astype(np.uint8)
    return out


def _mean(color: Float[np.ndarray, "h w 3"], weight: Float[np.ndarray, "h w 1"], window: int) -> np.ndarray:
    total = cv2.blur(weight, (window, window))[..., None]
    return np.asarray(cv2.blur(color * weight, (window, window)) / np.maximum(total, 1e-6))
