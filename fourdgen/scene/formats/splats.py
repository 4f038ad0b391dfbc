"""Static Gaussian splats: the layout of 3D Gaussian Splatting's point_cloud.ply, at one time of one clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.scene.ply import table, write_ply
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels
from fourdgen.scene.vertex import splat_columns


def write(path: Path, scene: Scene4D, clip: str, seconds: float) -> None:
    """Writes the surfels in their state at a time, in the root frame. Other programs know nothing of canonical frames,
    so the harmonics are turned with their surfels."""
    names, values = splat_columns(turned_harmonics(scene.at(clip, seconds)))
    write_ply(path, {"vertex": table(names, values)}, ["Gaussian splats, made by fourdgen"])


def turned_harmonics(surfels: Surfels) -> Surfels:
    """Warped surfels whose degree-1 harmonics take view directions in the world instead of the canonical frame."""
    if surfels.turned is None or surfels.sh.shape[1] == 1:
        return replace(surfels, turned=None)
    # Degree 1 is linear in the direction: colour = a . R^T d = (R a) . d, with a = (-sh3, -sh1, sh2) up to C1.
    linear = torch.stack([-surfels.sh[:, 3], -surfels.sh[:, 1], surfels.sh[:, 2]], 1)
    x, y, z = (quat_to_matrix(surfels.turned) @ linear).unbind(1)
    return replace(surfels, sh=torch.stack([surfels.sh[:, 0], -y, z, -x], 1), turned=None)
