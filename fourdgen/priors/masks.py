"""Cutting the subject out of a clip that brings no masks: which way, and what all ways share.

Ways, in the order in which `auto` tries them: a plain background (plain.py), U2-Net weights if they are on this machine
(neural.py), colour models and motion (classical.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from fourdgen import weights
from fourdgen.priors import classical, neural, plain
from fourdgen.report import FourdgenError, Reporter, Silent

Way = Literal["plain", "u2netp", "classical"]
Box = tuple[float, float, float, float]
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
        soft = neural.saliency(rgb, found[1], threads, report)
    elif way == "u2netp":
        raise FourdgenError("there are no mask weights on this machine", "get them with `fourdgen doctor --fetch`")
    else:
        soft = classical.foreground(rgb, box, report)
    mask = follow(soft, box)
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


def follow(soft: UInt8[np.ndarray, "t h w"], box: Box | None = None) -> UInt8[np.ndarray, "t h w"]:
    """Keeps the one subject of a soft mask through time, and takes other things out.

    It is chosen in one frame (inside the box in the first frame; else where it stands out most) and from there followed
    both ways: whatever overlaps with where it just was belongs to it. Its holes and lost pieces stay as they are.
    """
    count = len(soft)
    parts = [_parts(frame) for frame in soft]
    if box is not None:
        start = 0
        chosen = _in_box(parts[0], box)
    else:
        scores = [_prominence(frame) for frame in parts]
        start = int(np.argmax([score.max(initial=0.0) for score in scores]))
        chosen = _mask_of(parts[start], [int(scores[start].argmax()) + 1] if scores[start].size else [])
    kept = np.zeros_like(soft)
    for steps in (range(start, count), range(start, -1, -1)):
        last = chosen
        for t in steps:
            here = _overlapping(parts[t], last)
            if here.any():
                last = here
            kept[t] = np.where(cv2.dilate(here.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0, soft[t], 0)
    return kept


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, statistics, centroids as OpenCV gives them


def _parts(frame: UInt8[np.ndarray, "h w"]) -> _Parts:
    _, labels, stats, centers = cv2.connectedComponentsWithStats((frame > 127).astype(np.uint8), connectivity=8)
    return labels, stats, centers


def _mask_of(parts: _Parts, chosen: Sequence[int]) -> Bool[np.ndarray, "h w"]:
    return np.isin(parts[0], chosen) if len(chosen) else np.zeros(parts[0].shape, bool)


def _prominence(parts: _Parts) -> Float[np.ndarray, "n"]:
    """How much each part looks like what the film is about: large, in the middle, not cut off by the frame."""
    labels, stats, centers = parts
    height, width = labels.shape
    off = np.abs(centers[1:] / (width, height) - 0.5).max(-1) * 2
    x, y, w, h = stats[1:, :4].T
    cut = (x <= 0).astype(int) + (y <= 0) + (x + w >= width) + (y + h >= height)
    return np.asarray(stats[1:, cv2.CC_STAT_AREA] * (1 - 0.7 * off) * 0.7**cut)


def _in_box(parts: _Parts, box: Box) -> Bool[np.ndarray, "h w"]:
    """The parts that lie mostly in the box; else, within the box, whatever is there."""
    x0, y0, x1, y1 = box_pixels(box, parts[0].shape[1], parts[0].shape[0])
    inside = np.bincount(parts[0][y0:y1, x0:x1].ravel(), minlength=len(parts[1]))
    mostly = [i for i in range(1, len(parts[1])) if inside[i] >= 0.5 * parts[1][i, cv2.CC_STAT_AREA]]
    if mostly:
        return _mask_of(parts, mostly)
    window = np.zeros(parts[0].shape, bool)
    window[y0:y1, x0:x1] = True
    return window & (parts[0] > 0) if (window & (parts[0] > 0)).any() else window


def box_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a box (x, y, w, h), clipped to the picture and at least a pixel large."""
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    return x0, y0, min(max(round(box[0] + box[2]), x0 + 1), width), min(max(round(box[1] + box[3]), y0 + 1), height)


def _overlapping(parts: _Parts, last: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The parts of this frame that continue what was kept in the last one."""
    if not last.any():
        return last
    reach = max(3, round(0.02 * max(last.shape))) | 1
    near = cv2.dilate(last.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    touched = np.bincount(parts[0][near], minlength=len(parts[1]))
    area = parts[1][:, cv2.CC_STAT_AREA]
    chosen = [i for i in range(1, len(area)) if touched[i] >= 0.3 * area[i] or touched[i] >= 0.3 * last.sum()]
    return _mask_of(parts, chosen)


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
