"""Scores against a true surface (mesh_CLIP.npz beside the held-out views): distance, normals, tracks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.evaluate.truth import View
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, quat_to_matrix
from fourdgen.render import Rasterizer, draw
from fourdgen.report import FourdgenError
from fourdgen.scene.entries import seconds_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels

SAMPLES = 20000  # points on the true surface
INSTANTS = 8  # times that are scored
FAST = 0.25  # share of the surface that moves most
CELLS = 96  # of the depth buffer that tells what is hidden, across the picture


@dataclass(frozen=True)
class Mesh:
    """A surface over time: vertex i is the same point in every frame."""

    faces: np.ndarray  # [f 3]
    vertices: np.ndarray  # [t v 3]


@dataclass(frozen=True)
class SurfaceScores:
    """chamfer: in units of the truth. normal_deg: mean angle. track: mean error / mean true motion of all points, of
    those that move most, and of those that the filming camera does not see; None where nothing moves or is hidden."""

    chamfer: float
    normal_deg: float
    track_all: float | None
    track_fast: float | None
    track_hidden: float | None


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
    scene: Scene4D,
    clip: str,
    mesh: Mesh,
    views: list[View],
    inputs: list[CameraEntry],
    truth_from_root: Sim3,
    rasterizer: Rasterizer,
) -> SurfaceScores:
    """Compares what the held-out cameras can see of the surfels with the mesh.

    chamfer is the mean of both directions; surfels count by the weight with which they are seen, so that what is buried
    inside counts nothing. For tracks the surfel that is nearest to a point of the mesh at the first instant carries the
    point along with its own rigid motion.
    """
    frames = sorted({view.entry.frame for view in views if view.clip == clip and view.entry.frame is not None})
    frames = [frame for frame in frames if 0 <= frame < len(mesh.vertices)]
    frames = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, INSTANTS).round().astype(int))]
    corners, inside = _samples(mesh, frames[0])
    filmed = {entry.frame: entry for entry in inputs if entry.clip == clip}
    chamfer, angles, tracks, motions, hidden = [], [], [], [], []
    partner, local, begin = np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 3))
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
        axes = (truth_from_root.rotation @ quat_to_matrix(state.quats.double())).numpy()
        near, which = cKDTree(points).query(means[visible])
        back, _ = cKDTree(means[visible]).query(points)
        share = weight[visible] / weight[visible].sum()
        chamfer.append(0.5 * ((near * share).sum() + back.mean()))
        cosine = np.abs((axes[visible, :, 2] * normals[corners[which]]).sum(1)).clip(0, 1)
        angles.append((np.degrees(np.arccos(cosine)) * share).sum())
        if number == 0:
            _, partner = cKDTree(means[visible]).query(points)
            partner = np.nonzero(visible)[0][partner]
            local, begin = np.einsum("nji,nj->ni", axes[partner], points - means[partner]), points
        else:
            carried = means[partner] + np.einsum("nij,nj->ni", axes[partner], local)
            tracks.append(np.linalg.norm(carried - points, axis=1))
            motions.append(np.linalg.norm(points - begin, axis=1))
            hidden.append(_hidden(points, filmed[frame]) if frame in filmed else np.zeros(len(points), bool))
    return SurfaceScores(float(np.mean(chamfer)), float(np.mean(angles)), *_ratios(tracks, motions, hidden))


def _ratios(
    tracks: list[np.ndarray], motions: list[np.ndarray], hidden: list[np.ndarray]
) -> tuple[float | None, float | None, float | None]:
    """Mean track error over mean true motion: everywhere, where the motion is largest, where nothing was filmed."""
    if not tracks or np.mean(motions) < 1e-6:
        return None, None, None
    error, motion, unseen = np.stack(tracks), np.stack(motions), np.stack(hidden)
    average = motion.mean(axis=0)
    fast = average >= np.quantile(average, 1 - FAST)
    out_of_sight = None
    if unseen.any() and motion[unseen].mean() > 1e-6:
        out_of_sight = float(error[unseen].mean() / motion[unseen].mean())
    return float(error.mean() / motion.mean()), float(error[:, fast].mean() / motion[:, fast].mean()), out_of_sight


def _hidden(points: np.ndarray, entry: CameraEntry) -> np.ndarray:
    """Which points [n 3] of a densely sampled surface a camera does not see: others in their cell are nearer."""
    pose, K = entry.cam_from_input.double().numpy(), entry.K.double().numpy()
    in_camera = points @ pose[:3, :3].T + pose[:3, 3]
    depth = np.maximum(in_camera[:, 2], 1e-6)
    cells = (in_camera @ K.T)[:, :2] / depth[:, None] * (CELLS / max(entry.size))
    index = np.clip(np.floor(cells).astype(int) + 1, 0, CELLS + 1)
    nearest = np.full((CELLS + 2, CELLS + 2), np.inf)
    np.minimum.at(nearest, (index[:, 1], index[:, 0]), depth)
    spread = np.ptp(points, axis=0).max()
    return depth > nearest[index[:, 1], index[:, 0]] + 0.03 * spread


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
