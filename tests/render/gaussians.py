"""A dense torch rasterizer of 3D Gaussians, as 3D Gaussian Splatting viewers draw them: the oracle of the 3dgs export.

Elliptical weighted averaging (Zwicker et al. 2001; Kerbl et al. 2023): covariance J W S W^T J^T in pixels, 0.3 added
to its diagonal; alpha = min(0.999, o exp(-sigma)), skipped below 1/255; front to back by the centres' depth.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import quat_to_matrix

DILATION, ALPHA_MAX, ALPHA_MIN = 0.3, 0.999, 1 / 255


def draw_gaussians(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    colors: Float[Tensor, "n 3"],
    camera: Cameras,
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """Colour (premultiplied) and alpha of one small picture, before nothing."""
    rotation, translation = camera.cam_from_world[0, :3, :3], camera.cam_from_world[0, :3, 3]
    K, (w, h) = camera.K[0], camera.size
    center = means @ rotation.T + translation
    order = center[:, 2].argsort()
    order = order[center[order, 2] > 0.01]
    x, y, z = center[order].unbind(-1)
    axes = rotation @ quat_to_matrix(quats[order]) * scales[order][:, None]
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [K[0, 0] / z, zero, -K[0, 0] * x / z**2, zero, K[1, 1] / z, -K[1, 1] * y / z**2], -1
    ).reshape(-1, 2, 3)
    spread = jacobian @ axes
    inverse = torch.linalg.inv(spread @ spread.transpose(1, 2) + DILATION * torch.eye(2))
    middle = torch.stack([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]], -1)
    rgb, through = torch.zeros(h, w, 3), torch.ones(h, w)
    rows, columns = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    reach = 3.5 * (spread @ spread.transpose(1, 2)).diagonal(dim1=1, dim2=2).add(DILATION).sqrt() + 1
    low = (middle - reach).floor().long().clamp_min(0)
    high = (middle + reach).ceil().long()
    for k, number in enumerate(order.tolist()):
        box = (slice(int(low[k, 1]), max(int(high[k, 1]), 0)), slice(int(low[k, 0]), max(int(high[k, 0]), 0)))
        dx, dy = columns[box] - middle[k, 0], rows[box] - middle[k, 1]
        a, b, c = inverse[k, 0, 0], inverse[k, 0, 1], inverse[k, 1, 1]
        alpha = (opacities[number] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp_max(ALPHA_MAX)
        alpha = torch.where(alpha >= ALPHA_MIN, alpha, torch.zeros_like(alpha))
        rgb[box] += (through[box] * alpha)[..., None] * colors[number]
        through[box] *= 1 - alpha
    return rgb, 1 - through
