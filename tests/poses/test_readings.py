"""Given cameras that do not fit the pictures: said, with what would mend them; right ones raise no doubt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fourdgen.geometry.camera import Cameras, look_at, orbit_eyes
from fourdgen.geometry.transforms import Sim3, rigid_inverse, so3_exp
from fourdgen.poses.hull_check import window_intrinsics
from fourdgen.poses.pictures import cut
from fourdgen.poses.readings import Filmed, doubt_of, readings
from tests.poses.subject import film, orbit

WORLD = Sim3(3.0, so3_exp(torch.tensor([1.5, 0.2, 0.1])).double(), torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64))
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))


def filmed(azimuth: torch.Tensor, elevation: torch.Tensor) -> Filmed:
    """A figure that swings its arm, by cameras in a world of their own."""
    count = len(azimuth)
    poses = look_at(orbit_eyes(azimuth, elevation, 4.0))
    cameras = Cameras(poses, orbit(azimuth).K, (96, 96))
    windows = cut(*film(cameras, waves=torch.sin(torch.arange(count).float())), 40)
    frames = torch.arange(count)
    K = window_intrinsics(windows, cameras.K, cameras.size)
    return Filmed(windows.picture[:, 3:], frames, WORLD.move_cameras(cameras.cam_from_world), K)


@pytest.fixture(scope="module")
def clips() -> dict[str, Filmed]:
    first, second = torch.linspace(0, 1, 10), torch.linspace(0, 1, 8)
    return {"a": filmed(230 * first**1.5, 70 * first - 10), "b": filmed(60 - 150 * second, 50 - 40 * second)}


def given(clips: dict[str, Filmed], **poses: torch.Tensor) -> dict[str, Filmed]:
    return {name: Filmed(c.masks, c.frames, poses.get(name, c.cam_from_world), c.K) for name, c in clips.items()}


def test_right_cameras_raise_no_doubt(clips: dict[str, Filmed]) -> None:
    assert doubt_of(clips) == ""
    assert doubt_of({"a": clips["a"]}) == ""


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda p: FLIP @ p, "with the other camera axes"),
        (lambda p: FLIP @ rigid_inverse(FLIP @ p), "inverted (world-to-camera"),
        (lambda p: p.flip(0), "in reversed order"),
        (lambda p: p.roll(3, 0), "shifted by"),
    ],
)
def test_the_usual_mistakes_are_named(
    clips: dict[str, Filmed], mistake: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    doubt = doubt_of(given({"a": clips["a"]}, a=mistake(clips["a"].cam_from_world)))
    assert words in doubt and "(--cameras" in doubt


def test_clips_that_were_exchanged_are_named(clips: dict[str, Filmed]) -> None:
    first, second = clips["a"].cam_from_world, clips["b"].cam_from_world
    wrong = given(clips, a=second[[0, 1, 2, 3, 3, 4, 5, 6, 7, 7]], b=first[[0, 1, 3, 4, 5, 6, 8, 9]])
    assert "with a and b exchanged" in doubt_of(wrong)


def test_cameras_that_nothing_mends_are_told_by_what_no_shape_fits(clips: dict[str, Filmed]) -> None:
    aside = torch.eye(4)
    aside[:3, :3] = so3_exp(torch.tensor([0.0, 1.6, 0.0]))
    doubt = doubt_of(given({"a": clips["a"]}, a=aside @ clips["a"].cam_from_world))
    assert doubt.startswith("no shape fits the given cameras: a to ") and "(--cameras" in doubt


def test_a_still_camera_has_no_order(clips: dict[str, Filmed]) -> None:
    """Nor a second one beside it: whatever is exchanged in time stays the same."""
    one = clips["a"].cam_from_world[:1].expand(10, 4, 4)
    for said, poses in readings({"a": one}):
        if "frames" in said:
            assert torch.equal(poses["a"], one)
