"""Surface nets, skinning taken over from surfels, joints fitted to dual-quaternion motion."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import trimesh

from fourdgen.report import Silent
from fourdgen.scene.joints import fitted_joints
from fourdgen.scene.mesh import SkinnedMesh, compact, large_parts, skinned_like, surface_nets, without_pockets
from tests.skinning import skinned_linearly
from tests.toy import toy_scene


def ball(cells: int, radius: float, middle: float = 0.0) -> np.ndarray:
    """Distances to a sphere, in cells."""
    axis = np.arange(cells) - (cells - 1) / 2 - middle
    return np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) - radius


def test_the_zero_level_of_a_ball_is_a_closed_sphere_that_looks_outwards() -> None:
    vertices, faces = surface_nets(ball(40, 14.3, 0.2))
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.body_count == 1
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 14.3**3, rel=0.01)  # positive: outwards
    distance = np.linalg.norm(vertices - 19.7, axis=1)
    assert np.abs(distance - 14.3).max() < 0.2
    assert np.abs(distance - 14.3).mean() < 0.06


def test_a_field_without_a_surface_has_none() -> None:
    vertices, faces = surface_nets(np.ones((5, 6, 7)))
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_small_parts_are_left_out() -> None:
    field = np.minimum(ball(40, 12), np.roll(ball(40, 2), (16, 16, 16), (0, 1, 2)))
    vertices, faces = surface_nets(field)
    assert trimesh.Trimesh(vertices, faces, process=False).body_count == 2
    vertices, faces = compact(vertices, large_parts(faces, len(vertices), 0.1))
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.body_count == 1 and mesh.is_watertight
    assert len(vertices) == faces.max() + 1


def test_pockets_are_filled_and_nothing_else_is() -> None:
    shell = np.maximum(ball(40, 14), 8 - np.abs(ball(40, 0)))  # a ball with a hollow ball in it
    vertices, faces = surface_nets(shell)
    assert trimesh.Trimesh(vertices, faces, process=False).body_count == 2
    vertices, faces = surface_nets(without_pockets(shell))
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.body_count == 1 and mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.02)
    cup = shell.copy()
    cup[20:, 19:21, 19:21] = 1.0  # now the hollow is open
    assert np.array_equal(without_pockets(cup), cup)


def test_a_mesh_comes_back_from_where_it_was_moved() -> None:
    scene, mesh = toy_scene(), arm_mesh()
    there = mesh.at(scene.motion, "a", 0.3)
    assert float((there.vertices - mesh.vertices).norm(dim=1).max()) > 0.15
    assert torch.allclose(there.back_from(scene.motion, "a", 0.3).vertices, mesh.vertices, atol=1e-5)


def arm_mesh() -> SkinnedMesh:
    """A mesh through the toy's body and arm: its surfels' own places."""
    scene = toy_scene()
    vertices = scene.surfels.means[500:][::2]
    ids, weights = skinned_like(scene.surfels, vertices)
    assert ids is not None and weights is not None
    faces = torch.stack([torch.arange(len(vertices) - 2) + k for k in range(3)], 1)
    return SkinnedMesh(vertices, faces, torch.zeros_like(vertices), ids, weights)


def test_vertices_move_with_the_surfels_beside_them() -> None:
    scene, mesh = toy_scene(), arm_mesh()
    moved = mesh.at(scene.motion, "a", 0.3).vertices
    beside = scene.at("a", 0.3).means[500:][::2]
    assert float((moved - mesh.vertices).norm(dim=1).max()) > 0.15
    assert float((moved - beside).norm(dim=1).mean()) < 0.01
    assert torch.allclose(mesh.bone_weights.sum(1), torch.ones(len(mesh.vertices)))


def test_fitted_joints_skin_nearer_to_our_motion_than_the_bones_do() -> None:
    scene, mesh = toy_scene(), arm_mesh()
    joints = fitted_joints(mesh, scene.motion, "a")
    assert joints.residual_rms < 0.9 * joints.before_rms  # with many bones it is a third
    for sample, seconds in enumerate(joints.seconds.tolist()):
        wanted = mesh.at(scene.motion, "a", seconds).vertices
        off = (skinned_linearly(mesh, joints, sample) - wanted).norm(dim=1)
        assert float(off.max()) <= joints.residual_max + 1e-5
        assert float(off.max()) < 0.03  # of a subject about a unit in size
    turns = (joints.rotations[1:] * joints.rotations[:-1]).sum(-1)
    assert float(turns.min()) > 0.9  # no sign jumps between samples


def test_the_fit_of_joints_says_how_far_it_is() -> None:
    class Heard(Silent):
        steps: ClassVar[list[tuple[int, int]]] = []

        def emit(self, event: str, **fields: Any) -> None:
            assert event == "step" and fields["stage"] == "joints of clip a"
            self.steps.append((fields["step"], fields["total"]))

    scene = toy_scene()
    fitted_joints(arm_mesh(), scene.motion, "a", Heard())
    total = Heard.steps[0][1]
    assert Heard.steps == [(step, total) for step in range(1, total + 1)]


def test_rigid_motion_leaves_no_residual() -> None:
    scene, mesh = toy_scene(), arm_mesh()
    one = torch.zeros_like(mesh.bone_weights)
    one[:, 0] = 1.0
    mesh = SkinnedMesh(mesh.vertices, mesh.faces, mesh.colors, torch.ones_like(mesh.bone_ids), one)
    joints = fitted_joints(mesh, scene.motion, "a")
    assert joints.residual_max < 1e-4
