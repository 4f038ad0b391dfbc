"""How the subject turns, from optical flow alone: the sign and the relative speed, not the angle.

The front of a body that turns moves sideways against its outline: the mean horizontal flow inside the mask, weighted
to the middle, minus the motion of the mask's centre. It was right about the sign on every rendered clip that was tried;
animals that walk in place make it noisy, hence `clear`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fourdgen.poses.pictures import cut_sides, mask_boxes
from fourdgen.priors.flow import dis_flow

SIDE = 160  # pixels of the windows on which flow is found
LEAST_RATE = 0.0015  # of the subject's width a frame: slower than this is noise
LEAST_SHARE = 0.25  # of the mask's pixels must have credible flow
LEAST_PAIRS = 3  # so many pairs of frames that show the subject from side to side tell how it turns in the others


@dataclass(frozen=True)
class Turn:
    """`rate` [t-1]: about the camera's azimuth change per frame in radians (positive: it grows, the subject turns
    clockwise seen from above). `clear` [t-1]: whether that frame's flow is credible and fast enough to have a sign.
    `speed` [t-1]: mean length of the flow against the centre's motion, in subject sizes per frame. `step` [t-1]: time
    from frame to frame, in steps of the clip (None: even).
    """

    rate: Float[Tensor, "m"]
    clear: Bool[Tensor, "m"]
    speed: Float[Tensor, "m"]
    step: Float[Tensor, "m"] | None = None

    def curve(self, frames: Tensor) -> Float[Tensor, "n"]:
        """Azimuth (radians, from 0) at `frames`: the summed rate, after a median over 5 frames and a cut, both of
        what it is per step of time."""
        step = torch.ones_like(self.rate) if self.step is None else self.step
        rate = _median5(self.rate / step)
        bound = 3 * rate.abs().median().clamp_min(1e-6)
        total = torch.cat([torch.zeros(1), (rate.clamp(-bound, bound) * step).cumsum(0)])
        return total[frames] - total[frames[0]]

    @property
    def sign(self) -> int:
        """+1, -1, or 0 when there is no clear frame."""
        return int(torch.sign(self.rate[self.clear].sum())) if bool(self.clear.any()) else 0

    @property
    def steady(self) -> float:
        """How much of the clear frames' turn is in one sense: 1 all, 0 as much in the other."""
        rate = self.rate[self.clear]
        return float(rate.sum().abs() / rate.abs().sum().clamp_min(1e-9))


def _median5(values: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
    padded = torch.cat([values[:1].expand(2), values, values[-1:].expand(2)])
    return padded.unfold(0, 5, 1).median(-1).values


def turn_from_flow(
    rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"], time: Float[Tensor, "t"] | None = None
) -> Turn:
    """The turn signal of a clip of at least two frames. `time`: when they were filmed, in steps (evenly if None)."""
    boxes = mask_boxes(mask)
    cuts = cut_sides(boxes, (mask.shape[2], mask.shape[1]))
    count = len(mask) - 1
    rate, speed, share = np.zeros(count, np.float32), np.zeros(count, np.float32), np.zeros(count, np.float32)
    for i in range(count):
        if not np.isnan(boxes[i : i + 2]).any():
            rate[i], speed[i], share[i] = _pair(
                rgb[i : i + 2], mask[i : i + 2], boxes[i : i + 2], np.any(cuts[i : i + 2], axis=0)
            )
    sliding = np.any((cuts[:-1] | cuts[1:])[:, [0, 2]], axis=1)
    sure = np.nonzero(~sliding & (share > 0))[0]
    if sliding.any() and len(sure) >= LEAST_PAIRS:  # what is left of a subject that slides out tells no turn
        rate[sliding], share[sliding] = np.interp(np.nonzero(sliding)[0], sure, rate[sure]), 0
    typical = np.median(np.abs(rate))
    clear = (share > LEAST_SHARE) & (np.abs(rate) > max(LEAST_RATE, 0.3 * typical))
    return Turn(
        torch.from_numpy(rate), torch.from_numpy(clear), torch.from_numpy(speed), None if time is None else time.diff()
    )


def _pair(
    rgb: UInt8[np.ndarray, "2 h w 3"],
    mask: UInt8[np.ndarray, "2 h w"],
    boxes: Float[np.ndarray, "2 4"],
    cuts: Bool[np.ndarray, "4"],
) -> tuple[float, float, float]:
    """Rate, speed and credible share of one pair of frames, in a window that holds the subject in both. `cuts`:
    sides of the boxes (see `cut_sides`) that are the picture's border in one of them, and move with nothing."""
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = float((high - low).max()) * 1.25
    scale = SIDE / side
    offset = SIDE / 2 - scale * (low + high) / 2
    move = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]], np.float32)
    smaller = scale < 1
    gray, inside = [], []
    for picture, alpha in zip(rgb, mask, strict=True):
        a = alpha.astype(np.float32)[..., None] / 255
        flat = cv2.cvtColor((picture * a + 128 * (1 - a)).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        flags = cv2.INTER_LINEAR
        if smaller:  # warpAffine does not average: soften first what would alias
            flat = cv2.GaussianBlur(flat, (0, 0), 0.4 / scale)
        gray.append(cv2.warpAffine(flat, move, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE))
        inside.append(cv2.warpAffine(alpha, move, (SIDE, SIDE), flags=flags) > 200)
    flow, credible = dis_flow(gray[0], gray[1])
    core = cv2.erode(inside[0].astype(np.uint8), np.ones((5, 5))) > 0
    use = core & credible
    if use.sum() < 30:
        return 0.0, 0.0, 0.0
    placed = boxes * scale + np.tile(move[:, 2], 2)
    shift = (placed[1, :2] + placed[1, 2:] - placed[0, :2] - placed[0, 2:]) / 2
    if cuts[0] != cuts[2]:
        shift[0] = placed[1, 2] - placed[0, 2] if cuts[0] else placed[1, 0] - placed[0, 0]
    width = max(float(placed[0, 2] - placed[0, 0]), 4.0)
    x = np.nonzero(use)[1]
    relative = flow[use] - shift
    offside = np.abs(x - (placed[0, 0] + placed[0, 2]) / 2) / (width / 2)
    weight = np.clip(1 - offside, 0, 1) + 1e-6
    across = float(np.average(relative[:, 0], weights=weight)) / width
    # A cylinder's front moves by half its width per radian; the weighted mean sees about 0.85 of that.
    return -across / 0.43, float(np.linalg.norm(relative, axis=1).mean()) / width, float(use.sum() / max(core.sum(), 1))
