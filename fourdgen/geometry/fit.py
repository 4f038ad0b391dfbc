"""The rotation and the similarity between two estimates of the same cameras."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.transforms import Sim3, nearest_rotation, rotation_angle_degrees

_ROUNDS = 10  # of reweighting; it has settled long before


def rotation_between(
    cam_from_found: Float[Tensor, "c 3 3"], cam_from_true: Float[Tensor, "c 3 3"]
) -> Float[Tensor, "3 3"]:
    """The one rotation `found_from_true` that fits the rotations of c cameras best (chordal mean)."""
    return nearest_rotation((cam_from_found.double().transpose(1, 2) @ cam_from_true.double()).sum(0))


def rotation_errors(
    cam_from_found: Float[Tensor, "c 3 3"], cam_from_true: Float[Tensor, "c 3 3"]
) -> Float[Tensor, "c"]:
    """Degrees between found and true camera rotations after one global rotation."""
    found_from_true = rotation_between(cam_from_found, cam_from_true)
    return rotation_angle_degrees(cam_from_found.double() @ found_from_true, cam_from_true.double())


def similarity_between(cam_from_found: Float[Tensor, "c 4 4"], cam_from_true: Float[Tensor, "c 4 4"]) -> Sim3:
    """The similarity `found_from_true` between the worlds of two estimates of the same c cameras.

    The rotation comes from the rotations alone: centres do not tell it where a camera stands still. Scale and
    translation then make the cameras' translations agree, t_found = s t_true - R T, a linear system, solved robustly.
    Unlike an agreement of centres this asks where the subject stands before each camera, which an error of a rotation
    does not move. Of the solutions that a camera which never moves leaves open, the one that keeps the origin is taken.
    """
    found, true = cam_from_found.double(), cam_from_true.double()
    rotation = rotation_between(found[:, :3, :3], true[:, :3, :3])
    predicted = true[:, :3, :3] @ rotation.T
    system = torch.cat([true[:, :3, 3:], -predicted], 2).reshape(-1, 4)
    wanted = found[:, :3, 3].reshape(-1)
    size = float(wanted.norm()) / max(len(found), 1) ** 0.5
    weight = torch.ones(len(found), dtype=torch.float64)
    ridge = torch.diag(torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)) * 1e-6 * len(found)
    solution = torch.zeros(4, dtype=torch.float64)
    for _ in range(_ROUNDS):
        rows = weight.repeat_interleave(3)[:, None] * system
        solution = torch.linalg.solve(
            system.T @ rows + ridge + 1e-12 * torch.eye(4, dtype=torch.float64), rows.T @ wanted
        )
        error = (system @ solution - wanted).reshape(-1, 3).norm(dim=1)
        weight = 1 / (error + 0.01 * size + 1e-12)
        weight = weight / weight.mean()
    return Sim3(max(float(solution[0]), 1e-6), rotation, solution[1:])
