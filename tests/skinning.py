"""What other programs do with a skinned mesh, written out."""

from __future__ import annotations

import torch

from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.scene.joints import JointMotion
from fourdgen.scene.mesh import SkinnedMesh


def skinned_linearly(mesh: SkinnedMesh, joints: JointMotion, sample: int) -> torch.Tensor:
    """Where a program that skins linearly puts the vertices at one of the sampled times."""
    assert mesh.bone_ids is not None and mesh.bone_weights is not None
    turns = quat_to_matrix(joints.rotations[sample])[mesh.bone_ids.long()]
    places = torch.einsum("vbij,vj->vbi", turns, mesh.vertices) + joints.translations[sample][mesh.bone_ids.long()]
    return (mesh.bone_weights[..., None] * places).sum(1)
