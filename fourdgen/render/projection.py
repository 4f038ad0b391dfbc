"""Surfels in camera space, in torch: for the rasterizers that have no projection of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.render.types import ALPHA_MIN, EDGE_ON, NEAR


@dataclass(frozen=True)
class Projected:
    """n surfels seen by one camera, whose space `center` is in; (u, v) are standard deviations on the surfel."""

    center: Float[Tensor, "n 3"]  # camera space
    slopes: Float[Tensor, "n 2"]  # depth per u and v: z of tu and tv, or 0 for a surfel seen edge-on
    normal: Float[Tensor, "n 3"]  # world, unit, turned to the camera
    mean2d: Float[Tensor, "n 2"]  # pixels: middle of the box of the 1-sigma ellipse; the low-pass disc lies around it
    homography: Float[Tensor, "n 3 3"]  # (x w, y w, w) = homography (u, v, 1), with x, y in pixels from mean2d
    reach: Float[Tensor, "n"]  # largest u^2 + v^2 with alpha >= 1/255
    low: Float[Tensor, "n 2"]  # box of pixels with alpha >= 1/255, plane and disc; no gradient
    high: Float[Tensor, "n 2"]
    visible: Bool[Tensor, "n"]


def project(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 2"],
    opacities: Float[Tensor, "n"],
    cam_from_world: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    size: tuple[int, int],
) -> Projected:
    """Projection with gradients, and which surfels can be seen: finite, in the picture, wholly before the camera."""
    rotation = cam_from_world[:3, :3]
    center = means @ rotation.T + cam_from_world[:3, 3]
    axes = quat_to_matrix(quats)
    tangents = rotation @ axes[:, :, :2] * scales[:, None, :]
    along = ((rotation @ axes[:, :, 2:])[..., 0] * center).sum(-1, keepdim=True)
    normal = torch.where(along < 0, axes[:, :, 2], -axes[:, :, 2])
    sloped = along.detach() ** 2 > EDGE_ON**2 * (center.detach() ** 2).sum(-1, keepdim=True)
    slopes = torch.where(sloped, tangents[:, 2], torch.zeros_like(tangents[:, 2]))

    # x - cx = fx X / Z of the point: rows relative to the projected centre first, then to mean2d
    focal = torch.stack([K[0, 0], K[1, 1]])
    z = center[:, 2]
    slope = center[:, :2] / z[:, None]
    relative = focal[:, None] * (tangents[:, :2] - slope[..., None] * tangents[:, 2:])
    depth_row = torch.cat([tangents[:, 2], z[:, None]], 1)
    d = (tangents[:, 2] ** 2).sum(-1) - z**2
    offset = (relative * tangents[:, 2:]).sum(-1) / d[:, None]
    middle = focal * slope + torch.stack([K[0, 2], K[1, 2]])
    rows = torch.cat([relative, torch.zeros_like(relative[..., :1])], 2) - offset[..., None] * depth_row[:, None]
    homography = torch.cat([rows, depth_row[:, None]], 1)

    with torch.no_grad():
        reach = 2 * torch.log((opacities / ALPHA_MIN).clamp_min(1e-9))
        r2 = reach.clamp_min(0)
        crosses = r2 * (tangents[:, 2] ** 2).sum(-1) - z**2
        box_middle = r2[:, None] * (relative * tangents[:, 2:]).sum(-1) / crosses[:, None]
        half = (box_middle**2 - r2[:, None] * (relative**2).sum(-1) / crosses[:, None]).clamp_min(0).sqrt()
        disc = (0.5 * r2).sqrt()[:, None]
        low = torch.minimum(middle + box_middle - half, middle + offset - disc)
        high = torch.maximum(middle + box_middle + half, middle + offset + disc)
        numbers = torch.cat([homography.flatten(1), low, high, normal, opacities[:, None]], 1)
        edge = torch.linalg.cross(homography[:, 0], homography[:, 1])[:, 2] == 0
        visible = numbers.isfinite().all(1) & ~edge & (z > NEAR) & (crosses < 0) & (reach > 0)
        limit = low.new_tensor([size[0], size[1]])
        visible &= ((high >= 0.5) & (low <= limit - 0.5)).all(1)
    return Projected(center, slopes, normal, middle + offset, homography, reach, low, high, visible)
