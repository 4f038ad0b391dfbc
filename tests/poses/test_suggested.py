"""A suggested path is one more start: a right one wins, a wrong one does not, and none overrules a person."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import rotation_angle_degrees, so3_exp
from fourdgen.poses.accept import global_turn
from fourdgen.poses.candidates import SearchSettings
from fourdgen.poses.level import tilt
from fourdgen.poses.pictures import cut
from fourdgen.poses.search import ClipSolution, solve_clip
from fourdgen.poses.suggested import NAME, Suggested, suggest
from fourdgen.priors.geometry import Predicted
from tests.poses.subject import FOV, SIZE, film, orbit

TINY = SearchSettings(side=24, surfels=200, effort=0.05)  # too few steps for an orbit to come near by itself
TIME = torch.linspace(0, 1, 16)
AZIMUTH = -190 * TIME
TILTED = so3_exp(torch.tensor([0.4, 1.0, -0.7]))  # the world of a network points anywhere


class Knowing:
    """Says cameras that it was told."""

    def __init__(self, cam_from_root: Float[Tensor, "t 4 4"], confidence: Tensor | None = None) -> None:
        self.poses = cam_from_root.clone()
        self.poses[:, :3, :3] = cam_from_root[:, :3, :3] @ TILTED
        self.confidence = torch.ones(len(self.poses)) if confidence is None else confidence
        self.shown: list[int] = []

    def cameras(self, rgb: np.ndarray, mask: np.ndarray) -> Predicted:
        self.shown.append(len(rgb))
        K = torch.tensor([[96 * 1.5, 0, 48], [0, 96 * 1.5, 48], [0, 0, 1.0]])
        return Predicted(self.poses[: len(rgb)], K.expand(len(rgb), 3, 3), self.confidence[: len(rgb)])


@pytest.fixture(scope="module")
def turning() -> tuple:  # type: ignore[type-arg]
    cameras = orbit(AZIMUTH)
    return cameras, *film(cameras)


def error(solution: ClipSolution, cameras: Cameras) -> float:
    truth = cameras.cam_from_world[:, :3, :3]
    return float(rotation_angle_degrees(solution.rotation @ global_turn(solution.rotation, truth), truth).median())


def climbing(sign: float) -> Cameras:
    """There and half back while the camera climbs and sinks: no orbit comes near."""
    time = torch.linspace(0, 1, 12)
    azimuth = sign * 250 * torch.sin(0.75 * math.pi * time) ** 2
    poses = look_at(orbit_eyes(azimuth, 8 + 45 * torch.sin(2 * math.pi * time), 4.0))
    return Cameras(poses, intrinsics(FOV, SIZE).expand(12, 3, 3).clone(), SIZE)


@pytest.fixture(scope="module")
def solved() -> dict[str, ClipSolution]:
    """A clip on which the search fails by itself (35 degrees), with a right path suggested and with a mirrored one."""
    rgb, mask = film(climbing(-1))
    out = {}
    for name, said in (("right", climbing(-1)), ("wrong", climbing(1))):
        path = suggest(Knowing(said.cam_from_world), rgb, mask)
        assert path is not None and path.focal == pytest.approx(1.5)
        out[name] = solve_clip(rgb, mask, replace(TINY, suggested=path))
    return out


def test_the_true_path_wins(solved: dict[str, ClipSolution]) -> None:
    right, wrong = solved["right"], solved["wrong"]
    assert right.name == NAME
    assert right.loss < 0.8 * wrong.loss
    assert error(right, climbing(-1)) < min(18, error(wrong, climbing(-1)) / 1.5)
    # It is judged as any other: optical flow does not speak for this path, and that counts.
    assert not right.verdict.accepted and "--turn" in right.verdict.reason


def test_a_wrong_path_loses(solved: dict[str, ClipSolution]) -> None:
    assert solved["wrong"].name != NAME


def test_a_path_is_brought_to_the_root_frame_and_freed_of_noise(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras, rgb, mask = turning
    generator = torch.Generator().manual_seed(0)
    noisy = cameras.cam_from_world.clone()
    noisy[:, :3, :3] = so3_exp(0.08 * torch.randn(16, 3, generator=generator)) @ noisy[:, :3, :3]
    path = suggest(Knowing(noisy), rgb, mask)
    assert path is not None
    assert path.turn() == pytest.approx(float(AZIMUTH[-1] - AZIMUTH[0]), abs=12)
    found = path.rotations(cut(rgb, mask, 32), 1.5)
    truth = cameras.cam_from_world[:, :3, :3]
    before = rotation_angle_degrees(noisy[:, :3, :3] @ global_turn(noisy[:, :3, :3], truth), truth)
    after = rotation_angle_degrees(found @ global_turn(found, truth), truth)
    assert float(tilt(found)) < 1e-3
    assert float(after.median()) < float(before.median()) < 10


def test_frames_that_show_nothing_or_are_unsure_are_left_to_their_neighbours(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras, rgb, mask = turning
    partly = mask.copy()
    partly[4:6] = 0
    shown = [t for t in range(16) if t not in (4, 5)]
    wrong = cameras.cam_from_world[shown].clone()
    wrong[7] = torch.eye(4)
    sure = torch.ones(14)
    sure[7] = 0.1
    knowing = Knowing(wrong, sure)
    path = suggest(knowing, rgb, partly)
    assert path is not None and knowing.shown == [14]
    assert path.frames.tolist() == [t for t in shown if t != shown[7]]
    found, truth = path.rotations(cut(rgb, mask, 32), 1.5), cameras.cam_from_world[:, :3, :3]
    assert float(rotation_angle_degrees(found @ global_turn(found, truth), truth).max()) < 3


def test_nothing_is_suggested_where_nothing_is_known(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras, rgb, mask = turning
    assert suggest(Knowing(cameras.cam_from_world * float("nan")), rgb, mask) is None
    assert (
        suggest(Knowing(cameras.cam_from_world), rgb, mask * (np.arange(16) < 2).astype(np.uint8)[:, None, None])
        is None
    )


def test_a_person_overrules_it(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras = turning[0]
    path = Suggested(torch.arange(16), cameras.cam_from_world[:, :3, :3])
    assert replace(TINY, suggested=path).more_starts() == [path]
    assert replace(TINY, suggested=path, turn="ccw").more_starts() == [path]
    assert not replace(TINY, suggested=path, turn="cw").more_starts()
    assert not replace(TINY, suggested=path, sweep=90.0).more_starts()
    assert not TINY.more_starts()
