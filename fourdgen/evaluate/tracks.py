"""Track error: does the asset move as the true surface does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.evaluate.mesh import Mesh, Points, scatter, surround, visible
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, quat_to_matrix
from fourdgen.scene.entries import seconds_of
from fourdgen.scene.scene4d import Scene4D

POINTS = 6000  # on the true surface, before those that nobody can see are left out
INSTANTS = 12  # times that are compared
STARTS = 3  # instants at which points are handed to surfels
OPAQUE = 0.5  # opacity from which a surfel may carry a point
FAST = 0.25  # share of the points that move most
NEAR = 0.05  # of the radius: a point with an opaque surfel this near is covered


@dataclass(frozen=True)
class TrackScores:
    """Mean track error over mean true motion: `all` points, the quarter that moves most (`fast`), and where the filming
    camera does not see a point (`hidden`). 0 is perfect, 1 is an asset that stands still. None where nothing moves, or
    nothing is hidden. `covered`: share of the points that have an opaque surfel within 5 % of the radius; None where
    the truth has none of the frames that the asset has."""

    all: float | None
    fast: float | None
    hidden: float | None
    covered: float | None


@torch.no_grad()
def track_error(
    scene: Scene4D, clip: str, mesh: Mesh, root_from_truth: Sim3, inputs: Sequence[CameraEntry] = ()
) -> TrackScores:
    """Follows points of the true surface of a clip through the asset's own motion.

    Random points that can be seen from outside are handed, at a start, to the nearest opaque surfel, which carries each
    along rigidly: its offset turns with the surfel, so what is scored is the motion and not how well the surfel lies on
    the surface. At every other instant the carried point is compared with the true one; starts lie all over the frames
    that the asset has, from its first to its last.
    `scene` may be one in memory, with any motion. `root_from_truth` is the asset's world from the mesh's; lengths are
    compared in the mesh's. `inputs` are the true cameras of the filmed frames: without them nothing counts as hidden.
    """
    numbers = scene.clips[clip].frame_ids
    first, last = int(numbers.min()), min(len(mesh.vertices) - 1, int(numbers.max()))
    if last < first:
        return TrackScores(None, None, None, None)
    frames = np.unique(np.linspace(first, last, min(INSTANTS, last - first + 1)).round().astype(int)).tolist()
    starts = frames[:: max(1, len(frames) // STARTS)][:STARTS]
    points = outside(mesh, starts)
    true = np.stack([points.at(mesh, frame) for frame in frames])
    means, axes = _states(scene, clip, frames, root_from_truth.inverse())
    opaque = _opaque(scene)
    unseen = _unseen(mesh, frames, true, [entry for entry in inputs if entry.clip == clip])

    errors, motions, hidden, covered = [], [], [], []
    for start in (frames.index(frame) for frame in starts):
        carried, distance = _carry(means, axes, opaque, start, true[start])
        covered.append(float((distance < NEAR * mesh.radius).mean()))
        others = [i for i in range(len(frames)) if i != start]
        errors.append(np.linalg.norm(carried - true, axis=-1)[others])
        motions.append(np.linalg.norm(true - true[start], axis=-1)[others])
        hidden.append(unseen[others])
    error, motion, mask = np.concatenate(errors), np.concatenate(motions), np.concatenate(hidden)
    if error.size == 0 or motion.mean() < 1e-4 * mesh.radius:
        return TrackScores(None, None, None, float(np.mean(covered)))
    average = motion.mean(axis=0)
    fast = average >= np.quantile(average, 1 - FAST)
    whole = np.ones_like(mask)
    return TrackScores(
        all=_ratio(error, motion, whole), fast=_ratio(error, motion, whole & fast), hidden=_ratio(error, motion, mask),
        covered=float(np.mean(covered)),
    )  # fmt: skip


@torch.no_grad()
def carried_points(
    scene: Scene4D, clip: str, frames: Sequence[int], points: Float[np.ndarray, "n 3"], root_from_truth: Sim3
) -> Float[np.ndarray, "t n 3"]:
    """Where the asset carries points of the true surface, given at the first of the frames, in all of them."""
    means, axes = _states(scene, clip, frames, root_from_truth.inverse())
    return _carry(means, axes, _opaque(scene), 0, points)[0]


def _carry(
    means: np.ndarray, axes: np.ndarray, opaque: np.ndarray, start: int, points: np.ndarray
) -> tuple[Float[np.ndarray, "t n 3"], Float[np.ndarray, "n"]]:
    """(points at all instants, rigid with the opaque surfel that is nearest at `start`; how far that is)."""
    distance, nearest = cKDTree(means[start][opaque]).query(points)
    carrier = opaque[nearest]
    local = np.einsum("nji,nj->ni", axes[start][carrier], points - means[start][carrier])
    return means[:, carrier] + np.einsum("tnij,nj->tni", axes[:, carrier], local), distance


def _opaque(scene: Scene4D) -> np.ndarray:
    """Surfels that may carry points; all where none is opaque."""
    opaque = np.nonzero(torch.sigmoid(scene.surfels.opacity).numpy() > OPAQUE)[0]
    return opaque if len(opaque) else np.arange(len(scene.surfels))


def _ratio(error: np.ndarray, motion: np.ndarray, where: np.ndarray) -> float | None:
    if not where.any() or motion[where].mean() <= 0:
        return None
    return float(error[where].mean() / motion[where].mean())


def outside(mesh: Mesh, frames: Sequence[int], count: int = POINTS) -> Points:
    """Random points of the surface that are seen from somewhere outside in at least one of the frames."""
    points = scatter(mesh, frames[0], count)
    cameras = surround(mesh.center, mesh.radius)
    seen = np.zeros(count, bool)
    for frame in frames:
        seen |= visible(mesh, frame, points.at(mesh, frame), cameras).any(0)
    return points[seen] if seen.any() else points


def _states(
    scene: Scene4D, clip: str, frames: Sequence[int], truth_from_root: Sim3
) -> tuple[Float[np.ndarray, "t k 3"], Float[np.ndarray, "t k 3 3"]]:
    """Centres and axes (in columns) of all surfels at frames of the source, in the truth's world."""
    means, axes = [], []
    for frame in frames:
        state = scene.at(clip, seconds_of(scene.clips[clip], frame)).to("cpu")
        means.append(truth_from_root.apply(state.means.double()).numpy())
        axes.append((truth_from_root.rotation @ quat_to_matrix(state.quats.double())).numpy())
    return np.stack(means), np.stack(axes)


def _unseen(mesh: Mesh, frames: Sequence[int], true: np.ndarray, inputs: Sequence[CameraEntry]) -> np.ndarray:
    """Which points [t n] the camera that filmed an instant does not see; False where its camera is not known."""
    filmed = {entry.frame: entry for entry in inputs}
    rows = []
    for points, frame in zip(true, frames, strict=True):
        entry = filmed.get(frame)
        if entry is None:
            rows.append(np.zeros(len(points), bool))
            continue
        camera = Cameras(entry.cam_from_input.float()[None], entry.K.float()[None], entry.size)
        rows.append(~visible(mesh, frame, points, camera)[0])
    return np.stack(rows)
