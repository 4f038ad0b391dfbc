"""Slow motion of a whole body is handed to the cameras; what is filmed stays as it is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fourdgen.data.capture import Capture, Clip
from fourdgen.data.records import ClipTrack
from fourdgen.fit import gauge, rounds
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import (
    dual_quat,
    quat_from_matrix,
    rigid_inverse,
    rotation_angle_degrees,
    so3_exp,
)
from fourdgen.render import draw
from fourdgen.scene.bones import ClipTime
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D, SceneClip
from tests.toy import SIZE, ellipsoid, joined

SECONDS = torch.arange(48) / 24


def swinging(drift: float) -> Scene4D:
    """A trunk that swings by 4 degrees three times a second, an arm that waves widely and slowly, both turned further
    and shifted by `drift` times a slow motion; the cameras make up for that, so that pictures do not know of it."""
    trunk = ellipsoid([0, 0, 0], [0.3, 0.6, 0.3], 500, [[0.8, 0.3, 0.2], [0.2, 0.3, 0.8]])
    arm = ellipsoid([0.5, 0, 0], [0.3, 0.08, 0.08], 150, [[0.2, 0.8, 0.2], [0.9, 0.9, 0.2]])
    surfels = joined([trunk, arm])
    ids = torch.zeros(len(surfels), 4, dtype=torch.int32)
    ids[500:, 0] = 1
    weights = torch.tensor([1.0, 0, 0, 0]).expand(len(surfels), 4).contiguous()
    surfels = replace(surfels, bone_ids=ids, bone_weights=weights)
    axis = torch.tensor([0.0, 1.0, 0.0])
    swing = math.radians(4) * torch.sin(2 * math.pi * 3 * SECONDS)[:, None] * axis
    wave = math.radians(40) * torch.sin(math.pi * SECONDS)[:, None] * torch.tensor([0.0, 0.0, 1.0])
    slow = torch.cos(math.pi * SECONDS / 2)[:, None]
    turn, shift = drift * 0.2 * slow * torch.tensor([0.3, 1.0, 0.0]), drift * 0.1 * slow * torch.tensor([1.0, 0, 0.5])
    bones = []
    for local in (swing, wave):
        whole = quat_from_matrix(so3_exp(turn) @ so3_exp(local))
        bones.append(dual_quat(whole, shift))
    eyes = orbit_eyes(torch.linspace(0, 200, 48), 15.0, 3.2)
    drifted = torch.eye(4).repeat(48, 1, 1)
    drifted[:, :3, :3], drifted[:, :3, 3] = so3_exp(turn), shift
    poses = look_at(eyes) @ rigid_inverse(drifted)
    cameras = Cameras(poses, intrinsics(38.0, SIZE).expand(48, 3, 3).clone(), SIZE)
    clip = SceneClip("a", SECONDS, torch.arange(48), cameras, torch.ones(3), torch.zeros(3))
    motion = SampledBones({"a": SECONDS}, {"a": torch.stack(bones, 1)}, torch.zeros(2, 3))
    return Scene4D(surfels, motion, {"a": clip}, "a")


def camera_error(scene: Scene4D, wanted: Scene4D, clip: str = "a") -> float:
    """Largest change of the angle to the first camera (degrees): a gauge for the whole clip does not count."""
    found, true = (s.clips[clip].cameras.cam_from_world[:, :3, :3] for s in (scene, wanted))
    relative = found.transpose(1, 2) @ true
    return float(rotation_angle_degrees(relative[24:25].expand(48, 3, 3), relative).max())


def test_a_slow_drift_goes_to_the_cameras_and_pictures_stay() -> None:
    wanted, mixed = swinging(0.0), swinging(1.0)
    times = {"a": ClipTime(SECONDS, "a")}
    assert camera_error(mixed, wanted) > 10
    found, drifts = gauge.settled(mixed, times, ())
    assert camera_error(found, wanted) < 1.5
    for t in (0, 17, 40):
        pictures = [draw(s.at("a", float(SECONDS[t])), s.clips["a"].cameras[t]).rgb for s in (mixed, found)]
        assert float((pictures[0] - pictures[1]).abs().max()) < 2e-3
    undone = found.clips["a"].cameras.cam_from_world.double() @ rigid_inverse(drifts["a"])
    assert torch.allclose(undone.float(), mixed.clips["a"].cameras.cam_from_world, atol=1e-5)


def test_what_swings_fast_stays_with_the_body() -> None:
    wanted = swinging(0.0)
    found, drifts = gauge.settled(wanted, {"a": ClipTime(SECONDS, "a")}, ())
    turned = rotation_angle_degrees(torch.eye(3, dtype=torch.float64).expand(48, 3, 3), drifts["a"][:, :3, :3])
    assert float(turned.max()) < 1.0  # the trunk swings by 4, the arm waves by 40
    assert float(found.at("a", 0.1).means.sub(wanted.at("a", 0.1).means).norm(dim=1).max()) < 0.02


def test_fixed_clips_and_short_ones_stay_and_synchronised_ones_move_as_one() -> None:
    scene = swinging(1.0)
    assert gauge.settled(scene, {"a": ClipTime(SECONDS, "a")}, ["a"])[1] == {}
    a = scene.clips["a"]
    late = replace(a, name="b", seconds=SECONDS - 0.5)  # b's clock runs half a second behind
    assert isinstance(scene.motion, SampledBones)
    poses = dict.fromkeys("ab", scene.motion.dual_quats["a"])
    motion = replace(scene.motion, seconds={"a": SECONDS, "b": SECONDS - 0.5}, dual_quats=poses)
    both = replace(scene, clips={"a": a, "b": late}, motion=motion)
    times = {"a": ClipTime(SECONDS, "a"), "b": ClipTime(SECONDS - 0.5, "a", offset=0.5)}
    found, drifts = gauge.settled(both, times, ())
    assert torch.allclose(drifts["a"], drifts["b"], atol=1e-6)
    assert torch.allclose(found.at("a", 1.0).means, found.at("b", 0.5).means, atol=1e-5)
    assert gauge.settled(both, times, ["b"])[1] == {}
    short = replace(a, seconds=SECONDS / 8)
    brief = replace(scene, clips={"a": short}, motion=replace(scene.motion, seconds={"a": SECONDS / 8}))
    assert gauge.settled(brief, {"a": ClipTime(SECONDS / 8, "a")}, ())[1] == {}


def test_a_drift_that_only_a_synchronised_clip_shows_goes_to_its_cameras() -> None:
    """b films the last 1.2 of 2 seconds by a clock of its own, a the first 1.2: their drift is that of the whole."""

    def filmed_twice(scene: Scene4D) -> Scene4D:
        whole, motion = scene.clips["a"], scene.motion
        assert isinstance(motion, SampledBones)
        parts = {"a": slice(0, 29), "b": slice(19, 48)}
        seconds = {"a": SECONDS[:29], "b": SECONDS[19:] - SECONDS[19]}
        clips = {n: replace(whole, name=n, seconds=seconds[n], cameras=whole.cameras[p]) for n, p in parts.items()}
        poses = {n: motion.dual_quats["a"][p] for n, p in parts.items()}
        return replace(scene, clips=clips, motion=replace(motion, seconds=seconds, dual_quats=poses))

    wanted, mixed = filmed_twice(swinging(0.0)), filmed_twice(swinging(1.0))
    times = {"a": ClipTime(SECONDS[:29], "a"), "b": ClipTime(mixed.clips["b"].seconds, "a", offset=float(SECONDS[19]))}
    found, _ = gauge.settled(mixed, times, ())
    paths = []
    for scene in (mixed, found, wanted):
        both = [scene.clips["a"].cameras.cam_from_world, scene.clips["b"].cameras.cam_from_world[10:]]
        paths.append(torch.cat(both)[:, :3, :3])
    off = [p.transpose(1, 2) @ paths[2] for p in paths[:2]]  # a turn of the whole world does not count
    before, after = (float(rotation_angle_degrees(o[24:25].expand(48, 3, 3), o).max()) for o in off)
    assert before > 10 and after < 1.5


def test_a_round_trains_in_the_frame_that_it_takes_up(tmp_path: Path) -> None:
    mixed = swinging(1.0)
    found, drifts = gauge.settled(mixed, {"a": ClipTime(SECONDS, "a")}, ())
    cameras = found.clips["a"].cameras
    some = Cameras(cameras.cam_from_world[::3], cameras.K[::3], cameras.size)
    made = Capture(
        (Clip("a-view1", "a", SIZE, SECONDS[::3], torch.arange(16), origin="imagined", cameras=some),), tmp_path
    )
    track = ClipTrack(cameras.cam_from_world, cameras.K, torch.ones(48))
    tracks = rounds.with_views({"a": track}, found, made, drifts)
    before = mixed.clips["a"].cameras.cam_from_world
    assert torch.allclose(tracks["a"].cam_from_root, before, atol=1e-5)
    assert torch.allclose(tracks["a-view1"].cam_from_root, before[::3], atol=1e-5)
    assert float((rounds.with_views({"a": track}, found, made, {})["a"].cam_from_root - before).abs().max()) == (
        pytest.approx(float((cameras.cam_from_world - before).abs().max()))
    )
