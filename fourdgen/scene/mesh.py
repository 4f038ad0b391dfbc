"""A triangle mesh that bones move, and the surface of a sampled distance field."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fourdgen.geometry.transforms import dual_quat_parts, quat_rotate
from fourdgen.scene.motion import Motion, SampledBones, blend_dual_quats, move
from fourdgen.scene.surfels import Surfels

NEIGHBOURS = 4  # surfels whose skinning weights a vertex takes the mean of


@dataclass(frozen=True)
class SkinnedMesh:
    """Vertices in the canonical state; faces run counter-clockwise seen from outside. `colors` are sRGB 0..1.

    `bone_ids` and `bone_weights` as in Surfels; None for a mesh that stands still.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"]
    bone_ids: Int[Tensor, "v b"] | None = None
    bone_weights: Float[Tensor, "v b"] | None = None

    def at(self, motion: Motion, clip: str, seconds: float) -> SkinnedMesh:
        """The mesh in its state at a time of a clip: vertices move as surfels do, by dual-quaternion blending."""
        blend = self._blend(motion, clip, seconds)
        if blend is None:
            return self
        still = torch.tensor([1.0, 0, 0, 0]).expand(len(self.vertices), 4)
        return replace(self, vertices=move(blend, self.vertices, still)[0])

    def back_from(self, motion: Motion, clip: str, seconds: float) -> SkinnedMesh:
        """The inverse of `at`: the canonical state of a mesh whose vertices are given as they are at a time."""
        blend = self._blend(motion, clip, seconds)
        if blend is None:
            return self
        turns, shifts = dual_quat_parts(blend)
        return replace(self, vertices=quat_rotate(turns * turns.new_tensor([1.0, -1, -1, -1]), self.vertices - shifts))

    def _blend(self, motion: Motion, clip: str, seconds: float) -> Float[Tensor, "v 8"] | None:
        """The rigid motion of each vertex as a unit dual quaternion; None where nothing moves."""
        if not isinstance(motion, SampledBones) or self.bone_ids is None or self.bone_weights is None:
            return None
        return blend_dual_quats(motion.bones_at(clip, seconds)[self.bone_ids.long()], self.bone_weights)

    def normals(self) -> Float[Tensor, "v 3"]:
        """Unit normals at the vertices: the mean of the faces around, by area."""
        a, b, c = self.vertices[self.faces.long()].unbind(1)
        normal = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(self.vertices)
        for corner in self.faces.long().unbind(1):
            total.index_add_(0, corner, normal)
        lengths = total.norm(dim=1, keepdim=True)
        up = total.new_tensor([0.0, 1.0, 0.0])
        return torch.where(lengths > 1e-20, total / lengths.clamp_min(1e-20), up)


@dataclass(frozen=True)
class Texture:
    """picture: sRGB bytes; uv: where the corners of a mesh's faces lie in it (0..1, origin at the top left)."""

    picture: UInt8[np.ndarray, "h w 3"]
    uv: Float[Tensor, "f 3 2"]


def unwelded(mesh: SkinnedMesh) -> tuple[SkinnedMesh, Float[Tensor, "v 3"]]:
    """The mesh with three vertices of its own for every face, and their normals, which stay smooth."""
    corner = mesh.faces.long().reshape(-1)
    apart = SkinnedMesh(
        mesh.vertices[corner],
        torch.arange(len(corner)).reshape(-1, 3),
        mesh.colors[corner],
        None if mesh.bone_ids is None else mesh.bone_ids[corner],
        None if mesh.bone_weights is None else mesh.bone_weights[corner],
    )
    return apart, mesh.normals()[corner]


def skinned_like(
    surfels: Surfels, vertices: Float[Tensor, "v 3"]
) -> tuple[Int[Tensor, "v 4"], Float[Tensor, "v 4"]] | tuple[None, None]:
    """Bones and weights (sum 1) of vertices: the mean over the nearest surfels, cut to the heaviest four."""
    if surfels.bone_ids is None or surfels.bone_weights is None:
        return None, None
    from scipy.spatial import cKDTree

    solid = torch.sigmoid(surfels.opacity) > 0.1
    chosen = surfels[solid] if bool(solid.any()) else surfels
    count = min(NEIGHBOURS, len(chosen))
    distance, index = cKDTree(chosen.means.numpy()).query(vertices.numpy(), k=count)
    distance, index = distance.reshape(len(vertices), count), index.reshape(len(vertices), count)
    near = 1 / (distance + 1e-3 * distance.mean() + 1e-9)
    near = torch.from_numpy(near / near.sum(1, keepdims=True)).float()
    assert chosen.bone_ids is not None and chosen.bone_weights is not None
    bones = int(chosen.bone_ids.max()) + 1
    weights = torch.zeros(len(vertices), max(bones, 4))
    for k in range(count):
        at = torch.from_numpy(index[:, k])
        weights.scatter_add_(1, chosen.bone_ids[at].long(), chosen.bone_weights[at] * near[:, k : k + 1])
    top, ids = weights.topk(4, dim=1)
    ids = torch.where(top > 0, ids, torch.zeros_like(ids))
    return ids.int(), top / top.sum(1, keepdim=True).clamp_min(1e-9)


def surface_nets(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [v 3] (in cells, from the centre of the first) and triangles [f 3] of the zero level of a field
    [x y z] that is negative inside; faces look outwards.

    Surface nets (Gibson 1998): one vertex in each cell through which the surface runs, at the mean of where it crosses
    the cell's edges; one quadrilateral for each grid edge that it crosses. What leaves the field is left open.
    """
    inside = field < 0
    shape = np.array(field.shape)
    cells = shape - 1
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    views = [inside[tuple(slice(o, o + n) for o, n in zip(corner, cells))] for corner in corners]
    count = np.sum(views, axis=0)
    active = np.argwhere((count > 0) & (count < 8))
    if len(active) == 0:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    total, crossings = np.zeros((len(active), 3)), np.zeros(len(active))
    for i, a in enumerate(corners):
        for b in corners[i + 1 :]:
            if np.abs(a - b).sum() != 1:
                continue
            at, to = active + a, active + b
            fa, fb = field[tuple(at.T)], field[tuple(to.T)]
            crossed = (fa < 0) != (fb < 0)
            share = np.where(crossed, fa / np.where(crossed, fa - fb, 1.0), 0.0)
            total += crossed[:, None] * (a + share[:, None] * (b - a))
            crossings += crossed
    vertices = active + total / crossings[:, None]
    number = np.full(cells, -1, np.int64)
    number[tuple(active.T)] = np.arange(len(active))
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        one, two = [slice(None)] * 3, [slice(None)] * 3
        one[axis], two[axis] = slice(0, -1), slice(1, None)
        changes = inside[tuple(one)] != inside[tuple(two)]
        edges = np.argwhere(changes)
        edges = edges[((edges[:, [u, v]] > 0) & (edges[:, [u, v]] < cells[[u, v]])).all(1)]
        around = []
        for du, dv in ((-1, -1), (0, -1), (0, 0), (-1, 0)):  # counter-clockwise, seen from the far end of the axis
            cell = edges.copy()
            cell[:, u] += du
            cell[:, v] += dv
            around.append(number[tuple(cell.T)])
        quads = np.stack(around, 1)
        backwards = ~inside[tuple(edges.T)]  # outside at the near end: the surface looks back along the axis
        quads[backwards] = quads[backwards][:, ::-1]
        faces.append(_triangles(vertices, quads))
    return vertices, np.concatenate(faces)


def _triangles(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Two triangles of each quadrilateral [q 4], cut along the shorter diagonal."""
    a, b, c, d = vertices[quads].transpose(1, 0, 2)
    along = np.linalg.norm(a - c, axis=1) <= np.linalg.norm(b - d, axis=1)
    first = np.where(along[:, None], quads[:, [0, 1, 2]], quads[:, [0, 1, 3]])
    second = np.where(along[:, None], quads[:, [0, 2, 3]], quads[:, [1, 2, 3]])
    return np.concatenate([first, second])


def without_pockets(field: np.ndarray) -> np.ndarray:
    """A field [x y z] that is negative inside, with what is outside but enclosed made inside: no one sees it."""
    from scipy import ndimage

    label, _ = ndimage.label(field >= 0)
    sides = [side.ravel() for axis in range(3) for side in (label.take(0, axis), label.take(-1, axis))]
    open_ = np.isin(label, np.unique(np.concatenate(sides)))
    return np.where((label > 0) & ~open_, -np.finfo(np.float32).tiny, field)


def large_parts(faces: np.ndarray, vertices: int, share: float) -> np.ndarray:
    """The faces [f 3] of connected parts that have at least `share` of the faces of the largest one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(vertices, vertices))
    _, label = connected_components(graph, directed=False)
    sizes = np.bincount(label[faces[:, 0]])
    return faces[(sizes >= share * sizes.max())[label[faces[:, 0]]]]


def compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without vertices that no face has."""
    used, again = np.unique(faces.reshape(-1), return_inverse=True)
    return vertices[used], again.reshape(-1, 3)
