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
from fourdgen.geometry.transforms import Sim3, dual_quat, quat_from_matrix, quat_multiply, so3_exp
from fourdgen.render import pick
from fourdgen.scene.motion import Motion, SampledBones, Still
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels, sh_from_rgb

WORLD = Sim3(0.7, so3_exp(torch.tensor([0.3, 1.0, -2.0]).double()), torch.tensor([0.1, -0.4, 0.2]).double())
SIZE = (96, 96)
STILL = Still()


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


def scored(surfels: Surfels, motion: Motion = STILL, frames: int = 1) -> surface.SurfaceScores:
    """Of an asset whose truth stands still; `frames` held-out pictures, a tenth of a second apart."""
    pose = look_at(torch.tensor([[0.5, -1.0, -4.0]]))
    K = intrinsics(38.0, SIZE)
    times = torch.arange(frames) / 10
    camera = Cameras(WORLD.move_cameras(pose).expand(frames, 4, 4), K[None].expand(frames, 3, 3), SIZE)
    clip = SceneClip("a", times, torch.arange(frames), camera, torch.ones(3), torch.zeros(3))
    scene = Scene4D(surfels, motion, {"a": clip}, "a", WORLD)
    views = [
        View(
            CameraEntry("v.png", pose[0].double(), K.double(), SIZE, "a", frame),
            "a",
            float(times[frame]),
            torch.ones(3, *SIZE),
            torch.ones(SIZE),
        )
        for frame in range(frames)
    ]
    ball = sphere_mesh()
    mesh = Mesh(ball.faces, np.repeat(ball.vertices, frames, 0))
    return surface.score(scene, "a", mesh, views, WORLD, pick("auto", "cpu"))


def joined(*parts: Surfels) -> Surfels:
    names = ("means", "quats", "log_scales", "opacity", "sh", "confidence")
    return Surfels(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def floating(away: float, size: float = 0.3) -> Surfels:
    """A ball of `size` radii whose middle is `away` radii from the subject's, of as many surfels by area."""
    ball = sphere(size, count=round(4000 * size**2))
    shift = WORLD.apply(torch.tensor([[away, 0.0, 0.0]])) - WORLD.apply(torch.zeros(1, 3))
    return replace(ball, means=ball.means + shift, log_scales=ball.log_scales + math.log(size))


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
    good, cluttered = scored(outer), scored(joined(outer, inner, ghost))
    assert cluttered.chamfer == pytest.approx(good.chamfer, abs=0.2)
    assert cluttered.normal_deg == pytest.approx(good.normal_deg, abs=1.0)


@pytest.mark.parametrize("away", [1.6, 3.0, 40.0])
def test_what_floats_far_away_costs_accuracy_by_its_area(away: float) -> None:
    """A ball of 0.3 radii has 0.09 of the subject's area, so 0.083 of all that is drawn is off by `away` less 1, but
    by no more than the radius."""
    scores = scored(joined(sphere(), floating(away)))
    assert scores.accuracy is not None
    off = 100 * min(away - 0.98, 1)
    assert scores.accuracy == pytest.approx(0.083 * off + 0.3, rel=0.2)
    assert scores.completeness is not None and scores.completeness < 0.8


def test_floaters_on_both_sides_cost_twice_as_much() -> None:
    scores = scored(joined(sphere(), floating(3.0), floating(-3.0)))
    assert scores.accuracy == pytest.approx(100 * 0.18 / 1.18, rel=0.15)


def test_transparent_floaters_cost_nothing() -> None:
    ghost = replace(floating(3.0), opacity=torch.full((360,), -4.0))
    scores = scored(joined(sphere(), ghost))
    assert scores.accuracy is not None and scores.accuracy < 0.8


def test_an_empty_picture_is_as_far_off_as_can_be() -> None:
    none = replace(sphere(), opacity=torch.full((4000,), -9.0))
    assert scored(none) == surface.SurfaceScores(100, 100, 100, None)


def test_instants_without_the_subject_count_as_missed() -> None:
    """An asset that is gone at one of two instants scores half of the worst, and not what a perfect one does."""
    ball = sphere()
    ids, weights = torch.zeros(len(ball), 4).int(), torch.eye(4)[:1].expand(len(ball), 4).contiguous()
    ball = replace(ball, bone_ids=ids, bone_weights=weights)
    shifts = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1e9]])
    turns = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(2, 4)
    leaving = SampledBones({"a": torch.arange(2) / 10}, {"a": dual_quat(turns, shifts)[:, None]}, torch.zeros(1, 3))
    gone = scored(ball, leaving, frames=2)
    assert gone.completeness == pytest.approx(50, abs=1)
    assert gone.accuracy == pytest.approx(50, abs=1)


def test_turning_a_surfel_in_its_plane_changes_nothing() -> None:
    spin = quat_from_matrix(so3_exp(torch.tensor([0.0, 0.0, 1.0])))
    ball = sphere()
    turned = replace(ball, quats=quat_multiply(ball.quats, spin.expand(len(ball), 4)))
    assert scored(turned).normal_deg == pytest.approx(scored(ball).normal_deg, abs=0.3)
