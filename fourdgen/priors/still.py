"""Masks of clips whose camera stands still: what a frame alone does not tell, the clip as a whole does.

Behind a subject that moves, a still camera sees the background sooner or later. So a first mask of every frame, even a
bad one, gives a picture of the empty scene, and colours of the subject and of its surroundings; these correct the mask.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from fourdgen.priors.edges import guided, refine

SIDE = 256  # all evidence is weighed at this longer side
STILL = 0.85  # share of background pixels that must look the same all through the clip
SAME = 14  # grey levels that a pixel may change and still look the same
ROUNDS = 6  # of weighing and learning anew from the result
BINS = 14  # of each channel of the colour histograms
FIRST, COLOR, PLATE, NEIGHBOURS = 0.3, 3.0, 4.0, 0.7  # weights of the evidence, all in log odds
CHANGE = 22  # grey levels from the empty scene at which a pixel is as likely subject as not
SHARPNESS = 8  # grey levels that change the odds by e
KNOWN = 0.25  # share of the frames in which a pixel must have shown background for its plate to count fully


def is_still(rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"]) -> bool:
    """Whether what the mask leaves out looks the same in all frames."""
    if len(rgb) < 3:
        return False
    small, soft = _reduced(rgb, mask)
    outside = cv2.dilate((soft.max(0) > 0.25).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    if outside.mean() < 0.05:
        return False
    change = np.abs(small.astype(np.float32) - np.median(small, 0)).max(-1)
    return bool((change[:, outside] < SAME).mean() > STILL)


def correct(rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "t h w"]:
    """Soft mask of the subject, 0..255, from all evidence of a clip whose camera stands still.

    The evidence of a pixel is its first mask, how typical its colour is of the subject and not of the surroundings, how
    far it is from the empty scene there, and its neighbours in time along optical flow. Each round learns the colours
    and the empty scene from the last one's result.
    """
    small, first = _reduced(rgb, mask)
    size = (small.shape[2], small.shape[1])
    colors = _color_bins(small)
    grey = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in small])
    paths, soft_grey = _paths(grey), grey.astype(np.float32) / 255
    belief = first.copy()
    for _ in range(ROUNDS):
        near = np.stack([cv2.GaussianBlur((b > 0.5).astype(np.float32), (0, 0), 0.12 * max(size)) for b in belief])
        near /= np.maximum(near.max((1, 2), keepdims=True), 1e-6)
        odds = FIRST * _log_odds(first) + COLOR * _color_odds(colors, belief, near)
        odds += PLATE * _plate_odds(small, belief) + NEIGHBOURS * _log_odds(_neighbours(belief, paths))
        odds -= 3.0 * (near < 0.02)  # the subject is one thing
        belief = 1 / (1 + np.exp(-odds))
        belief = np.stack(
            [guided(g, b, 5).clip(0, 1) for g, b in zip(soft_grey, belief.astype(np.float32), strict=True)]
        )
    full = (rgb.shape[2], rgb.shape[1])
    large = [cv2.resize(b, full, interpolation=cv2.INTER_LINEAR) for b in belief]
    return np.stack([(refine(p, b) * 255).round().astype(np.uint8) for p, b in zip(rgb, large, strict=True)])


def _reduced(rgb: np.ndarray, mask: np.ndarray) -> tuple[UInt8[np.ndarray, "t h w 3"], Float[np.ndarray, "t h w"]]:
    height, width = rgb.shape[1:3]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in rgb])
    soft = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in mask])
    return small, soft.astype(np.float32) / 255


def _log_odds(p: np.ndarray) -> Float[np.ndarray, "t h w"]:
    clipped = p.clip(0.02, 0.98)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _color_bins(small: UInt8[np.ndarray, "t h w 3"]) -> Int[np.ndarray, "t h w"]:
    lab = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) for picture in small]).astype(int) * BINS // 256
    return np.asarray((lab[..., 0] * BINS + lab[..., 1]) * BINS + lab[..., 2])


def _color_odds(colors: np.ndarray, belief: np.ndarray, near: np.ndarray) -> Float[np.ndarray, "t h w"]:
    """Log odds of each pixel's colour; background counts by how near it is, because it is told apart there."""
    subject, around = _histogram(colors, belief * (belief > 0.5)), _histogram(colors, (1 - belief) * (0.1 + near))
    return np.asarray(np.log(subject / around)[colors].clip(-4, 4))


def _histogram(colors: np.ndarray, weight: np.ndarray) -> Float[np.ndarray, "n"]:
    table = np.bincount(colors.ravel(), weight.ravel(), BINS**3).reshape(BINS, BINS, BINS)
    for axis in range(3):
        table = 0.25 * np.roll(table, 1, axis) + 0.5 * table + 0.25 * np.roll(table, -1, axis)
    return np.asarray(table.ravel() / max(table.sum(), 1e-9) + 1e-5)


def _plate_odds(small: np.ndarray, belief: np.ndarray) -> Float[np.ndarray, "t h w"]:
    """Log odds from the distance to the empty scene: the median of a pixel over the frames that show background."""
    behind = belief < 0.5
    values = np.where(behind[..., None], small.astype(np.float32), np.nan)
    seen = behind.any(0)
    plate = np.zeros(small.shape[1:], np.float32)
    plate[seen] = np.nanmedian(values[:, seen], 0)
    odds = ((np.abs(small - plate).max(-1) - CHANGE) / SHARPNESS).clip(-3, 3)
    return np.asarray(odds * (behind.mean(0) / KNOWN).clip(0, 1))


def _paths(grey: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Where each pixel of a frame is in the frame before and in the one after."""
    height, width = grey.shape[1:]
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    pairs = [(t, other) for t in range(len(grey)) for other in (t - 1, t + 1) if 0 <= other < len(grey)]
    return {(t, other): grid + solver.calc(grey[t], grey[other], None) for t, other in pairs}


def _neighbours(belief: np.ndarray, paths: dict[tuple[int, int], np.ndarray]) -> Float[np.ndarray, "t h w"]:
    total, count = np.zeros_like(belief), np.zeros((len(belief), 1, 1))
    for (t, other), path in paths.items():
        total[t] += cv2.remap(belief[other], path, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        count[t] += 1
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)
