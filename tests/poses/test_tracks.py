"""Poses of windows and of pictures, between frames, and on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fourdgen.data.records import Alignment, ClipAlignment, ClipTrack, RootTrack
from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.geometry.transforms import Sim3, rotation_angle_degrees, so3_exp
from fourdgen.poses import store, tracks
from fourdgen.poses.hypotheses import about_vertical, azimuths, stretched
from fourdgen.poses.pictures import cut
from tests.poses.subject import film, orbit


def test_places_and_poses_are_inverse() -> None:
    rotation = so3_exp(torch.randn(7, 3))
    place = torch.randn(7, 3) * 0.1
    poses = tracks.poses_of(rotation, place, 1.3, 0.4)
    assert torch.allclose(tracks.places_of(poses, 1.3, 0.4), place, atol=1e-5)


def test_between_keeps_solved_frames_and_turns_evenly_between_them() -> None:
    angle = torch.tensor([0.0, 40.0, 80.0])
    rotation = look_at(orbit_eyes(angle, 10.0, 1.0))[:, :3, :3]
    place = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
    frames, center = torch.tensor([0, 4, 8]), torch.zeros(3, 2)
    turned, placed = tracks.between(rotation, place, frames, torch.arange(10.0), 1.2, center, torch.zeros(10, 2))
    assert float(rotation_angle_degrees(turned[frames], rotation).max()) < 0.05
    assert torch.allclose(placed[frames], place, atol=1e-6)
    step = rotation_angle_degrees(turned[:4], turned[1:5])
    assert float(step.max() - step.min()) < 0.1
    assert torch.equal(turned[8], turned[9])  # held beyond the end
    time = torch.tensor([0.0, 1, 2, 3, 8, 9, 10, 11, 12, 13])  # frames are missing between the fourth and the fifth
    late, _ = tracks.between(rotation, place, frames, time, 1.2, center, torch.zeros(10, 2))
    turn = rotation_angle_degrees(late[:1], late[:5])
    assert torch.allclose(turn / turn[-1], time[:5] / 8, atol=0.01)


def test_azimuth_grows_with_the_orbit_and_stretches() -> None:
    rotation = look_at(orbit_eyes(torch.linspace(0, 300, 21), 15.0, 1.0))[:, :3, :3]
    angle = torch.rad2deg(azimuths(rotation))
    assert torch.allclose(angle - angle[0], torch.linspace(0, 300, 21), atol=0.1)
    wider = torch.rad2deg(azimuths(stretched(rotation, 1.2)))
    assert abs(float(wider[-1] - wider[0]) - 360) < 0.2
    moved = torch.rad2deg(azimuths(rotation @ about_vertical(torch.full((21,), 0.1))))
    assert torch.allclose(moved - angle, torch.full((21,), 5.7296), atol=0.01)


def test_a_window_shows_what_its_camera_says() -> None:
    """A point projected by the picture's camera, moved into the window, is where the window's K puts it."""
    cameras = orbit(torch.tensor([20.0]))
    rgb, mask = film(cameras)
    shifted = torch.nn.functional.pad(torch.from_numpy(mask), (40, 0, 12, 0)).numpy()  # off-centre, not square
    rgb = torch.nn.functional.pad(torch.from_numpy(rgb).permute(0, 3, 1, 2), (40, 0, 12, 0)).permute(0, 2, 3, 1).numpy()
    pictures = cut(rgb, shifted, 48)
    K = pictures.intrinsics(torch.tensor([1.0]))[0]
    ys, xs = (pictures.picture[0, 3] > 0.5).nonzero().T.float()
    middle = (torch.stack([xs.min() + xs.max(), ys.min() + ys.max()]) + 1) / 2
    seen = (middle - K[:2, 2]) / K[0, 0]
    assert torch.allclose(seen, pictures.center[0], atol=0.02)
    assert abs(float(K[0, 0]) - float(pictures.unit[0])) < 1e-6


def test_artifacts_load_as_they_were_saved(tmp_path: Path) -> None:
    clip = ClipAlignment(
        torch.randn(4, 4, 4),
        torch.randn(4, 3, 3),
        torch.rand(4),
        torch.rand(3),
        torch.rand(3),
        "b/ä",
        0.25,
        1.5,
        False,
        "why",
    )
    world = Sim3(2.5, so3_exp(torch.randn(3)).double(), torch.randn(3).double())
    alignment = Alignment({"a:1": clip}, "a:1", world, True, {"c": "not the same"})
    store.save_alignment(alignment, tmp_path)
    loaded = store.load_alignment(tmp_path)
    _same(loaded.clips["a:1"], clip)
    assert (loaded.reference, loaded.given, loaded.left_out) == ("a:1", True, {"c": "not the same"})
    assert loaded.world_from_input is not None
    assert torch.equal(loaded.world_from_input.matrix(), world.matrix())
    track = RootTrack({"a:1": ClipTrack(clip.cam_from_root, clip.K, clip.confidence)}, None, False, False, "because")
    store.save_track(track, tmp_path)
    again = store.load_track(tmp_path)
    _same(again.clips["a:1"], track.clips["a:1"])
    assert (again.world_from_input, again.given, again.certain, again.reason) == (None, False, False, "because")
    bobbing = replace(track, clips={"a:1": replace(track.clips["a:1"], bob=torch.randn(4, 2))})
    store.save_track(bobbing, tmp_path)
    _same(store.load_track(tmp_path).clips["a:1"], bobbing.clips["a:1"])


def test_a_bobbing_track_has_what_was_taken_out_of_it_again() -> None:
    poses = torch.eye(4).repeat(3, 1, 1)
    track = ClipTrack(poses, torch.eye(3).repeat(3, 1, 1), torch.ones(3))
    assert track.bobbing() is track
    bob = torch.randn(3, 2)
    measured = replace(track, bob=bob).bobbing()
    assert torch.equal(measured.cam_from_root[:, :2, 3], bob) and measured.bob is None
    assert torch.equal(measured.cam_from_root[:, 2], poses[:, 2]) and torch.equal(poses, torch.eye(4).repeat(3, 1, 1))


def _same(a: object, b: object) -> None:
    for key, value in vars(b).items():
        other = getattr(a, key)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, key


def test_a_steadied_camera_keeps_its_slow_path_and_loses_what_bobs() -> None:
    seconds = torch.arange(48) / 24
    slow = torch.stack([0.1 * torch.sin(2 * seconds), 0.1 * torch.cos(seconds), 3.5 + 0.2 * torch.cos(2 * seconds)], 1)
    bob = 0.04 * torch.sin(2 * torch.pi * 3 * seconds)[:, None] * torch.tensor([1.0, 1.0, 3.0])
    middle = slice(3, -3)
    assert float((tracks.steadied(slow, seconds, torch.ones(48)) - slow)[middle].abs().max()) < 0.008
    left = tracks.steadied(slow + bob, seconds, torch.ones(48)) - slow
    assert float(left[middle].square().mean().sqrt()) < 0.15 * float(bob.square().mean().sqrt())
    # Twice the frames a second: the same path, the same bob.
    finer = torch.nn.functional.interpolate((slow + bob).T[None], size=95, mode="linear", align_corners=True)[0].T
    again = tracks.steadied(finer, torch.arange(95) / 47.5, torch.ones(95))[::2]
    assert float((again - slow)[middle].square().mean().sqrt()) < 0.15 * float(bob.square().mean().sqrt())
    # Every third frame from the middle on: the same slow path, which is bent if these count as neighbours like others.
    some = torch.tensor([i for i in range(48) if i < 24 or i % 3 == 0])
    fewer = tracks.steadied(slow[some], seconds[some], torch.ones(len(some)))
    assert float((fewer - slow[some])[middle].abs().max()) < 0.008
    assert torch.equal(tracks.steadied(slow[:3], seconds[:3], torch.ones(3)), slow[:3])


def test_frames_without_a_subject_lie_between_their_neighbours_and_pull_at_none() -> None:
    """A camera that arcs past a subject, which nothing shows for 10 of 40 frames. Times are uneven."""
    seconds = torch.cat([torch.arange(15) / 24, 15 / 24 + torch.arange(25) / 12])
    path = torch.stack([0.3 * torch.sin(2 * seconds), 0.2 * torch.cos(1.5 * seconds), torch.full((40,), 4.0)], 1)
    shown = torch.tensor([i for i in range(40) if not 10 <= i < 20])
    center = path[shown, :2]
    filled = tracks.centers_between(center, shown, seconds)
    assert torch.equal(filled[shown], center)
    share = (seconds[10:20] - seconds[9]) / (seconds[20] - seconds[9])
    wanted = path[9, :2] + share[:, None] * (path[20, :2] - path[9, :2])
    assert torch.allclose(filled[10:20], wanted, atol=1e-6)
    late = tracks.centers_between(center[4:], shown[4:], seconds)
    assert torch.equal(late[:4], center[4:5].expand(4, 2))  # held before the first
    guessed = torch.cat([filled, path[:, 2:]], 1)
    weight = torch.full((40,), tracks.GUESSED)
    weight[shown] = 1.0
    error = (tracks.steadied(guessed, seconds, weight) - path).abs().amax(1)
    smeared = (tracks.steadied(guessed, seconds, torch.ones(40)) - path).abs().amax(1)
    near = [7, 8, 9, 20, 21, 22]
    assert float(error[near].mean()) < 0.65 * float(smeared[near].mean())
    assert float(error[near].max()) < 0.015
