"""From the poses of some frames, in windows, to the poses of all frames of a clip, in pictures, and back."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fourdgen.geometry.timeline import ticks
from fourdgen.geometry.transforms import quat_from_matrix, quat_to_matrix, rigid
from fourdgen.poses.compare import SUBJECT, facing

BOB = 0.8  # seconds: quicker changes of a camera's place are taken for the body's
GUESSED = 0.03  # weight of a place that lies between its neighbours' when a camera's path is steadied


def between(
    rotation: Float[Tensor, "n 3 3"], place: Float[Tensor, "n 3"], frames: Int[Tensor, "n"],
    time: Float[Tensor, "t"], focal: float, center: Float[Tensor, "n 2"], all_centers: Float[Tensor, "t 2"],
) -> tuple[Float[Tensor, "t 3 3"], Float[Tensor, "t 3"]]:  # fmt: skip
    """Poses of all frames of a clip, filmed at `time`, from those of `frames` (both ascending): turns by slerp in time,
    held beyond the ends.

    `center`, `all_centers`: the masks' centres in sides. Between solved frames the root keeps its place relative to the
    mask's centre, which is known in every frame.
    """
    looking = facing(place[:, :2], focal).transpose(1, 2) @ rotation
    count, solved = len(time), time[frames]
    after = torch.searchsorted(solved, time).clamp(1, max(1, len(frames) - 1)) if len(frames) > 1 else None
    offset = place.clone()
    offset[:, :2] -= center
    if after is None:
        turns, moved = looking.expand(count, 3, 3), offset.expand(count, 3)
    else:
        before = after - 1
        share = (time - solved[before]) / (solved[after] - solved[before])
        share = share.clamp(0, 1)[:, None]
        turns = quat_to_matrix(_slerp(quat_from_matrix(looking[before]), quat_from_matrix(looking[after]), share))
        moved = offset[before] + share * (offset[after] - offset[before])
    placed = moved + torch.cat([all_centers, torch.zeros(count, 1)], 1)
    return facing(placed[:, :2], focal) @ turns, placed


def centers_between(center: Float[Tensor, "n 2"], frames: Tensor, seconds: Float[Tensor, "t"]) -> Float[Tensor, "t 2"]:
    """The masks' centres in all frames from those of `frames` (ascending): linear in time, held beyond the ends."""
    time = seconds.double().numpy()
    known = center.double().numpy()
    filled = [np.interp(time, time[frames.numpy()], known[:, axis]) for axis in (0, 1)]
    return torch.from_numpy(np.stack(filled, 1)).to(center.dtype)


def _slerp(a: Float[Tensor, "n 4"], b: Float[Tensor, "n 4"], share: Float[Tensor, "n 1"]) -> Float[Tensor, "n 4"]:
    cosine = (a * b).sum(-1, keepdim=True)
    b, cosine = torch.where(cosine < 0, -b, b), cosine.abs().clamp_max(1)
    angle = torch.acos(cosine)
    sine = angle.sin()
    near = sine < 1e-4
    wa = torch.where(near, 1 - share, ((1 - share) * angle).sin() / sine.clamp_min(1e-6))
    wb = torch.where(near, share, (share * angle).sin() / sine.clamp_min(1e-6))
    return wa * a + wb * b


def poses_of(
    rotation: Float[Tensor, "t 3 3"], place: Float[Tensor, "t 3"], focal: float, extent: float
) -> Float[Tensor, "t 4 4"]:
    """cam_from_root of places under a focal length (both in sides)."""
    depth = focal * (SUBJECT / extent) * place[:, 2].exp()
    return rigid(rotation, torch.stack([place[:, 0] * depth / focal, place[:, 1] * depth / focal, depth], 1))


def places_of(cam_from_root: Float[Tensor, "t 4 4"], focal: float, extent: float) -> Float[Tensor, "t 3"]:
    """The inverse of `poses_of`."""
    translation = cam_from_root[:, :3, 3]
    depth = translation[:, 2].clamp_min(1e-3)
    across = translation[:, :2] * focal / depth[:, None]
    return torch.cat([across, (depth / (focal * SUBJECT / extent)).log()[:, None]], 1)


def steadied(
    translation: Float[Tensor, "t 3"], seconds: Float[Tensor, "t"], weight: Float[Tensor, "t"]
) -> Float[Tensor, "t 3"]:
    """The translations of a camera without what is quicker than BOB: slow cosines of time, fitted to x, y
    and the logarithm of the distance. `weight`: how much each frame's place counts in the fit; a frame that was not
    measured must not pull at its neighbours.

    Render-and-compare puts every frame's subject where its picture is, as if a body that bobs were a camera that bobs.
    Pictures do not tell the two apart; a camera moves smoothly, so what is quick is left to the body's motion.
    """
    count = len(translation)
    if count < 4:
        return translation
    tick = ticks(seconds).double()
    spread = float(tick[-1]) / (count - 1)  # 1 where frames are even
    lasts = count * float(seconds.diff().median()) * spread
    waves = min(count, max(3, 1 + round(2 * lasts / BOB)))
    time = math.pi * (tick / spread + 0.5) / count
    basis = torch.cos(time[:, None] * torch.arange(waves))
    curve = torch.cat([translation[:, :2], translation[:, 2:].clamp_min(1e-3).log()], 1).double()
    root = weight.double().sqrt()[:, None]
    smooth = basis @ torch.linalg.lstsq(root * basis, root * curve).solution
    return torch.cat([smooth[:, :2], smooth[:, 2:].exp()], 1).to(translation.dtype)


def intrinsics_of(focal: float, size: tuple[int, int], count: int) -> Float[Tensor, "t 3 3"]:
    """K in pixels of the filmed pictures, the same for all frames."""
    pixels = focal * max(size)
    K = torch.tensor([[pixels, 0.0, size[0] / 2], [0.0, pixels, size[1] / 2], [0.0, 0.0, 1.0]])
    return K.expand(count, 3, 3).clone()
