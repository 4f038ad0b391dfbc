"""The mesh of a scene: it lies on the true surface, and goes out as glTF, OBJ and PLY."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from fourdgen.playback.surface import SurfaceConfig, open_moment, surface
from fourdgen.render import pick
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene.mesh import SkinnedMesh
from fourdgen.scene.scene4d import Scene4D
from tests.toy import ellipsoid, joined, toy_scene

SHAPES = [
    ([0.0, 0.1, 0.0], [0.35, 0.45, 0.25]), ([0.25, -0.45, -0.15], [0.18] * 3), ([-0.55, 0.0, 0.05], [0.3, 0.08, 0.08]),
]  # fmt: skip
COLORS = [
    [[0.9, 0.2, 0.1], [0.2, 0.3, 0.8]], [[0.1, 0.7, 0.2], [0.9, 0.8, 0.1]], [[0.1, 0.1, 0.1], [0.6, 0.6, 0.6]],
]  # fmt: skip
SMALL = SurfaceConfig(cells=96, views=40, size=384)


def dense_toy() -> Scene4D:
    """The toy with eight times as many, smaller surfels: large flat ones stand out over a curved surface."""
    made = toy_scene()
    counts = (4000, 1600, 1600)
    parts = [ellipsoid(*shape, count, colors) for shape, count, colors in zip(SHAPES, counts, COLORS)]
    surfels = joined(parts)
    arm = torch.sigmoid((-surfels.means[:, 0] - 0.35) * 20)
    ids = torch.tensor([[0, 1, 0, 0]]).expand(len(surfels), 4).int().contiguous()
    weights = torch.stack([1 - arm, arm, torch.zeros_like(arm), torch.zeros_like(arm)], 1)
    return replace(made, surfels=replace(surfels, bone_ids=ids, bone_weights=weights))


@pytest.fixture(scope="module")
def scene() -> Scene4D:
    return dense_toy()


@pytest.fixture(scope="module")
def mesh(scene: Scene4D) -> SkinnedMesh:
    return surface(scene, pick("cpu"), SMALL)


def ellipsoids(count: int = 20000) -> np.ndarray:
    """Points [n 3] on the union of the three ellipsoids of which the toy is made."""
    points = []
    for middle, radii in SHAPES:
        ball = trimesh.creation.icosphere(4)
        whole = trimesh.Trimesh(ball.vertices * radii + middle, ball.faces)
        sampled, _ = trimesh.sample.sample_surface(whole, count // 3, seed=0)
        others = [shape for shape in SHAPES if shape[0] != middle]
        within = [(((sampled - m) / r) ** 2).sum(1) < 1 for m, r in others]
        points.append(sampled[~np.any(within, axis=0)])
    return np.concatenate(points)


@pytest.mark.parametrize("seconds", [None, 0.0, 0.25, 0.7])
def test_the_mesh_lies_within_two_per_cent_of_the_true_surface(
    scene: Scene4D, mesh: SkinnedMesh, seconds: float | None
) -> None:
    truth = torch.from_numpy(ellipsoids()).float()
    now = mesh
    if seconds is not None:  # the true surface is carried by the true motion, which is the scene's
        arm = torch.sigmoid((-truth[:, 0] - 0.35) * 20)
        ids = torch.tensor([[0, 1]]).expand(len(truth), 2)
        carried = SkinnedMesh(truth, mesh.faces[:0], truth, ids, torch.stack([1 - arm, arm], 1))
        truth = carried.at(scene.motion, "a", seconds).vertices
        now = mesh.at(scene.motion, "a", seconds)
    points, _ = trimesh.sample.sample_surface(
        trimesh.Trimesh(now.vertices.numpy(), now.faces.numpy(), process=False), 20000, seed=0
    )
    there, back = cKDTree(truth.numpy()).query(points)[0], cKDTree(points).query(truth.numpy())[0]
    chamfer = 0.5 * (there.mean() + back.mean())
    assert chamfer < 0.02 * 0.85  # the toy's radius


def test_faces_look_outwards_and_colours_are_those_of_the_surface(scene: Scene4D, mesh: SkinnedMesh) -> None:
    whole = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert whole.is_winding_consistent
    assert whole.volume == pytest.approx(4 / 3 * np.pi * (0.35 * 0.45 * 0.25 + 0.18**3 + 0.3 * 0.08**2), rel=0.12)
    head = (mesh.vertices - torch.tensor([0.25, -0.45, -0.15])).norm(dim=1) < 0.25
    green, yellow = torch.tensor([0.1, 0.7, 0.2]), torch.tensor([0.9, 0.8, 0.1])
    nearest = torch.minimum((mesh.colors[head] - green).norm(dim=1), (mesh.colors[head] - yellow).norm(dim=1))
    assert float(nearest.mean()) < 0.2  # stripes are mixed at their borders only
    assert float((mesh.normals() * torch.nn.functional.normalize(mesh.vertices, dim=1)).sum(1).mean()) > 0.3


def test_the_mesh_is_made_where_parts_do_not_touch(scene: Scene4D) -> None:
    """The toy's arm swings to both sides of the body: folded into it, there is less to be seen."""
    clip = scene.clips["a"]
    folded = torch.tensor([1.0, 0, 0, 0, 0, 0.15, 0, 0])  # 0.3 towards the body: the arm is inside it
    poses = scene.motion.dual_quats["a"].clone()
    times = scene.motion.seconds["a"]
    poses[times < float(clip.seconds[6])] = torch.stack([torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]), folded])
    motion = replace(scene.motion, dual_quats={**scene.motion.dual_quats, "a": poses})
    moment = open_moment(replace(scene, motion=motion))
    assert moment is not None
    assert moment[0] == "a"
    assert moment[1] >= float(clip.seconds[6])
    always = torch.stack([torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]), folded]).expand_as(poses)
    motion = replace(scene.motion, dual_quats={**scene.motion.dual_quats, "a": always})
    shut = replace(scene, motion=motion)
    assert open_moment(shut) is None  # folded in every frame: the canonical state is the only one in which it is not
    made = surface(shut, pick("cpu"), SurfaceConfig(cells=48, views=20, size=128))
    assert float(made.vertices[:, 0].min()) < -0.8  # the arm reaches to -0.85 in the canonical state


def test_every_part_of_the_work_says_how_far_it_is(scene: Scene4D) -> None:
    class Heard(Silent):
        last: ClassVar[dict[str, tuple[int, int]]] = {}

        def emit(self, event: str, **fields: Any) -> None:
            self.last[fields["stage"]] = (fields["step"], fields["total"])

    surface(scene, pick("cpu"), SurfaceConfig(cells=24, views=10, size=64), Heard())
    assert set(Heard.last) == {"surface", "outlines", "colours"}
    assert all(step == total for step, total in Heard.last.values())


def test_a_scene_without_a_surface_is_said_to_have_none(scene: Scene4D) -> None:
    clear = replace(scene, surfels=replace(scene.surfels, opacity=torch.full((len(scene.surfels),), -9.0)))
    with pytest.raises(FourdgenError, match="no surface"):
        surface(clear, pick("cpu"), SurfaceConfig(cells=24, views=8, size=64))
