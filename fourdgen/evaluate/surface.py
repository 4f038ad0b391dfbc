"""Scores of the drawn surface against the true one: distance both ways, and normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree

from fourdgen.evaluate.mesh import Mesh, face_normals, rasterize, scatter, surround, visible
from fourdgen.evaluate.truth import View
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import Rasterizer, RenderOut, draw
from fourdgen.scene.entries import seconds_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels

SAMPLES = 100_000  # points on the true surface: about 0.3 % of the radius between neighbours
CHECKED = 5_000  # of them, for completeness
SIDE = 160  # pixels of the pictures from which the asset's surface is taken
INSTANTS = 6  # times that are scored
FAR = (
    1.25  # radii from the middle: surfels beyond lie outside the pictures of the surround and get pictures of their own
)
FAR_SIDE = (16, 512)  # pixels of those, at least and at most
SEEN = 0.1  # opacity below which a surfel alone is not looked for out there


@dataclass(frozen=True)
class SurfaceScores:
    """Lengths are in percent of the subject's radius. `accuracy`: from the drawn surface to the true one;
    `completeness`: from the true one, where it can be seen from outside, to the drawn one; `chamfer`: their mean. No
    point counts as further off than the radius, and an instant at which nothing is drawn counts 100 in all three; they
    are None where no instant is scored. `normal_deg`: mean angle between drawn and true normals over the pixels that
    both cover, None where there are none."""

    chamfer: float | None
    accuracy: float | None
    completeness: float | None
    normal_deg: float | None


@torch.no_grad()
def score(
    scene: Scene4D, clip: str, mesh: Mesh, views: Sequence[View], root_from_truth: Sim3, rasterizer: Rasterizer
) -> SurfaceScores:
    """What can be seen of the asset against what can be seen of the mesh.

    The drawn surface is the median depth where alpha > 0.5, from cameras evenly all around: surfels that are buried or
    transparent count nothing, and sides that nobody filmed count as much as others. Normals are compared in the
    held-out pictures. Instants are frames of the held-out views, which the mesh must have. What floats far from the
    subject is seen by cameras of its own and counts by its area, as what is near does.
    """
    frames = sorted({v.entry.frame for v in views if v.clip == clip and v.entry.frame is not None})
    if not frames:
        return SurfaceScores(None, None, None, None)
    frames = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, INSTANTS).round().astype(int))]
    cameras = surround(mesh.center, mesh.radius, side=SIDE)
    accuracy, completeness, angles = [], [], []
    for frame in frames:
        samples = scatter(mesh, frame, SAMPLES)
        true = samples.at(mesh, frame)
        checked = true[:CHECKED]
        checked = checked[visible(mesh, frame, checked, cameras).any(0)]
        state = scene.at(clip, seconds_of(scene.clips[clip], frame))
        drawn, weight = _drawn_surface(state, mesh, cameras, root_from_truth, rasterizer)
        if len(drawn):
            near = cKDTree(true).query(drawn)[0].clip(max=mesh.radius)
            accuracy.append(float(near.mean() if weight is None else np.average(near, weights=weight)))
            completeness.append(float(cKDTree(drawn).query(checked)[0].clip(max=mesh.radius).mean()))
        else:
            accuracy.append(mesh.radius)
            completeness.append(mesh.radius)
        for view in views:
            if view.clip == clip and view.entry.frame == frame:
                camera = Cameras(view.entry.cam_from_input[None].float(), view.entry.K.float()[None], view.entry.size)
                out = draw(state, _moved(camera, root_from_truth), rasterizer=rasterizer)
                angles.append(normal_errors(out, mesh, frame, camera, root_from_truth))
    errors = np.concatenate(angles) if angles else np.zeros(0)
    normal = float(errors.mean()) if len(errors) else None
    near, whole = (100 * float(np.mean(rows)) / mesh.radius for rows in (accuracy, completeness))
    return SurfaceScores((near + whole) / 2, near, whole, normal)


def _drawn_surface(
    state: Surfels, mesh: Mesh, cameras: Cameras, root_from_truth: Sim3, rasterizer: Rasterizer
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"] | None]:
    """Points of the drawn surface in the truth's world, and how much of it each stands for (None: all the same).

    Where surfels float beyond `FAR`, the rest is drawn without them, and they in pictures that just hold them, with
    pixels of the same size where that is possible; a pixel stands for as much as its area says.
    """
    truth_from_root = root_from_truth.inverse()
    places = truth_from_root.apply(state.means.double()).numpy()
    far = np.linalg.norm(places - mesh.center, axis=1) > FAR * mesh.radius
    far &= (torch.sigmoid(state.opacity) > SEEN).numpy()

    def points(surfels: Surfels, around: Cameras) -> Float[np.ndarray, "n 3"]:
        ours = _moved(around, root_from_truth)
        found = drawn_points(draw(surfels, ours, rasterizer=rasterizer), ours)
        return truth_from_root.apply(torch.from_numpy(found)).numpy()

    if not far.any():
        return points(state, cameras), None
    reach = 3 * state.log_scales.exp().amax(1).double().numpy() / root_from_truth.scale
    low, high = ((places + sign * reach[:, None])[far] for sign in (-1, 1))
    center = (low.min(0) + high.max(0)) / 2
    radius = float((np.linalg.norm(places[far] - center, axis=1) + reach[far]).max())
    outside = torch.from_numpy(far)
    parts = [points(state[~outside], cameras) if (~far).any() else np.zeros((0, 3))]
    side = min(max(round(SIDE * radius / mesh.radius), FAR_SIDE[0]), FAR_SIDE[1])  # pixels as large as the subject's
    parts.append(points(state[outside], surround(center, radius, side=side)))
    area = (radius * SIDE / (mesh.radius * side)) ** 2  # of a pixel out there, in pixels of the subject's pictures
    return np.concatenate(parts), np.repeat([1.0, area], [len(part) for part in parts])


def drawn_points(out: RenderOut, cameras: Cameras) -> Float[np.ndarray, "n 3"]:
    """The drawn surface in the world: what lies at the median depth of all pixels with alpha > 0.5."""
    points = []
    for index in range(len(cameras)):
        covered = (out.alpha[index] > 0.5).numpy()
        pose = cameras.cam_from_world[index].double().numpy()
        in_camera = _rays(cameras, index)[covered] * out.median[index].double().numpy()[covered][:, None]
        points.append((in_camera - pose[:3, 3]) @ pose[:3, :3])
    return np.concatenate(points)


def normal_errors(
    out: RenderOut, mesh: Mesh, frame: int, camera: Cameras, root_from_truth: Sim3
) -> Float[np.ndarray, "n"]:
    """Degrees between drawn and true normals, both turned towards the camera, where both surfaces are."""
    _, face = rasterize(mesh, frame, camera)
    both = (face >= 0) & (out.alpha[0] > 0.5).numpy()
    pose = camera.cam_from_world[0, :3, :3].double().numpy()
    rays = _rays(camera, 0)[both]
    true = face_normals(mesh, frame)[face[both]] @ pose.T
    true *= np.where((true * rays).sum(1, keepdims=True) > 0, -1, 1)
    drawn = out.normal[0].double().numpy()[both] @ root_from_truth.rotation.numpy() @ pose.T
    drawn /= np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.degrees(np.arccos((true * drawn).sum(1).clip(-1, 1))))


def _moved(cameras: Cameras, root_from_truth: Sim3) -> Cameras:
    return Cameras(root_from_truth.move_cameras(cameras.cam_from_world), cameras.K, cameras.size)


def _rays(cameras: Cameras, index: int) -> Float[np.ndarray, "h w 3"]:
    """What a camera's pixel centres see at depth 1, in its own axes."""
    return replace(cameras[index], K=cameras.K[index : index + 1].double()).rays()[0].numpy()
