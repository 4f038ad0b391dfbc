"""Small random scenes for rasterizer tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fourdgen.geometry.camera import Cameras, look_at
from fourdgen.geometry.transforms import quat_from_matrix

PARAMETERS = ("means", "quats", "scales", "opacities", "colors")


@dataclass(frozen=True)
class Case:
    """What a rasterizer takes."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    cameras: Cameras
    background: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Case:
        values = {name: getattr(self, name).to(dtype) for name in PARAMETERS}
        cameras = Cameras(self.cameras.cam_from_world.to(dtype), self.cameras.K.to(dtype), self.cameras.size)
        return replace(
            self, **values, cameras=cameras, background=None if self.background is None else self.background.to(dtype)
        )

    def arguments(self) -> tuple:
        return (*(getattr(self, name) for name in PARAMETERS), self.cameras)

    def leaves(self) -> dict[str, Tensor]:
        """Every tensor that a gradient goes to, made to ask for one."""
        tensors = {name: getattr(self, name) for name in PARAMETERS}
        tensors |= {"cam_from_world": self.cameras.cam_from_world, "K": self.cameras.K}
        return {name: t.requires_grad_(True) for name, t in tensors.items()}


def shell(
    count: int,
    size: tuple[int, int],
    seed: int = 0,
    views: int = 1,
    sigma: tuple[float, float] = (0.6, 1.5),
    opacity: tuple[float, float] = (0.6, 0.8),
    channels: int = 3,
    per_view: bool = False,
    tilt: float = 0.35,
) -> Case:
    """Surfels on a rough unit sphere that fills 60 % of the picture; `sigma` in pixels. Quaternions are not unit."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    out = torch.nn.functional.normalize(randn(count, 3), dim=-1)
    means = out * (1 + 0.03 * randn(count, 1))
    normal = torch.nn.functional.normalize(out + tilt * randn(count, 3), dim=-1)
    u = torch.nn.functional.normalize(torch.linalg.cross(normal, randn(count, 3)), dim=-1)
    quats = quat_from_matrix(torch.stack([u, torch.linalg.cross(normal, u), normal], -1)) * 1.7
    radius = math.sqrt(0.6 * size[0] * size[1] / math.pi)
    focal = radius * math.sqrt(15.0)
    scales = (sigma[0] + (sigma[1] - sigma[0]) * rand(count, 2)) * 4 / focal
    opacities = opacity[0] + (opacity[1] - opacity[0]) * rand(count)
    colors = 0.5 + 0.5 * torch.sin(means @ randn(3, channels) * 2 + randn(channels))
    eyes = 4 * torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]) + 0.4 * randn(views, 3).float(), dim=-1)
    K = torch.tensor([[focal, 0, size[0] / 2 + 0.3], [0, focal * 1.01, size[1] / 2 - 0.4], [0, 0, 1]]).double()
    if per_view:
        means = means + 0.05 * randn(views, count, 3)
        quats = quats + 0.1 * randn(views, count, 4)
        colors = colors + 0.1 * randn(views, count, channels)
    cameras = Cameras(look_at(eyes).double(), K.expand(views, 3, 3).clone(), size)
    return Case(means, quats, scales, opacities, colors, cameras)
