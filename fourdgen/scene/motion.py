"""How canonical surfels move: the protocol, the still motion, and motion by sampled bone poses (what files hold)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen import native
from fourdgen.geometry.transforms import quat_multiply, quat_rotate
from fourdgen.scene.surfels import Surfels
from fourdgen.skinning import skin_sparse


class Motion(Protocol):
    """Anything that brings canonical surfels to their state at a time of a clip."""

    def warp(self, surfels: Surfels, clip: str, seconds: float) -> Surfels: ...


@dataclass(frozen=True)
class Still:
    """Nothing moves."""

    def warp(self, surfels: Surfels, clip: str, seconds: float) -> Surfels:
        return surfels


@dataclass(frozen=True)
class SampledBones:
    """Bone motions (root frame from canonical), unit dual quaternions sampled in time per clip.

    `seconds[clip]`: [t], rising. `dual_quats[clip]`: [t b 8], signs continuous in time, so that blending between
    samples does not turn the long way. Each surfel blends the bones it names in `bone_ids` by `bone_weights`.
    """

    seconds: Mapping[str, Float[Tensor, "t"]]
    dual_quats: Mapping[str, Float[Tensor, "t b 8"]]
    centers: Float[Tensor, "b 3"]

    def bones_at(self, clip: str, seconds: float) -> Float[Tensor, "b 8"]:
        """Bone dual quaternions between the two samples around a time (linear, then normalised)."""
        times, samples = self.seconds[clip], self.dual_quats[clip]
        if len(times) == 1:
            return samples[0]
        right = int(torch.searchsorted(times, torch.tensor(seconds, dtype=times.dtype)).clamp(1, len(times) - 1))
        span = float(times[right] - times[right - 1])
        share = min(max((seconds - float(times[right - 1])) / max(span, 1e-9), 0.0), 1.0)
        mixed = (1 - share) * samples[right - 1] + share * samples[right]
        return mixed / mixed[:, :4].norm(dim=-1, keepdim=True)

    def warp(self, surfels: Surfels, clip: str, seconds: float) -> Surfels:
        if surfels.bone_ids is None or surfels.bone_weights is None:
            return surfels
        poses = self.bones_at(clip, seconds)
        learned = torch.is_grad_enabled() and any(t.requires_grad for t in (poses, surfels.means, surfels.quats))
        if native.serves(surfels.means) and not learned:
            moved = skin_sparse(surfels.bone_ids, surfels.bone_weights, poses, surfels.means, surfels.quats)
            means, quats, turned = (t.to(surfels.means.dtype) for t in moved)
            return replace(surfels, means=means, quats=quats, turned=turned)
        return apply_blend(surfels, blend_dual_quats(poses[surfels.bone_ids.long()], surfels.bone_weights))


def blend_dual_quats(bones: Float[Tensor, "n b 8"], weights: Float[Tensor, "n b"]) -> Float[Tensor, "n 8"]:
    """Dual-quaternion linear blending (Kavan et al. 2007): signs follow the heaviest bone, then sum and normalise."""
    heaviest = weights.argmax(1)
    pivot = bones[torch.arange(len(bones)), heaviest, :4]
    sign = torch.where((bones[..., :4] * pivot[:, None]).sum(-1) < 0, -1.0, 1.0)
    mixed = ((weights * sign)[..., None] * bones).sum(1)
    return mixed / mixed[:, :4].norm(dim=-1, keepdim=True).clamp_min(1e-9)


def apply_blend(surfels: Surfels, blend: Float[Tensor, "n 8"]) -> Surfels:
    """Move each surfel rigidly by its own unit dual quaternion."""
    means, quats, turned = move(blend, surfels.means, surfels.quats)
    return replace(surfels, means=means, quats=quats, turned=turned)


def move(
    blend: Float[Tensor, "n 8"], means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Means and quats, each moved by its own unit dual quaternion, and the rotation of each."""
    real, dual = blend[:, :4], blend[:, 4:]
    # translation = 2 (w e - d0 u + u x e), the vector part of 2 dual real*
    w, u, d0, e = real[:, :1], real[:, 1:], dual[:, :1], dual[:, 1:]
    translation = 2 * (w * e - d0 * u + torch.linalg.cross(u, e))
    return quat_rotate(real, means) + translation, quat_multiply(real, quats), real
