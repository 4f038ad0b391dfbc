"""Pose-guided frame sampling: equalise viewing directions in the canonical frame (docs/method.md section 10).

A third of an epoch's draws go to every frame alike, whatever its share, so that none is forgotten; shares are of the
other two thirds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

KAPPA = 15.0  # a von Mises-Fisher kernel of about 21 degrees
LEAST, MOST = 0.25, 4.0
SHARE = 0.8


def view_directions(cam_from_root: Float[Tensor, "f 4 4"]) -> Float[Tensor, "f 3"]:
    """Unit directions from the subject to each camera, -R^T t / |t|."""
    rotation, translation = cam_from_root[:, :3, :3], cam_from_root[:, :3, 3]
    return torch.nn.functional.normalize(-(rotation.transpose(1, 2) @ translation[..., None])[..., 0], dim=-1)


def pose_guided(directions: Float[Tensor, "f 3"]) -> Float[Tensor, "f"]:
    """Shares: 0.8 clip(rho^-1 / mean rho^-1, 1/4, 4) + 0.2, normalised; rho is the density of directions."""
    density = torch.exp(KAPPA * (directions @ directions.T - 1)).sum(1)
    rarity = 1 / density
    p = SHARE * (rarity / rarity.mean()).clamp(LEAST, MOST) + (1 - SHARE)
    return p / p.sum()


def clip_balanced(clip: Int[Tensor, "f"]) -> Float[Tensor, "f"]:
    """Every clip has the same share, its frames the same of that."""
    counts = torch.bincount(clip).float()
    p = 1 / counts[clip]
    return p / p.sum()


def uniform(frames: int) -> Float[Tensor, "f"]:
    return torch.full((frames,), 1 / frames)


def epoch(probability: Float[Tensor, "f"], generator: torch.Generator) -> Int[Tensor, "3f"]:
    """The next 3 f draws in random order: each frame once, and 2 f by their shares (systematic resampling)."""
    frames = len(probability)
    extra = 2 * frames  # one draw of every frame is set aside
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    ticks = (torch.arange(extra, dtype=torch.float64) + offset) / extra
    edges = torch.cumsum(probability.double() / probability.double().sum(), 0)
    drawn = torch.searchsorted(edges, ticks).clamp_max(frames - 1)
    draws = torch.cat([torch.arange(frames), drawn])
    return draws[torch.randperm(len(draws), generator=generator)]
