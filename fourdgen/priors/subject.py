"""Which of the things in a mask is the subject, and where it goes from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Box = tuple[float, float, float, float]  # x, y, w, h in pixels
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, statistics, centroids as OpenCV gives them


def follow(soft: UInt8[np.ndarray, "t h w"], box: Box | None = None) -> UInt8[np.ndarray, "t h w"]:
    """Keeps the one subject of a soft mask through time, and takes other things out.

    It is chosen in one frame (inside the box in the first frame; else where it stands out most) and from there followed
    both ways: whatever overlaps with where it just was belongs to it. Its holes and lost pieces stay as they are.
    """
    count = len(soft)
    parts = [find_parts(frame) for frame in soft]
    if box is not None:
        start = 0
        chosen = in_box(parts[0], box)
    else:
        scores = [prominence(frame) for frame in parts]
        start = int(np.argmax([score.max(initial=0.0) for score in scores]))
        chosen = mask_of(parts[start], [int(scores[start].argmax()) + 1] if scores[start].size else [])
    kept = np.zeros_like(soft)
    for steps in (range(start, count), range(start, -1, -1)):
        last = chosen
        for t in steps:
            here = overlapping(parts[t], last)
            if here.any():
                last = here
            kept[t] = only(soft[t], here)
    return kept


def only(soft: UInt8[np.ndarray, "h w"], part: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The soft mask of one part: itself and its soft rim."""
    return np.where(cv2.dilate(part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0, soft, 0).astype(np.uint8)


def find_parts(frame: UInt8[np.ndarray, "h w"]) -> Parts:
    """Connected parts of a mask (above 127): labels [h w], 0 outside, then one row each: x, y, w, h, area (pixels), and
    the middle."""
    _, labels, stats, centers = cv2.connectedComponentsWithStats((frame > 127).astype(np.uint8), connectivity=8)
    return labels, stats, centers


def mask_of(parts: Parts, chosen: Sequence[int]) -> Bool[np.ndarray, "h w"]:
    """Where the parts of these labels are."""
    return np.isin(parts[0], chosen) if len(chosen) else np.zeros(parts[0].shape, bool)


def prominence(parts: Parts) -> Float[np.ndarray, "n"]:
    """How much each part looks like what the film is about: large, in the middle, not cut off by the frame."""
    labels, stats, centers = parts
    height, width = labels.shape
    off = np.abs(centers[1:] / (width, height) - 0.5).max(-1) * 2
    x, y, w, h = stats[1:, :4].T
    cut = (x <= 0).astype(int) + (y <= 0) + (x + w >= width) + (y + h >= height)
    return np.asarray(stats[1:, cv2.CC_STAT_AREA] * (1 - 0.7 * off) * 0.7**cut)


def in_box(parts: Parts, box: Box) -> Bool[np.ndarray, "h w"]:
    """The parts that lie mostly in the box; else, within the box, whatever is there."""
    x0, y0, x1, y1 = box_pixels(box, parts[0].shape[1], parts[0].shape[0])
    inside = np.bincount(parts[0][y0:y1, x0:x1].ravel(), minlength=len(parts[1]))
    mostly = [i for i in range(1, len(parts[1])) if inside[i] >= 0.5 * parts[1][i, cv2.CC_STAT_AREA]]
    if mostly:
        return mask_of(parts, mostly)
    window = np.zeros(parts[0].shape, bool)
    window[y0:y1, x0:x1] = True
    return window & (parts[0] > 0) if (window & (parts[0] > 0)).any() else window


def box_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a box (x, y, w, h), clipped to the picture and at least a pixel large."""
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    return x0, y0, min(max(round(box[0] + box[2]), x0 + 1), width), min(max(round(box[1] + box[3]), y0 + 1), height)


def overlapping(parts: Parts, last: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The parts of this frame that continue what was kept in the last one."""
    if not last.any():
        return last
    reach = max(3, round(0.02 * max(last.shape))) | 1
    near = cv2.dilate(last.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    touched = np.bincount(parts[0][near], minlength=len(parts[1]))
    area = parts[1][:, cv2.CC_STAT_AREA]
    chosen = [i for i in range(1, len(area)) if touched[i] >= 0.3 * area[i] or touched[i] >= 0.3 * last.sum()]
    return mask_of(parts, chosen)
