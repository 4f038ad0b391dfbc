"""Masks without any weights: colour models of subject and background (GrabCut), seeded by the box or by motion.

Worse than a network, and said so; good enough for a subject that stands out in colour or in movement.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fourdgen.report import Reporter, Silent

SIDE = 192  # GrabCut works at this longer side: four times the speed, and its edges are refined afterwards
ROUNDS = 4
USUAL_SHARE = 0.2  # of the picture is subject, where nobody has said anything
LEAST_CONTRAST = 6  # grey levels between the darkest and the brightest hundredth of a clip


def foreground(
    rgb: UInt8[np.ndarray, "t h w 3"], box: tuple[float, float, float, float] | None = None, report: Reporter = Silent()
) -> UInt8[np.ndarray, "t h w"]:
    """Soft mask of the subject, 0..255."""
    count, height, width = rgb.shape[:3]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    small = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in rgb])
    low, high = np.percentile(small, (1, 99))
    if high - low < LEAST_CONTRAST:  # an empty picture has no subject, wherever people usually film theirs
        return np.zeros((count, height, width), np.uint8)
    moving = motion_prior(small)
    # The place is what is believed of the first frame; from there on each frame starts from the one before.
    place = center_prior(size) if box is None else box_prior(box, size, scale)
    share = USUAL_SHARE if box is None else min(0.6, 0.6 * box[2] * box[3] * scale * scale / (size[0] * size[1]))
    out = np.empty((count, height, width), np.uint8)
    seed = place * (0.35 + 0.65 * moving[0]) if box is None else place
    for t in range(count):
        found = grab(small[t], seed, share)
        out[t] = (cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR) * 255).round().astype(np.uint8)
        if t + 1 < count:
            near = cv2.GaussianBlur(found, (0, 0), 0.03 * max(size))
            elsewhere = place if box is None else cv2.GaussianBlur(found, (0, 0), 0.1 * max(size))
            seed = 0.65 * near + 0.35 * elsewhere * (0.35 + 0.65 * moving[t + 1])
            covered = float((found > 0.5).mean())
            # Half as much again as was found, or a subject that is once seen too small would shrink for ever.
            if covered > 0.002:
                share = 0.8 * share + 0.2 * min(max(1.5 * covered, 0.5 * share), 2 * share, 0.4)
        report.emit("step", stage="ingest", step=t + 1, total=count, loss=None, psnr=None, surfels=None)
    return out


def center_prior(size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """People film their subject in the middle."""
    x = np.linspace(-1, 1, size[0])[None]
    y = np.linspace(-1, 1, size[1])[:, None]
    return np.asarray(np.exp(-((x / 0.55) ** 2 + (y / 0.65) ** 2)), dtype=np.float32)


def box_prior(box: tuple[float, float, float, float], size: tuple[int, int], scale: float) -> Float[np.ndarray, "h w"]:
    """How likely a pixel is the subject's, 0..1, for its place in a box: 1 in the middle, a half at the sides.

    box: x, y, w, h in pixels of the video. size: w, h of the picture, which is `scale` times as large as the video.
    """
    x = (np.arange(size[0]) + 0.5 - (box[0] + box[2] / 2) * scale) / max(box[2] * scale / 2, 1)
    y = (np.arange(size[1]) + 0.5 - (box[1] + box[3] / 2) * scale) / max(box[3] * scale / 2, 1)
    return np.asarray(np.exp(-((x[None] ** 4 + y[:, None] ** 4) * 0.7)), dtype=np.float32)


def motion_prior(small: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w"]:
    """0..1: how much each pixel moves otherwise than the camera makes its background move.

    The background's flow is a homography's, found on all pixels robustly; what it does not explain is the subject.
    """
    count, height, width = small.shape[:3]
    if count < 2 or min(height, width) < 32:
        return np.full((count, height, width), 0.5, np.float32)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in small]
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    step = 4
    points = grid[::step, ::step].reshape(-1, 2)
    out = np.empty((count, height, width), np.float32)
    for t in range(count):
        other = t + 2 if t + 2 < count else max(t - 2, 0)
        flow = solver.calc(grey[t], grey[other], None)
        ends = points + flow[::step, ::step].reshape(-1, 2)
        warp, _ = cv2.findHomography(points, ends, cv2.RANSAC, 1.0)
        if warp is None:
            out[t] = 0.5
            continue
        still = cv2.perspectiveTransform(grid.reshape(-1, 1, 2), warp).reshape(height, width, 2) - grid
        odd = cv2.GaussianBlur(np.linalg.norm(flow - still, axis=-1), (0, 0), 2.0)
        out[t] = odd / (odd + max(1.0, float(np.percentile(odd, 75))))
    return out


def grab(
    picture: UInt8[np.ndarray, "h w 3"], seed: Float[np.ndarray, "h w"], share: float = USUAL_SHARE
) -> Float[np.ndarray, "h w"]:
    """GrabCut from a soft seed of which about `share` is subject: its highest part is taken as subject, its lowest as
    background, the rest is found out from the colours of both."""
    high, middle, low = np.quantile(seed, [1 - 0.2 * share, 1 - share, max(0.4, 1 - 2.75 * share)])
    mask = np.full(seed.shape, cv2.GC_PR_BGD, np.uint8)
    mask[seed >= middle] = cv2.GC_PR_FGD
    mask[seed >= high] = cv2.GC_FGD
    mask[seed <= low] = cv2.GC_BGD
    background, subject = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its colour models start from k-means, which draws
    cv2.grabCut(picture[..., ::-1].copy(), mask, None, background, subject, ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(found, (0, 0), 0.8))
