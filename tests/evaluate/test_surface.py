"""Distance and normals of a drawn sphere against a true one, with known errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.evaluate import surface
from fourdgen.evaluate.mesh import Mesh
from fourdgen.evaluate.truth import View
from fourdgen.geometry.camera import Cameras, intrinsics, look_at
from fourdgen.geometry.transforms import Sim3, quat_from_matrix, quat_multiply, so3_exp
from fourdgen.render import pick
from fourdgen.scene.motion import Still
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels, sh_from_rgb

WORLD = Sim3(0.7, so3_exp(torch.tensor([0.3, 1.0, -2.0]).double()), torch.tensor([0.1, -0.4, 0.2]).double())
SIZE = (96, 96)


def sphere_mesh() -> Mesh:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    return Mesh(np.asarray(ball.faces), np.asarray(ball.vertices)[None])


def sphere(radius: float = 1.0, tilt: float = 0.0, count: int = 4000, part: float = 1.0) -> Surfels:
    """Surfels on a sphere of the truth's world, each tilted by `tilt` degrees; `part`: how much of it from below."""
    i = torch.arange(count) + 0.5
    height, turn = (1 - 2 * i / count), math.pi * (1 + 5**0.5) * i
    ring = (1 - height**2).sqrt()
    normal = torch.stack([ring * turn.cos(), ring * turn.sin(), height], 1)
    normal = normal[height < 2 * part - 1] if part < 1 else normal
    side = torch.nn.functional.normalize(
        torch.linalg.cross(normal, torch.tensor([0.9, 0.5, 0.0]).expand_as(normal)), dim=1
    )
    axes = torch.stack([side, torch.linalg.cross(normal, side), normal], 2)
    lean = so3_exp(torch.tensor([math.radians(tilt), 0.0, 0.0]))
    axes = WORLD.rotation.float() @ axes @ lean
    n = len(normal)
    sigma = 1.2 * math.sqrt(4 * math.pi / count) / 2 * WORLD.scale
    return Surfels(WORLD.apply(radius * normal), quat_from_matrix(axes), torch.full((n, 2), math.log(sigma)),
                   torch.full((n,), 3.0), sh_from_rgb(torch.full((n, 3), 0.5)), torch.ones(n))  # fmt: skip


def scored(surfels: Surfels) -> surface.SurfaceScores:
    pose = look_at(torch.tensor([[0.5, -1.0, -4.0]]))
    K = intrinsics(38.0, SIZE)
    camera = Cameras(WORLD.move_cameras(pose), K[None], SIZE)
    clip = SceneClip("a", torch.zeros(1), torch.zeros(1).long(), camera, torch.ones(3), torch.zeros(3))
    scene = Scene4D(surfels, Still(), {"a": clip}, "a", WORLD)
    view = View(
        CameraEntry("v.png", pose[0].double(), K.double(), SIZE, "a", 0),
        "a",
        0.0,
        torch.ones(3, *SIZE),
        torch.ones(SIZE),
    )
    return surface.score(scene, "a", sphere_mesh(), [view], WORLD, pick("auto", "cpu"))


def test_the_surface_itself_scores_next_to_nothing() -> None:
    scores = scored(sphere())
    assert scores.chamfer is not None and scores.chamfer < 0.8  # percent: points of both sides are 0.3-1.5 % apart
    assert scores.normal_deg is not None and scores.normal_deg < 4  # triangles of the icosphere turn by 4 degrees


@pytest.mark.parametrize("off", [-0.05, 0.05])
def test_a_sphere_of_another_size_is_off_by_the_difference(off: float) -> None:
    scores = scored(sphere(1 + off))
    assert scores.accuracy == pytest.approx(5, abs=0.3)
    assert scores.completeness == pytest.approx(5, abs=0.6)  # discs stick out at the rim
    # A pixel near the outline sees another place of a larger sphere, whose normal differs by up to 18 degrees.
    assert scores.normal_deg is not None and scores.normal_deg < 10


@pytest.mark.parametrize("tilt", [10.0, 20.0])
def test_normals_that_lean_are_wrong_by_as_much(tilt: float) -> None:
    assert scored(sphere(tilt=tilt)).normal_deg == pytest.approx(tilt, abs=1.5)


def test_what_is_missing_costs_completeness_and_not_accuracy() -> None:
    scores = scored(sphere(part=0.7))
    assert scores.accuracy is not None and scores.accuracy < 0.9
    assert scores.completeness is not None and scores.completeness > 4


def test_what_nobody_can_see_does_not_count() -> None:
    """Surfels inside the sphere, and transparent ones around it, change nothing."""
    outer = sphere()
    inner, ghost = sphere(0.5, tilt=70.0), replace(sphere(1.4), opacity=torch.full((4000,), -4.0))
    parts = {name: torch.cat([getattr(s, name) for s in (outer, inner, ghost)])
             for name in ("means", "quats", "log_scales", "opacity", "sh", "confidence")}  # fmt: skip
    good, cluttered = scored(outer), scored(Surfels(**parts))
    assert cluttered.chamfer == pytest.approx(good.chamfer, abs=0.2)
    assert cluttered.normal_deg == pytest.approx(good.normal_deg, abs=1.0)


def test_an_empty_picture_has_no_surface() -> None:
    none = replace(sphere(), opacity=torch.full((4000,), -9.0))
    assert scored(none) == surface.SurfaceScores(None, None, None, None)


def test_turning_a_surfel_in_its_plane_changes_nothing() -> None:
    spin = quat_from_matrix(so3_exp(torch.tensor([0.0, 0.0, 1.0])))
    ball = sphere()
    turned = replace(ball, quats=quat_multiply(ball.quats, spin.expand(len(ball), 4)))
    assert scored(turned).normal_deg == pytest.approx(scored(ball).normal_deg, abs=0.3)
