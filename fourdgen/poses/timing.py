"""When two clips show the same motion: offset and rate of one clip's time against the other's, from outlines.

A plane through both camera centres that touches the subject touches its outline in both pictures (Cipolla and
Giblin's frontier points). So at the same instant the planes through the baseline that just touch the outlines stand at
the same angles in both views: a metric test without correspondences, whatever the directions of view, as exact as the
cameras. Its two residuals are compared for all pairs of frames; the time map is the straight line of least cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen.geometry.camera import Cameras

RATES = tuple(2.0 ** (k / 16) for k in range(-16, 17))  # half to twice as fast, then finer
LEAST_OVERLAP = 0.6  # of the shorter clip must lie within the other
# Costs measured under true cameras. Of two views of one motion (person): 0.07 to 0.11 with 24 pairs of frames or more,
# 0.09 to 0.19 with 8 to 16. Of two motions (seven pairs of clips, whole, cut short, and lasting 6 to 24 s) the best
# line leaves 0.27 with 6 to 23 pairs, 0.47 with more (benchmarks/sync.py --apart); 0.10 where 3 to 5 are enough.
LEAST_PAIRS = 6  # of frames on a line: fewer agree by chance
MANY_PAIRS = 24
EVIDENT, EVIDENT_FEW = 0.3, 0.2  # a map of a greater cost is made up; the second with fewer than MANY_PAIRS
UNASKED, UNASKED_PAIRS = 0.15, 12  # without being asked for a map of less, through so many pairs, is believed
LEAST_GAIN = 1.25  # by this factor a found time map must fit better than the clips' own times
NOISE = 0.005  # of the subject's size: residuals that outlines have anyway
LEAST_SINE = 0.08  # between the lines of sight: with a shorter baseline the planes tell nothing


@dataclass(frozen=True)
class TimeMap:
    """reference seconds = rate * seconds + offset. `cost`: what is left of the disagreement between the outlines, as a
    share of what frames paired at random have; `plain`: the same of rate 1, offset 0 (infinite without overlap).
    `pairs`: frames on which that rests, of the clip that has fewer where both show the motion."""

    offset: float
    rate: float
    cost: float
    plain: float
    pairs: int

    @property
    def evident(self) -> bool:
        """Whether the outlines bear it out that the clips show one motion, given that somebody says so."""
        return self.cost <= (EVIDENT if self.pairs >= MANY_PAIRS else EVIDENT_FEW)

    @property
    def speaks_for_itself(self) -> bool:
        """Whether they show one motion though nobody said so."""
        return self.cost <= UNASKED and self.pairs >= UNASKED_PAIRS


def outline_rays(mask: UInt8[np.ndarray, "h w"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "n 3"]:
    """Unit rays of the outline's convex hull (all that planes touch) in camera axes; empty without a subject."""
    contours, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = [c for c in contours if len(c) > 8]
    if not contours:
        return np.zeros((0, 3))
    largest = max(cv2.contourArea(c) for c in contours)
    points = np.concatenate([c[:, 0] for c in contours if cv2.contourArea(c) >= 0.05 * largest])
    hull = cv2.convexHull(points)[:, 0].astype(np.float64) + 0.5
    rays = np.concatenate([hull, np.ones((len(hull), 1))], 1) @ np.linalg.inv(K.astype(np.float64)).T
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def tangency(
    first: tuple[UInt8[np.ndarray, "t h w"], Cameras], second: tuple[UInt8[np.ndarray, "s g v"], Cameras]
) -> Float[np.ndarray, "t s 2"]:
    """How far the touching planes of every two frames are apart at either side of the subject, signed, in subject
    sizes; NaN where the two views cannot tell."""
    rays, eyes = [], []
    for masks, cameras in (first, second):
        turn = cameras.cam_from_world[:, :3, :3].double().numpy()
        rays.append([outline_rays(m, k.numpy()) @ r for m, k, r in zip(masks, cameras.K, turn, strict=True)])
        eyes.append(cameras.centers().double().numpy())
    apart = np.full((len(rays[0]), len(rays[1]), 2), np.nan)
    for i, mine in enumerate(rays[0]):
        for j, theirs in enumerate(rays[1]):
            if len(mine) and len(theirs):
                apart[i, j] = _apart(mine, theirs, eyes[1][j] - eyes[0][i])
    return apart


def _apart(
    mine: Float[np.ndarray, "n 3"], theirs: Float[np.ndarray, "m 3"], base: Float[np.ndarray, "3"]
) -> tuple[float, float]:
    length = float(np.linalg.norm(base))
    middle = mine.mean(0) + theirs.mean(0)
    axis = base / max(length, 1e-9)
    out = middle - (middle @ axis) * axis
    sine = min(float(np.linalg.norm(np.cross(axis, rays.mean(0)))) for rays in (mine, theirs))
    if length < 1e-6 or sine < LEAST_SINE or np.linalg.norm(out) < 1e-6:
        return math.nan, math.nan
    out = out / np.linalg.norm(out)
    side = np.cross(axis, out)
    low, high = zip(*((a.min(), a.max()) for a in (np.arctan2(r @ side, r @ out) for r in (mine, theirs))), strict=True)
    size = max(high[0] - low[0], high[1] - low[1], 1e-6)
    return float(low[0] - low[1]) / size, float(high[0] - high[1]) / size


def find_time_map(
    apart: Float[np.ndarray, "t s 2"], reference: Float[Tensor, "t"], seconds: Float[Tensor, "s"]
) -> TimeMap:
    """The line through the matrix of residuals with the least cost: first over a grid of rates and offsets, then finer.

    `reference`, `seconds`: times of the frames of the reference and of the other clip. The clips' own times stay where
    nothing fits better by LEAST_GAIN.
    """
    mine, theirs = reference.double().numpy(), seconds.double().numpy()
    step = float(np.median(np.diff(mine)))
    plain, through = _along(apart, mine, theirs, 1.0, 0.0)
    best = (plain, 1.0, 0.0, through)

    def better(rate: float, offset: float) -> tuple[float, float, float, int]:
        cost, pairs = _along(apart, mine, theirs, rate, offset)
        return min(best, (cost, rate, offset, pairs))

    shortest = min(mine[-1] - mine[0], theirs[-1] - theirs[0])
    for rate in RATES:
        low = mine[0] - rate * theirs[-1] + LEAST_OVERLAP * shortest
        high = mine[-1] - rate * theirs[0] - LEAST_OVERLAP * shortest
        for offset in np.arange(low, high + step, step / 2):
            best = better(rate, float(offset))
    middle = float(theirs.mean())
    for width in (0.5, 0.25, 0.12):
        _, rate, offset, _ = best
        for change in np.linspace(-1, 1, 9):
            near = rate * 2 ** (width * change / 16)
            for shift in np.linspace(-1, 1, 9) * width * step:
                best = better(near, float(offset + (rate - near) * middle + shift))  # turns about the clip's middle
    cost, rate, offset, pairs = best
    if not plain > LEAST_GAIN * cost:
        return TimeMap(0.0, 1.0, plain, plain, through)
    return TimeMap(float(offset), float(rate), cost, plain, pairs)


def _along(
    apart: Float[np.ndarray, "t s 2"],
    mine: Float[np.ndarray, "t"],
    theirs: Float[np.ndarray, "s"],
    rate: float,
    offset: float,
) -> tuple[float, int]:
    """Cost of a time map, and the pairs on which it rests: how far the planes are apart when frames are paired by it,
    over how far when every frame is paired with every other. So a stretch in which nothing happens explains nothing.
    Infinite with too little overlap.
    """
    at = rate * theirs + offset
    inside = (at >= mine[0] - 1e-9) & (at <= mine[-1] + 1e-9)
    covered = at[inside]
    shortest = min(mine[-1] - mine[0], rate * (theirs[-1] - theirs[0]))
    if len(covered) < LEAST_PAIRS or covered.max() - covered.min() < LEAST_OVERLAP * shortest:
        return math.inf, 0
    place = np.interp(covered, mine, np.arange(len(mine)))
    below = np.minimum(place.astype(int), len(mine) - 2)
    share = place - below
    column = np.nonzero(inside)[0]
    paired = (1 - share)[:, None] * apart[below, column] + share[:, None] * apart[below + 1, column]
    told = ~np.isnan(paired[:, 0])
    pairs = len(np.unique(place[told].round()))
    if pairs < LEAST_PAIRS:
        return math.inf, 0
    anyhow = apart[below][:, column].reshape(-1, 2)
    anyhow = anyhow[~np.isnan(anyhow[:, 0])]
    return (_spread(paired[told]) + NOISE) / (_spread(anyhow) + NOISE), pairs


def _spread(values: Float[np.ndarray, "n 2"]) -> float:
    """Masks that are all a little wide, or cameras a little off, shift every plane alike and tell nothing of time."""
    return float(np.abs(values - np.median(values, 0)).mean())
