"""Gaussian surfels: flat, oriented, elliptical Gaussians (2D Gaussian splatting, Huang et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199


@dataclass(frozen=True)
class Surfels:
    """n surfels.

    `quats` wxyz, any length > 0; the third axis is the normal. `log_scales` are logs of standard deviations.
    `opacity` holds logits. `sh` holds spherical harmonics (k = 1 or 4), colour = 0.5 + C0 sh[0] + ... in sRGB.
    `bone_ids`, `bone_weights`: the skinning of the written model (k bones, weights sum to 1), None for a still one.
    `turned`: only on warped surfels: the rotation from the canonical state, so that view directions can be turned back.
    """

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    log_scales: Float[Tensor, "n 2"]
    opacity: Float[Tensor, "n"]
    sh: Float[Tensor, "n k 3"]
    confidence: Float[Tensor, "n"]
    bone_ids: Int[Tensor, "n b"] | None = None
    bone_weights: Float[Tensor, "n b"] | None = None
    turned: Float[Tensor, "n 4"] | None = None

    def __len__(self) -> int:
        return self.means.shape[0]

    def __repr__(self) -> str:
        degree = round(self.sh.shape[1] ** 0.5) - 1
        return f"<Surfels: {len(self)} surfels, harmonics of degree {degree}, on {self.means.device}>"

    def __getitem__(self, index: Tensor) -> Surfels:
        return self._each(lambda tensor: tensor[index])

    def to(self, device: str) -> Surfels:
        return self._each(lambda tensor: tensor.to(device))

    def detach(self) -> Surfels:
        return self._each(lambda tensor: tensor.detach().clone())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Surfels:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in parts.items() if tensor is not None})


def rgb_from_sh(sh: Float[Tensor, "n k 3"], directions: Float[Tensor, "n 3"] | None = None) -> Float[Tensor, "n 3"]:
    """sRGB colour, not clamped above, of spherical harmonics seen along unit `directions` (camera to surfel).

    Directions are in the canonical frame (docs/method.md section 2). Signs are those of 3DGS files.
    """
    color = 0.5 + SH_C0 * sh[:, 0]
    if sh.shape[1] > 1 and directions is not None:
        x, y, z = directions[:, :1], directions[:, 1:2], directions[:, 2:]
        color = color + SH_C1 * (-y * sh[:, 1] + z * sh[:, 2] - x * sh[:, 3])
    return color.clamp_min(0)


def sh_from_rgb(rgb: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1 3"]:
    """Degree-0 harmonics of a colour."""
    return ((rgb - 0.5) / SH_C0)[:, None]


def normal_axis(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3"]:
    """Third axis (unit normal) of surfels; its sign is arbitrary until a camera looks."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
