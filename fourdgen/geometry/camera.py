"""Pinhole cameras without distortion: OpenCV axes, pixel centres at +0.5, intrinsics in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.transforms import rigid, rigid_inverse


@dataclass(frozen=True)
class Cameras:
    """c cameras of one picture size. `size` is (width, height)."""

    cam_from_world: Float[Tensor, "c 4 4"]
    K: Float[Tensor, "c 3 3"]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.cam_from_world.shape[0] != self.K.shape[0]:
            raise ValueError(f"{self.cam_from_world.shape[0]} poses but {self.K.shape[0]} intrinsics")

    def __len__(self) -> int:
        return self.cam_from_world.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """A sub-batch: an int gives one camera, still a batch."""
        if isinstance(index, int):
            index = [index]
        return replace(self, cam_from_world=self.cam_from_world[index], K=self.K[index])

    def centers(self) -> Float[Tensor, "c 3"]:
        """Camera centres in the world."""
        return rigid_inverse(self.cam_from_world)[:, :3, 3]

    def resized(self, size: tuple[int, int]) -> Cameras:
        """The same cameras for pictures scaled to `size` (w, h)."""
        scale = self.K.new_tensor([size[0] / self.size[0], size[1] / self.size[1], 1.0])
        return replace(self, K=self.K * scale[None, :, None], size=size)

    def shrunk(self, longest: int) -> Cameras:
        """The same cameras for pictures of at most `longest` pixels on their longer side, and 8 at least on each."""
        shrink = min(1.0, longest / max(self.size))
        return self.resized((max(8, round(self.size[0] * shrink)), max(8, round(self.size[1] * shrink))))

    def rays(self) -> Float[Tensor, "c h w 3"]:
        """What lies at depth 1 behind each pixel centre, in each camera's own axes."""
        width, height = self.size
        row = torch.arange(height, device=self.K.device)[:, None] + 0.5
        column = torch.arange(width, device=self.K.device) + 0.5
        K = self.K[:, :, :, None, None]
        x, y = (column - K[:, 0, 2]) / K[:, 0, 0], (row - K[:, 1, 2]) / K[:, 1, 1]
        return torch.stack([*torch.broadcast_tensors(x, y), torch.ones_like(x * y)], -1)

    def project(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "c n 2"], Float[Tensor, "c n"]]:
        """Pixel positions (pixel centres at +0.5) and depths of world points. Depth may be <= 0: check it."""
        in_cam = points @ self.cam_from_world[:, :3, :3].transpose(1, 2) + self.cam_from_world[:, None, :3, 3]
        depth = in_cam[..., 2]
        image = in_cam @ self.K.transpose(1, 2)
        return image[..., :2] / image[..., 2:].clamp_min(1e-6), depth


def intrinsics(fov_degrees: float, size: tuple[int, int]) -> Float[Tensor, "3 3"]:
    """K of a centred camera whose LONGER side sees `fov_degrees`."""
    focal = 0.5 * max(size) / math.tan(math.radians(fov_degrees) / 2)
    return torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1.0]])


def look_at(eye: Float[Tensor, "c 3"], target: Float[Tensor, "3"] | None = None) -> Float[Tensor, "c 4 4"]:
    """`cam_from_world` of cameras at `eye` that look at `target` (default: the origin), in a y-down world."""
    target = torch.zeros(3) if target is None else target
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    return rigid(rotation, -(rotation @ eye[..., None])[..., 0])


def orbit_eyes(
    azimuth_degrees: Float[Tensor, "c"],
    elevation_degrees: Float[Tensor, "c"] | float,
    radius: Float[Tensor, "c"] | float,
) -> Float[Tensor, "c 3"]:
    """Eye positions on a sphere about the origin of a y-down world. Azimuth 0 stands at -z and grows towards +x.

    Positive elevation is above the subject.
    """
    azimuth = torch.deg2rad(azimuth_degrees)
    elevation = torch.deg2rad(torch.as_tensor(elevation_degrees, dtype=torch.float32)).expand_as(azimuth)
    direction = torch.stack([azimuth.sin() * elevation.cos(), -elevation.sin(), -azimuth.cos() * elevation.cos()], -1)
    return direction * torch.as_tensor(radius, dtype=torch.float32).expand_as(azimuth)[:, None]
