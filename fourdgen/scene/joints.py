"""Joints for programs that skin linearly: rigid motions whose linear blend comes nearest to our dual-quaternion blend.

Where bones turn against each other, a linear blend shrinks and a dual-quaternion blend does not. The joints' motions
are therefore fitted, bone after bone, to where the vertices really go; what is left is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.transforms import dual_quat_parts, nearest_rotation, quat_from_matrix, quat_to_matrix
from fourdgen.report import Reporter, Silent
from fourdgen.scene.mesh import SkinnedMesh
from fourdgen.scene.motion import SampledBones

MOST_POINTS = 4000  # vertices that the joints are fitted to
ROUNDS = 4


@dataclass(frozen=True)
class JointMotion:
    """Motion of b joints, root frame from canonical: x -> R x + t, at times of one clip. `rotations` are unit
    quaternions wxyz with signs continuous in time.

    residual_rms, residual_max: distance between linearly skinned vertices and ours over all times; `before_rms` is
    the same for the bones' own motions, without a fit.
    """

    seconds: Float[Tensor, "t"]
    rotations: Float[Tensor, "t b 4"]
    translations: Float[Tensor, "t b 3"]
    residual_rms: float
    residual_max: float
    before_rms: float


@torch.no_grad()
def fitted_joints(mesh: SkinnedMesh, motion: SampledBones, clip: str, report: Reporter = Silent()) -> JointMotion:
    """Joint motions at the times of the clip's samples. The mesh must have bones (ValueError)."""
    if mesh.bone_ids is None or mesh.bone_weights is None:
        raise ValueError("a mesh without bones has no joints")
    times = motion.seconds[clip]
    count = motion.dual_quats[clip].shape[1]
    chosen = torch.linspace(0, len(mesh.vertices) - 1, min(MOST_POINTS, len(mesh.vertices))).long()
    points, ids, weights = mesh.vertices[chosen], mesh.bone_ids[chosen].long(), mesh.bone_weights[chosen]
    dense = torch.zeros(len(points), count).scatter_add_(1, ids, weights)
    part = SkinnedMesh(points, mesh.faces[:0], points, mesh.bone_ids[chosen], weights)
    goal = torch.stack([part.at(motion, clip, float(time)).vertices for time in times])
    quats, translations = dual_quat_parts(motion.dual_quats[clip])
    rotations = quat_to_matrix(quats)
    now = _skinned(points, dense, rotations, translations)
    before = (now - goal).norm(dim=-1)
    for round_ in range(ROUNDS):
        for bone in range(count):
            step = round_ * count + bone + 1
            report.emit("step", stage=f"joints of clip {clip}", step=step, total=ROUNDS * count)
            moved = (dense[:, bone] > 1e-3).nonzero()[:, 0]
            if len(moved) < 4:
                continue  # nothing depends on it
            share, at = dense[moved, bone], points[moved]
            own = at @ rotations[:, bone].transpose(1, 2) + translations[:, bone, None]
            # What this joint alone would have to make of its points, with the others as they are.
            wanted = own + (goal[:, moved] - now[:, moved]) / share[:, None]
            rotation, translation = _rigid_fit(at, wanted, share**2)
            rotations[:, bone], translations[:, bone] = rotation, translation
            now[:, moved] += share[:, None] * (at @ rotation.transpose(1, 2) + translation[:, None] - own)
    after = (_skinned(points, dense, rotations, translations) - goal).norm(dim=-1)
    signed = quat_from_matrix(rotations)
    flips = torch.where((signed[1:] * signed[:-1]).sum(-1, keepdim=True) < 0, -1.0, 1.0).cumprod(0)
    signed = torch.cat([signed[:1], signed[1:] * flips])
    return JointMotion(times, signed, translations, _rms(after), float(after.max()), _rms(before))


def _skinned(
    points: Float[Tensor, "v 3"],
    weights: Float[Tensor, "v b"],
    rotations: Float[Tensor, "t b 3 3"],
    translations: Float[Tensor, "t b 3"],
) -> Float[Tensor, "t v 3"]:
    blended = torch.einsum("vb,tbij->tvij", weights, rotations)
    return (blended @ points[None, :, :, None])[..., 0] + torch.einsum("vb,tbi->tvi", weights, translations)


def _rms(distance: Tensor) -> float:
    return float((distance**2).mean().sqrt())


def _rigid_fit(
    points: Float[Tensor, "v 3"], wanted: Float[Tensor, "t v 3"], weights: Float[Tensor, "v"]
) -> tuple[Float[Tensor, "t 3 3"], Float[Tensor, "t 3"]]:
    """Least-squares rigid motions from points to where they are wanted (Kabsch 1976), for all times at once."""
    share = weights / weights.sum()
    middle = (share[:, None] * points).sum(0)
    goal = (share[:, None] * wanted).sum(1)
    spread = torch.einsum("v,tvi,vj->tij", share, wanted - goal[:, None], points - middle)
    # Points on a line leave a turn about it open: a little of the identity chooses the smallest.
    scale = 1e-5 * float((share * ((points - middle) ** 2).sum(1)).sum())
    rotation = nearest_rotation(spread + scale * torch.eye(3))
    return rotation, goal - rotation @ middle
