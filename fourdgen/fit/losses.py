"""Losses of the training loop. Each returns an unreduced map; the loop averages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import rigid_inverse


def depth_normals(depth: Float[Tensor, "h w"], alpha: Float[Tensor, "h w"], cameras: Cameras) -> Float[Tensor, "h-2 w-2 3"]:
    """Unit world-space normals, turned to the camera, of the surface that the expected depth draws (one camera).

    Central differences of the unprojected depth / alpha (METHOD section 4); the outermost pixels have none.
    """
    height, width = depth.shape
    K = cameras.K[0]
    x = (torch.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    z = depth / alpha.clamp_min(1e-3)
    points = torch.stack([x[None] * z, y[:, None] * z, z], -1)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normal = F.normalize(torch.linalg.cross(across, down), dim=-1)
    facing = torch.where((normal * points[1:-1, 1:-1]).sum(-1, keepdim=True) > 0, -1.0, 1.0)
    return (normal * facing) @ rigid_inverse(cameras.cam_from_world)[0, :3, :3].T


def normal_consistency(
    depth: Float[Tensor, "h w"], alpha: Float[Tensor, "h w"], normal: Float[Tensor, "h w 3"], cameras: Cameras
) -> Float[Tensor, "h-2 w-2"]:
    """1 - n . N where the picture is covered (alpha > 0.5), 0 elsewhere; n is alpha-weighted (METHOD section 5)."""
    surface = depth_normals(depth, alpha, cameras)
    inner = (slice(1, -1), slice(1, -1))
    covered = (alpha[inner] > 0.5).float()
    return (1 - (normal[inner] * surface).sum(-1)) * covered


def second_differences(curve: Float[Tensor, "t d"]) -> Float[Tensor, "t-2"]:
    """Squared acceleration of a curve sampled at even steps."""
    return ((curve[2:] - 2 * curve[1:-1] + curve[:-2]) ** 2).sum(-1)


def needle(log_scales: Float[Tensor, "n 2"], bound: float) -> Float[Tensor, "n"]:
    """How far the log aspect ratio of each surfel exceeds log(bound)."""
    aspect = (log_scales[:, 0] - log_scales[:, 1]).abs()
    return (aspect - torch.tensor(bound).log()).clamp_min(0)
