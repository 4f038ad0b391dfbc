"""The horizon: level cameras tell the vertical, whatever the body does."""

from __future__ import annotations

import pytest
import torch

from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.geometry.transforms import rotation_angle_degrees, so3_exp
from fourdgen.poses.level import about_y, level_turn, tilt


def _orbit(sweep: float, elevation: torch.Tensor | float = 20.0) -> torch.Tensor:
    return look_at(orbit_eyes(torch.linspace(0, sweep, 24), elevation, 1.0))[:, :3, :3]


def test_level_cameras_have_no_tilt_at_any_elevation() -> None:
    assert float(tilt(_orbit(200, torch.linspace(-30, 60, 24)))) < 1e-10


def test_tilt_is_the_squared_sine_of_a_small_roll_and_grows_linearly_beyond() -> None:
    def rolled(degrees: float) -> float:
        roll = so3_exp(torch.tensor([0.0, 0.0, torch.deg2rad(torch.tensor(degrees))]))
        return float(tilt(roll @ _orbit(200)))

    level = torch.sin(torch.deg2rad(torch.tensor(4.0))) * torch.cos(torch.deg2rad(torch.tensor(20.0)))
    assert rolled(4.0) == pytest.approx(float(level) ** 2, rel=1e-3)
    assert rolled(60.0) < 4.5 * rolled(20.0)  # (sin 60 / sin 20)^2 is 6.4


def test_the_vertical_is_found_in_any_root_frame() -> None:
    rotations = _orbit(120, torch.linspace(0, 40, 24))
    secret = so3_exp(torch.tensor([0.5, -2.0, 0.3]))
    turn, determined = level_turn(rotations @ secret)
    assert determined
    assert float(tilt(rotations @ secret @ turn)) < 1e-10
    # Down stays down, and nothing is turned that need not be.
    assert float((rotations @ secret @ turn)[:, 1, 1].min()) > 0
    assert float(rotation_angle_degrees(level_turn(rotations)[0], torch.eye(3))) < 0.1


def test_a_short_turn_leaves_the_pitch_open() -> None:
    rotations = _orbit(20)
    pitched = rotations @ so3_exp(torch.tensor([0.3, 0.0, 0.0]))
    turn, determined = level_turn(pitched)
    assert not determined
    assert float(rotation_angle_degrees(turn, torch.eye(3))) < 5  # it does not pretend to know


def test_about_y_is_the_nearest_such_rotation() -> None:
    rotation = so3_exp(torch.tensor([0.2, 1.4, -0.3]))
    nearest = about_y(rotation)
    assert torch.allclose(nearest @ torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    best = rotation_angle_degrees(rotation, nearest)
    for change in (-0.02, 0.02):
        other = nearest @ so3_exp(torch.tensor([0.0, change, 0.0]))
        assert float(rotation_angle_degrees(rotation, other)) > float(best)
