"""Scores against a true surface: distance and normals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from fourdgen.evaluate.mesh import Mesh, face_normals, scatter
from fourdgen.evaluate.truth import View
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, quat_to_matrix
from fourdgen.render import Rasterizer, draw
from fourdgen.scene.entries import seconds_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels

SAMPLES = 20000  # points on the true surface
INSTANTS = 8  # times that are scored


@dataclass(frozen=True)
class SurfaceScores:
    """chamfer: in units of the truth. normal_deg: mean angle."""

    chamfer: float
    normal_deg: float


def score(
    scene: Scene4D,
    clip: str,
    mesh: Mesh,
    views: list[View],
    truth_from_root: Sim3,
    rasterizer: Rasterizer,
) -> SurfaceScores:
    """Compares what the held-out cameras can see of the surfels with the mesh.

    chamfer is the mean of both directions; surfels count by the weight with which they are seen, so that what is buried
    inside counts nothing.
    """
    frames = sorted({view.entry.frame for view in views if view.clip == clip and view.entry.frame is not None})
    frames = [frame for frame in frames if 0 <= frame < len(mesh.vertices)]
    frames = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, INSTANTS).round().astype(int))]
    samples = scatter(mesh, frames[0], SAMPLES)
    corners = samples.face
    chamfer, angles = [], []
    for frame in frames:
        points, normals = samples.at(mesh, frame), face_normals(mesh, frame)
        state = scene.at(clip, seconds_of(scene.clips[clip], frame))
        weight = _seen(state, [view for view in views if view.entry.frame == frame], truth_from_root, rasterizer)
        visible = weight > 0.05
        if not visible.any():
            visible = weight >= weight.max()
        means = truth_from_root.apply(state.means.double()).numpy()
        axes = (truth_from_root.rotation @ quat_to_matrix(state.quats.double())).numpy()
        near, which = cKDTree(points).query(means[visible])
        back, _ = cKDTree(means[visible]).query(points)
        share = weight[visible] / weight[visible].sum()
        chamfer.append(0.5 * ((near * share).sum() + back.mean()))
        cosine = np.abs((axes[visible, :, 2] * normals[corners[which]]).sum(1)).clip(0, 1)
        angles.append((np.degrees(np.arccos(cosine)) * share).sum())
    return SurfaceScores(float(np.mean(chamfer)), float(np.mean(angles)))


@torch.no_grad()
def _seen(state: Surfels, views: list[View], truth_from_root: Sim3, rasterizer: Rasterizer) -> np.ndarray:
    """Blending weight of each surfel, summed over the held-out views of one instant."""
    total = np.zeros(len(state))
    root_from_truth = truth_from_root.inverse()
    for view in views:
        poses = root_from_truth.move_cameras(view.entry.cam_from_input[None])
        cameras = Cameras(poses, view.entry.K.float()[None], view.entry.size)
        out = draw(state, cameras, rasterizer=rasterizer, weights=True)
        assert out.weight is not None
        total += out.weight.reshape(-1).double().numpy()
    return total
