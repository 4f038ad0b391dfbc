"""Losses of the training loop. Each returns an unreduced map; the loop averages."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen import native, picture_losses
from fourdgen.fit.metrics import ssim
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.timeline import Spacing
from fourdgen.geometry.transforms import turn_rates
from fourdgen.render import RenderOut, surface_normal


def photometric(
    image: Float[Tensor, "c h w"], target: Float[Tensor, "c h w"], weight: Float[Tensor, "h w"] | None, share: float
) -> Float[Tensor, ""]:
    """(1 - share) L1 + share (1 - SSIM), over weighted pixels; fused in the native kernel where there is one."""
    if native.serves(image):
        return picture_losses.l1_dssim(image, target, weight, 1 - share, share)
    if weight is not None:  # what does not count is taken from the target, so that no window sees a difference there
        image = weight * image + (1 - weight) * target
    scale = 1.0 if weight is None else weight.numel() / float(weight.sum().clamp_min(1))
    dissimilar = 1 - ssim(image[None], target[None])[0]
    return scale * ((1 - share) * (image - target).abs().mean() + share * dissimilar)


def normal_consistency(out: RenderOut, cameras: Cameras) -> Float[Tensor, "v h w"]:
    """1 - n . N where the picture is covered (alpha > 0.5) and N is known, 0 elsewhere.

    n is the rendered normal, alpha-weighted; N is that of the surface which the expected depth draws
    (docs/method.md section 5). Fused in the native kernel where there is one.
    """
    if native.serves(out.depth):
        normal = out.normal.permute(0, 3, 1, 2)
        return picture_losses.normal_consistency(out.depth, out.alpha, normal, cameras.cam_from_world, cameras.K)
    surface = surface_normal(out.depth, out.alpha, cameras)
    covered = (out.alpha > 0.5) & (surface.detach().abs().sum(-1) > 0)
    return (1 - (out.normal * surface).sum(-1)) * covered


def camera_acceleration(
    path: Float[Tensor, "t 4 4"], spacing: Spacing, turning: float, travel: float
) -> Float[Tensor, ""]:
    """Weighted mean squared acceleration of a camera path in time, per squared mean step of its frames (`spacing`):
    turns in radians, translations in root units. Cameras move smoothly and bodies do not, which is what tells one
    motion from the other."""
    turned = spacing.of_rates(turn_rates(path[:, :3, :3]))
    return turning * turned + travel * spacing.of_values(path[:, :3, 3])


def needle(log_scales: Float[Tensor, "n 2"], bound: float) -> Float[Tensor, "n"]:
    """How far the log aspect ratio of each surfel exceeds log(bound)."""
    aspect = (log_scales[:, 0] - log_scales[:, 1]).abs()
    return (aspect - torch.tensor(bound).log()).clamp_min(0)
