"""The true surface (mesh_CLIP.npz beside the held-out views): reading, sampling, and what a camera sees of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from fourdgen.geometry.camera import Cameras, intrinsics, look_at
from fourdgen.report import FourdgenError

AROUND = 14  # cameras of a surround
_SURROUND_SIDE = 128  # pixels
_SURROUND_DISTANCE = 4.0  # in radii of the subject
_TOLERANCE = 0.01  # of the radius: how far behind the nearest surface a point still counts as seen
_STEEP = 0.04  # of the radius: how much farther than its own pixel a neighbouring pixel's surface may allow


@dataclass(frozen=True)
class Mesh:
    """A surface over time: vertex i is the same point in every frame."""

    faces: Int[np.ndarray, "f 3"]
    vertices: Float[np.ndarray, "t v 3"]

    @cached_property
    def center(self) -> Float[np.ndarray, "3"]:
        """The middle of the box that holds all frames."""
        return (self.vertices.min((0, 1)) + self.vertices.max((0, 1))) / 2

    @cached_property
    def radius(self) -> float:
        """The largest distance of any vertex in any frame from `center`: what lengths are given in percent of."""
        return float(np.linalg.norm(self.vertices - self.center, axis=-1).max())


@dataclass(frozen=True)
class Points:
    """n points fixed to a mesh: the triangle of each, and its barycentric weights there."""

    face: Int[np.ndarray, "n"]
    weight: Float[np.ndarray, "n 3"]

    def __getitem__(self, which: np.ndarray) -> Points:
        return Points(self.face[which], self.weight[which])

    def at(self, mesh: Mesh, frame: int) -> Float[np.ndarray, "n 3"]:
        """Where the points are in a frame."""
        return np.einsum("nkj,nk->nj", mesh.vertices[frame][mesh.faces[self.face]], self.weight)


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


def scatter(mesh: Mesh, frame: int, count: int, seed: int = 0) -> Points:
    """Random points on the surface, even by the area that it has in a frame."""
    random = np.random.default_rng(seed)
    a, b, c = np.moveaxis(mesh.vertices[frame][mesh.faces], 1, 0)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = random.choice(len(area), count, p=area / area.sum())
    u, v = random.random((2, count))
    root = np.sqrt(u)
    return Points(face, np.stack([1 - root, root * (1 - v), root * v], 1))


def face_normals(mesh: Mesh, frame: int) -> Float[np.ndarray, "f 3"]:
    """Unit normals of the triangles in a frame; 0 for those without area."""
    a, b, c = np.moveaxis(mesh.vertices[frame][mesh.faces], 1, 0)
    normals = np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def rasterize(
    mesh: Mesh, frame: int, cameras: Cameras, index: int = 0
) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Depth (infinite where nothing is) and nearest triangle (-1) at every pixel centre of one camera.

    Both sides of a triangle are drawn; triangles that reach behind the camera are not.
    """
    width, height = cameras.size
    pose, K = cameras.cam_from_world[index].double().numpy(), cameras.K[index].double().numpy()
    points = mesh.vertices[frame] @ pose[:3, :3].T + pose[:3, 3]
    z = points[:, 2]
    screen = (points @ K.T)[:, :2] / np.maximum(z, 1e-9)[:, None]
    corners, depth = screen[mesh.faces], z[mesh.faces]  # [f 3 2], [f 3]
    low = np.clip(np.ceil(corners.min(1) - 0.5), 0, [width, height]).astype(int)
    high = np.clip(np.floor(corners.max(1) - 0.5) + 1, 0, [width, height]).astype(int)
    span = np.maximum(high - low, 0) * (depth.min(1) > 1e-6)[:, None]
    count = span.prod(1)
    face = np.repeat(np.arange(len(count)), count)  # one row for every pixel of every triangle's box
    within = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    x = low[face, 0] + within % np.maximum(span[face, 0], 1)
    y = low[face, 1] + within // np.maximum(span[face, 0], 1)
    center = np.stack([x, y], 1) + 0.5
    a, b, c = np.moveaxis(corners[face], 1, 0)
    area = _cross(b - a, c - a)
    safe = np.where(np.abs(area) > 1e-12, area, 1.0)
    share = np.stack(
        [_cross(b - center, c - center), _cross(c - center, a - center), _cross(a - center, b - center)], 1
    )
    share /= safe[:, None]
    hit = (share >= 0).all(1) & (np.abs(area) > 1e-12)
    x, y, face = x[hit], y[hit], face[hit]
    distance = 1 / (share[hit] / depth[face]).sum(1)  # 1/z, not z, is linear on the screen
    order = np.argsort(-distance, kind="stable")  # of what falls on one pixel, the nearest is written last
    nearest, which = np.full((height, width), np.inf), np.full((height, width), -1)
    nearest[y[order], x[order]] = distance[order]
    which[y[order], x[order]] = face[order]
    return nearest, which


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def visible(mesh: Mesh, frame: int, points: Float[np.ndarray, "n 3"], cameras: Cameras) -> Bool[np.ndarray, "c n"]:
    """Which points of the surface each camera sees: inside its picture, and nothing of the mesh nearer."""
    rows = []
    pixels, depth = cameras.project(torch.from_numpy(points).to(cameras.K))
    width, height = cameras.size
    for index in range(len(cameras)):
        nearest, _ = rasterize(mesh, frame, cameras, index)
        # A steep surface runs through many depths inside one pixel, so the deepest neighbour counts, within reason.
        padded = np.pad(nearest, 1, mode="edge")
        deepest = np.max([padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)], 0)
        limit = np.minimum(deepest, nearest + _STEEP * mesh.radius) + _TOLERANCE * mesh.radius
        column, row = np.floor(pixels[index].numpy()).astype(int).T
        z = depth[index].double().numpy()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
        rows.append(inside & (z <= limit[row.clip(0, height - 1), column.clip(0, width - 1)]))
    return np.stack(rows)


def surround(center: np.ndarray, radius: float, count: int = AROUND, side: int = _SURROUND_SIDE) -> Cameras:
    """Cameras evenly all around a sphere, which fills their pictures. center: [3], radius: in units of the truth."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    up, turn = 1 - 2 * i / count, math.pi * (1 + math.sqrt(5)) * i
    ring = (1 - up**2).sqrt()
    middle = torch.from_numpy(np.asarray(center, dtype=np.float64))
    eyes = middle + _SURROUND_DISTANCE * radius * torch.stack([ring * turn.cos(), up, ring * turn.sin()], 1)
    fov = 2 * math.degrees(math.asin(1 / _SURROUND_DISTANCE)) * 1.04
    poses = look_at(eyes.float(), middle.float())
    return Cameras(poses, intrinsics(fov, (side, side)).expand(count, 3, 3).clone(), (side, side))
