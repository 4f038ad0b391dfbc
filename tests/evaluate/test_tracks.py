"""Meshes, what is seen of them, and the track error, on a cube with a known motion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.evaluate.mesh import Mesh, Points, rasterize, scatter, surround, visible
from fourdgen.evaluate.tracks import TrackScores, track_error
from fourdgen.geometry.camera import Cameras, intrinsics, look_at
from fourdgen.geometry.transforms import Sim3, dual_quat, quat_exp, quat_from_matrix, so3_exp
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels, sh_from_rgb

FRAMES = 9
QUARTER = 0.2  # half side of each cube
CUBES = np.array([[-0.6, 0.0, 0.0], [0.6, 0.0, 0.0]])
WORLD = Sim3(0.7, so3_exp(torch.tensor([0.3, 1.0, -2.0]).double()), torch.tensor([0.1, -0.4, 0.2]).double())


def cube(center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners [8 3] and outward triangles [12 3] of an axis-aligned cube."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * QUARTER + center
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([tri for a, b, c, d in quads for tri in ((a, b, c), (a, c, d))])


def angle(frame: float) -> float:
    return 0.8 * math.sin(2 * math.pi * frame / (FRAMES - 1))


def two_cubes(moving: bool = True) -> Mesh:
    """Cube 0 stands still, cube 1 swings about the z axis through the origin."""
    (first, faces), (second, more) = cube(CUBES[0]), cube(CUBES[1])
    frames = []
    for frame in range(FRAMES):
        turn = so3_exp(torch.tensor([0.0, 0.0, angle(frame) if moving else 0.0]).double()).numpy()
        frames.append(np.concatenate([first, second @ turn.T]))
    return Mesh(np.concatenate([faces, more + 8]), np.stack(frames))


def asset(turn: Callable[[float], float] = angle, world: Sim3 = WORLD, opacity: float = 4.0) -> Scene4D:
    """Surfels on both cubes, each held by its own bone; `turn` is how far cube 1 is turned at a frame."""
    points = np.concatenate([scatter(Mesh(faces, corners[None]), 0, 1500).at(Mesh(faces, corners[None]), 0)
                             for corners, faces in map(cube, CUBES)])  # fmt: skip
    root = world.apply(torch.from_numpy(points)).float()
    n = len(root)
    quat = quat_from_matrix(so3_exp(torch.tensor([0.2, 0.1, 0.4]))).expand(n, 4).contiguous()
    ids = (torch.arange(n) >= n // 2).int()[:, None].expand(n, 4).contiguous()
    weights = torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous()
    surfels = Surfels(root, quat, torch.full((n, 2), -4.0), torch.full((n,), opacity), sh_from_rgb(torch.rand(n, 3)),
                      torch.ones(n), ids, weights)  # fmt: skip
    seconds = torch.arange(FRAMES) / 10
    poses = []
    for frame in range(FRAMES):
        axis = (world.rotation @ torch.tensor([0.0, 0.0, 1.0]).double()) * turn(frame)
        quaternion = quat_exp(axis[None].float())
        pivot = world.apply(torch.zeros(1, 3).double()).float()
        rotation = so3_exp(axis).float()
        swing = dual_quat(quaternion, pivot - pivot @ rotation.T)
        poses.append(torch.cat([torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]]), swing]))
    motion = SampledBones({"a": seconds}, {"a": torch.stack(poses)}, torch.zeros(2, 3))
    eyes = torch.tensor([[0.0, 0.0, -5.0]]).expand(FRAMES, 3)
    cameras = Cameras(look_at(eyes), intrinsics(40.0, (64, 64)).expand(FRAMES, 3, 3).clone(), (64, 64))
    clip = SceneClip("a", seconds, torch.arange(FRAMES), cameras, torch.ones(3), torch.zeros(3))
    return Scene4D(surfels, motion, {"a": clip}, "a")


def test_an_asset_that_moves_as_the_truth_has_no_track_error() -> None:
    scores = track_error(asset(), "a", two_cubes(), WORLD)
    assert scores.all is not None and scores.all < 1e-3  # meshes and poses are float32 sums
    assert scores.fast is not None and scores.fast < 1e-3
    assert scores.covered == 1.0
    assert scores.hidden is None  # nobody filmed, so nothing is known to be hidden


def test_an_asset_that_stands_still_is_wrong_by_all_of_the_motion() -> None:
    scores = track_error(asset(lambda frame: 0.0), "a", two_cubes(), WORLD)
    assert scores.all == pytest.approx(1.0, abs=0.02)
    assert scores.fast == pytest.approx(1.0, abs=0.02)


def test_frames_that_were_not_filmed_are_not_scored() -> None:
    """An asset of the second half of the truth's frames: that it knows nothing of the first half is no error."""
    scene, half = asset(), slice(FRAMES // 2, None)
    clip, motion = scene.clips["a"], scene.motion
    assert isinstance(motion, SampledBones)
    clips = {"a": replace(clip, seconds=clip.seconds[half], frame_ids=clip.frame_ids[half], cameras=clip.cameras[half])}
    poses = SampledBones({"a": clips["a"].seconds}, {"a": motion.dual_quats["a"][half]}, motion.centers)
    scores = track_error(replace(scene, clips=clips, motion=poses), "a", two_cubes(), WORLD)
    assert scores.all is not None and scores.all < 1e-3
    after = replace(clips["a"], frame_ids=clips["a"].frame_ids + FRAMES)
    later = track_error(replace(scene, clips={"a": after}, motion=poses), "a", two_cubes(), WORLD)
    assert later == TrackScores(None, None, None, None)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_damped_motion_is_wrong_by_what_is_missing(share: float) -> None:
    scores = track_error(asset(lambda frame: (1 - share) * angle(frame)), "a", two_cubes(), WORLD)
    assert scores.all == pytest.approx(share, rel=0.08)  # chords are not arcs


def test_a_turn_of_the_whole_surfel_set_is_no_motion() -> None:
    """The world's scale and rotation drop out: the same asset in another world scores the same."""
    other = Sim3(2.3, so3_exp(torch.tensor([1.0, 0.0, 0.5]).double()), torch.tensor([0.0, 2.0, 0.0]).double())
    here = track_error(asset(lambda f: 0.5 * angle(f)), "a", two_cubes(), WORLD)
    there = track_error(asset(lambda f: 0.5 * angle(f), other), "a", two_cubes(), other)
    assert here.all == pytest.approx(there.all, rel=1e-3)


def test_only_opaque_surfels_carry_points() -> None:
    """Transparent surfels that follow the truth do not hide that the opaque ones stand still."""
    good, bad = asset(), asset(lambda frame: 0.0)
    assert good.surfels.bone_ids is not None and bad.surfels.bone_ids is not None
    parts = {}
    for name in ("means", "quats", "log_scales", "sh", "confidence", "bone_weights"):
        parts[name] = torch.cat([getattr(good.surfels, name), getattr(bad.surfels, name)])
    parts["means"][len(good.surfels) :] += 0.01  # a little farther away than the transparent ones
    parts["opacity"] = torch.cat([torch.full((3000,), -2.0), torch.full((3000,), 2.0)])
    still = bad.surfels.bone_ids * 0
    parts["bone_ids"] = torch.cat([good.surfels.bone_ids, still])
    scene = Scene4D(Surfels(**parts), good.motion, good.clips, "a")
    assert track_error(scene, "a", two_cubes(), WORLD).all == pytest.approx(1.0, abs=0.02)


def test_a_surface_that_does_not_move_has_no_track_error() -> None:
    assert track_error(asset(lambda frame: 0.0), "a", two_cubes(moving=False), WORLD) == TrackScores(
        None, None, None, 1.0
    )


def filmed_from(x: float) -> list[CameraEntry]:
    """A still camera on the x axis: of two cubes in a row it sees the one on its own side."""
    pose = look_at(torch.tensor([[x, 0.0, 0.0]]))[0].double()
    K = intrinsics(40.0, (128, 128)).double()
    return [CameraEntry(f"a/{frame}.png", pose, K, (128, 128), "a", frame) for frame in range(FRAMES)]


def test_what_the_filming_camera_does_not_see_is_scored_apart() -> None:
    """Cube 1 moves as it should, cube 0 drifts: that is hidden from the side of cube 1, in the open from the other."""
    right = asset()
    away = dual_quat(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 0.0, 0.3]]))[0]
    poses = right.motion.dual_quats["a"].clone()
    poses[1::2, 0] = away
    scene = replace(right, motion=replace(right.motion, dual_quats={"a": poses}))
    behind = track_error(scene, "a", two_cubes(), WORLD, filmed_from(4.0))
    before = track_error(scene, "a", two_cubes(), WORLD, filmed_from(-4.0))
    assert behind.all == before.all
    assert behind.hidden is not None and before.hidden is not None
    assert behind.hidden > 1.5 * before.hidden
    everything_right = track_error(right, "a", two_cubes(), WORLD, filmed_from(4.0))
    assert everything_right.hidden is not None and everything_right.hidden < 1e-3


def test_a_cube_is_drawn_where_it_is() -> None:
    corners, faces = cube(np.zeros(3))
    mesh = Mesh(faces, corners[None])
    camera = Cameras(look_at(torch.tensor([[0.0, 0.0, -2.0]])), intrinsics(40.0, (64, 64))[None], (64, 64))
    depth, face = rasterize(mesh, 0, camera)
    focal = float(camera.K[0, 0, 0])
    side = 2 * QUARTER * focal / (2 - QUARTER)  # of the near face on the screen
    assert np.isfinite(depth).sum() == pytest.approx(side**2, rel=0.05)
    assert np.allclose(depth[np.isfinite(depth)], 2 - QUARTER)  # the back is covered by the front
    assert set(face[face >= 0].tolist()) == {0 + 8, 1 + 8}  # the two triangles of the face towards -z


def test_a_point_is_seen_from_its_own_side_only() -> None:
    corners, faces = cube(np.zeros(3))
    mesh = Mesh(faces, corners[None])
    third = np.full((len(faces), 3), 1 / 3)
    points = Points(np.arange(len(faces)), third)
    cameras = surround(mesh.center, mesh.radius)
    seen = visible(mesh, 0, points.at(mesh, 0), cameras)
    normals = points.at(mesh, 0) / np.linalg.norm(points.at(mesh, 0), axis=1, keepdims=True)
    axis = np.zeros_like(normals)
    rows, side = np.arange(len(axis)), np.abs(normals).argmax(1)
    axis[rows, side] = np.sign(normals[rows, side])
    towards = cameras.centers().numpy()[:, None] - points.at(mesh, 0)[None]
    faces_camera = (towards * axis).sum(-1) / np.linalg.norm(towards, axis=-1)
    clear = np.abs(faces_camera) > 0.2  # at a grazing angle a pixel is too coarse to tell
    assert (seen == (faces_camera > 0))[clear].all()
    assert seen.any(0).all()
