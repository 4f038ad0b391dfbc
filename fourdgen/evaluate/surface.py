"""Scores against a true surface (mesh_CLIP.npz beside the held-out views): distance, normals, tracks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from fourdgen.evaluate.truth import View
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import Rasterizer, draw
from fourdgen.report import FourdgenError
from fourdgen.scene.entries import seconds_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels, normal_axis

SAMPLES = 20000  # points on the true surface
INSTANTS = 8  # times that are scored
FAST = 0.25  # share of the surface that moves most


@dataclass(frozen=True)
class Mesh:
    """A surface over time: vertex i is the same point in every frame."""

    faces: np.ndarray  # [f 3]
    vertices: np.ndarray  # [t v 3]


@dataclass(frozen=True)
class SurfaceScores:
    """chamfer: in units of the truth. normal_deg: mean angle. track: error / true motion, None where nothing moves."""

    chamfer: float
    normal_deg: float
    track_all: float | None
    track_fast: float | None


def read_mesh(folder: Path, clip: str) -> Mesh | None:
    """The true surface of a clip, or None. Raises FourdgenError for a file that is not one."""
    path = folder / f"mesh_{clip}.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            return Mesh(data["faces"].astype(np.int64), data["verts"].astype(np.float64) * float(data["verts_scale"]))
    except (OSError, KeyError, ValueError) as error:
        raise FourdgenError(
            f"{path}: not a mesh of the bench ({error})", "it needs faces, verts, verts_scale"
        ) from None


def score(
    scene: Scene4D, clip: str, mesh: Mesh, views: list[View], truth_from_root: Sim3, rasterizer: Rasterizer
) -> SurfaceScores:
    """Compares what the held-out cameras can see of the surfels with the mesh.

    chamfer is the mean of both directions; surfels count by the weight with which they are seen, so that what is buried
    inside counts nothing. track takes the nearest visible surfel of each point of the mesh at the first instant along.
    """
    frames = sorted({view.entry.frame for view in views if view.clip == clip and view.entry.frame is not None})
    frames = [frame for frame in frames if 0 <= frame < len(mesh.vertices)]
    frames = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, INSTANTS).round().astype(int))]
    corners, inside = _samples(mesh, frames[0])
    chamfer, angles, tracks, motions = [], [], [], []
    partner, offset, begin = np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 3))
    for number, frame in enumerate(frames):
        triangles = mesh.vertices[frame][mesh.faces]
        points = (triangles[corners] * inside[..., None]).sum(1)
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        state = scene.at(clip, seconds_of(scene.clips[clip], frame))
        weight = _seen(state, [view for view in views if view.entry.frame == frame], truth_from_root, rasterizer)
        visible = weight > 0.05
        if not visible.any():
            visible = weight >= weight.max()
        means = truth_from_root.apply(state.means.double()).numpy()
        axes = normal_axis(state.quats).double().numpy() @ truth_from_root.rotation.numpy().T
        near, which = cKDTree(points).query(means[visible])
        back, _ = cKDTree(means[visible]).query(points)
        share = weight[visible] / weight[visible].sum()
        chamfer.append(0.5 * ((near * share).sum() + back.mean()))
        cosine = np.abs((axes[visible] * normals[corners[which]]).sum(1)).clip(0, 1)
        angles.append((np.degrees(np.arccos(cosine)) * share).sum())
        if number == 0:
            _, partner = cKDTree(means[visible]).query(points)
            partner = np.nonzero(visible)[0][partner]
            offset, begin = points - means[partner], points
        else:
            tracks.append(np.linalg.norm(means[partner] + offset - points, axis=1))
            motions.append(np.linalg.norm(points - begin, axis=1))
    track_all, track_fast = _ratios(tracks, motions)
    return SurfaceScores(float(np.mean(chamfer)), float(np.mean(angles)), track_all, track_fast)


def _ratios(tracks: list[np.ndarray], motions: list[np.ndarray]) -> tuple[float | None, float | None]:
    """Mean track error over mean true motion, everywhere and where the motion is largest."""
    if not tracks or np.mean(motions) < 1e-6:
        return None, None
    error, motion = np.mean(tracks, axis=0), np.mean(motions, axis=0)
    fast = motion >= np.quantile(motion, 1 - FAST)
    return float(error.mean() / motion.mean()), float(error[fast].mean() / motion[fast].mean())


def _samples(mesh: Mesh, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Random points on the surface, by area: their triangle [n], and their weights in its corners [n 3]."""
    random = np.random.default_rng(0)
    a, b, c = np.moveaxis(mesh.vertices[frame][mesh.faces], 1, 0)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    which = random.choice(len(area), SAMPLES, p=area / area.sum())
    u, v = random.random((2, SAMPLES))
    root = np.sqrt(u)
    return which, np.stack([1 - root, root * (1 - v), root * v], 1)


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
