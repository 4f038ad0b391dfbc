"""Losses of the training loop. Each returns an unreduced map; the loop averages."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.render import RenderOut, surface_normal


def normal_consistency(out: RenderOut, cameras: Cameras) -> Float[Tensor, "v h w"]:
    """1 - n . N where the picture is covered (alpha > 0.5) and N is known, 0 elsewhere.

    n is the rendered normal, alpha-weighted; N is that of the surface which the expected depth draws
    (docs/method.md section 5).
    """
    surface = surface_normal(out.depth, out.alpha, cameras)
    covered = (out.alpha > 0.5) & (surface.detach().abs().sum(-1) > 0)
    return (1 - (out.normal * surface).sum(-1)) * covered


def second_differences(curve: Float[Tensor, "t d"]) -> Float[Tensor, "t-2"]:
    """Squared acceleration of a curve sampled at even steps."""
    return ((curve[2:] - 2 * curve[1:-1] + curve[:-2]) ** 2).sum(-1)


def needle(log_scales: Float[Tensor, "n 2"], bound: float) -> Float[Tensor, "n"]:
    """How far the log aspect ratio of each surfel exceeds log(bound)."""
    aspect = (log_scales[:, 0] - log_scales[:, 1]).abs()
    return (aspect - torch.tensor(bound).log()).clamp_min(0)
