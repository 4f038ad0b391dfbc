"""A small painted figure of known shape, filmed by known cameras: what the pose tests measure against."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import rigid_inverse
from fourdgen.poses.compare import rasterizer

SIZE = (96, 96)
FOV = 35.0  # not what the search guesses
# Middle and half axes of ellipsoids: trunk, head, nose, tail, two arms. Nothing is symmetric, front and back differ.
_PARTS = [
    ((0.0, 0.05, 0.0), (0.28, 0.45, 0.22)),
    ((0.0, -0.55, -0.05), (0.2, 0.2, 0.2)),
    ((0.0, -0.55, -0.3), (0.07, 0.07, 0.12)),
    ((0.0, 0.35, 0.4), (0.08, 0.08, 0.3)),
    ((0.4, -0.05, -0.1), (0.2, 0.09, 0.09)),
    ((-0.36, 0.1, 0.05), (0.12, 0.28, 0.09)),
]


def figure(count: int = 1500, seed: int = 0, wave: float = 0.0) -> dict[str, Tensor]:
    """Surfels on the figure's skin. `wave` lifts one arm (root lengths)."""
    generator = torch.Generator().manual_seed(seed)
    means, normals, colors = [], [], []
    for number, (middle, half) in enumerate(_PARTS):
        axes, share = torch.tensor(half), count // len(_PARTS)
        unit = torch.nn.functional.normalize(torch.randn(share, 3, generator=generator), dim=-1)
        point = torch.tensor(middle) + unit * axes
        if number == 4:
            point[:, 1] -= wave * (point[:, 0] - 0.2).clamp_min(0) * 5
        means.append(point)
        normals.append(torch.nn.functional.normalize(unit / axes, dim=-1))
        phase = torch.tensor([0.0, 2.1, 4.2]) + 1.3 * number
        colors.append(
            0.5 + 0.4 * torch.sin(7 * point @ torch.tensor([[1.0, 0.6, -0.4], [0.3, -1, 0.8], [0.9, 0.2, 1.0]]) + phase)
        )
    normal = torch.cat(normals)
    quats = torch.stack([1 + normal[:, 2], -normal[:, 1], normal[:, 0], torch.zeros(len(normal))], -1)
    quats[quats.norm(dim=-1) < 1e-3] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    return {
        "means": torch.cat(means),
        "quats": torch.nn.functional.normalize(quats, dim=-1),
        "colors": torch.cat(colors),
    }


def orbit(azimuth: Float[Tensor, "c"], elevation: float = 12.0, radius: float = 4.0) -> Cameras:
    """Cameras that look at the figure."""
    poses = look_at(orbit_eyes(azimuth, elevation, radius))
    return Cameras(poses, intrinsics(FOV, SIZE).expand(len(poses), 3, 3).clone(), SIZE)


def film(
    cameras: Cameras, waves: Float[Tensor, "c"] | None = None, turned: Float[Tensor, "*c 3 3"] | None = None
) -> tuple[UInt8[np.ndarray, "c h w 3"], UInt8[np.ndarray, "c h w"]]:
    """Straight colour and mask. `waves`: the arm in every frame; `turned`: the figure's own rotation in the
    world, one or one a frame."""
    raster, frames = rasterizer(), []
    for i in range(len(cameras)):
        body = figure(wave=0.0 if waves is None else float(waves[i]))
        camera = cameras[i]
        if turned is not None:
            move = torch.eye(4)
            move[:3, :3] = turned if turned.dim() == 2 else turned[i]
            camera = Cameras(camera.cam_from_world @ move, camera.K, camera.size)
        out = raster(
            body["means"], body["quats"], torch.full((len(body["means"]), 2), 0.035),
            torch.full((len(body["means"]),), 0.98), body["colors"], camera, background=torch.zeros(3),
        )  # fmt: skip
        frames.append(torch.cat([out.rgb[0] / out.alpha[0, ..., None].clamp_min(1e-3), out.alpha[0, ..., None]], -1))
    stacked = (torch.stack(frames).clamp(0, 1) * 255).round().byte().numpy()
    return stacked[..., :3].copy(), stacked[..., 3].copy()


def eyes(cam_from_world: Float[Tensor, "c 4 4"]) -> Float[Tensor, "c 3"]:
    return rigid_inverse(cam_from_world)[:, :3, 3]
