"""Steps of time and accelerations: the same numbers however unevenly a movement was filmed."""

from __future__ import annotations

import math

import pytest
import torch

from fourdgen.geometry.timeline import Spacing, ticks
from fourdgen.geometry.transforms import so3_exp, turn_rates


def _row(count: int) -> torch.Tensor:
    return torch.arange(count).float()


@pytest.mark.parametrize("rate", [23.976, 24, 25, 30, 60])
def test_even_frames_are_counted(rate: float) -> None:
    seconds = torch.arange(150) / rate + 3
    for stamps in (seconds, (100 * seconds).round() / 100 if rate < 40 else seconds, (1000 * seconds).round() / 1000):
        assert torch.equal(ticks(stamps), _row(150))


def test_gaps_and_changes_of_the_frame_rate_are_seen() -> None:
    kept = torch.tensor([0, 1, 2, 3, 4, 11, 12, 14, 15, 16])
    assert torch.equal(ticks(kept / 24), kept.float())
    assert torch.equal(ticks((100 * kept / 24).round() / 100), kept.float())  # the stamps of a GIF
    slower = torch.cat([torch.arange(10) / 30, 9 / 30 + torch.arange(1, 11) / 24])
    assert torch.allclose(ticks(slower).diff()[:9] * 30 / 24, ticks(slower).diff()[10:], rtol=1e-4)
    assert torch.equal(ticks(torch.tensor([5.0])), torch.zeros(1))


@pytest.mark.parametrize("count", [60, 64, 72])
def test_an_even_orbit_has_no_acceleration_whichever_frames_are_looked_at(count: int) -> None:
    """250 degrees, 48 of `count` frames: steps of one and of two frames."""
    chosen = torch.linspace(0, count - 1, 48).round()
    angle = math.radians(250) * chosen / (count - 1)
    moved = turn_rates(so3_exp(angle[:, None] * torch.tensor([0.0, 1.0, 0.0])))
    assert 30 * float(Spacing.of(_row(48)).of_rates(moved)) > 0.08  # per frame: more than what a right fit costs in all
    assert 30 * float(Spacing.of(chosen).of_rates(moved)) < 1e-5  # sines stand for angles
    assert float(Spacing.of(chosen).of_values(angle[:, None])) < 1e-10


def test_acceleration_is_that_of_the_curve_and_not_of_its_samples() -> None:
    """A parabola has one everywhere: whatever is left out, per squared mean step."""
    curve = torch.tensor([0.3, -0.1])
    for time in (
        _row(48),
        torch.tensor([0.0, 1, 2, 3, 6, 9, 10, 17, 18]),
        5 + torch.rand(30).cumsum(0) + 0.5 * _row(30),
    ):
        values = 0.5 * time[:, None] ** 2 * curve
        mean = float(time[-1] - time[0]) / (len(time) - 1)
        spacing = Spacing.of(time)
        wanted = float((curve**2).sum()) * mean**4
        assert float(spacing.of_values(values)) == pytest.approx(wanted, rel=1e-3)
        assert float(spacing.of_rates(values.diff(dim=0))) == pytest.approx(wanted, rel=1e-3)


def test_even_samples_of_several_curves_have_plain_second_differences() -> None:
    """To the bit, and none across the border of two curves."""
    values, curve = torch.randn(30, 3), torch.tensor([0] * 13 + [1] * 17)
    plain = values[2:] - 2 * values[1:-1] + values[:-2]
    inside = (curve[2:] == curve[:-2]).float()
    wanted = ((plain**2).sum(-1) * inside).sum() / inside.sum()
    spacing = Spacing.of(torch.cat([_row(13), 4 + 3 * _row(17)]), curve)  # each in steps of its own
    assert torch.equal(spacing.of_values(values), wanted)
    moved = torch.randn(29, 3)
    wanted = ((moved.diff(dim=0) ** 2).sum(-1) * inside).sum() / inside.sum()
    assert torch.equal(spacing.of_rates(moved), wanted)


def test_two_samples_have_no_acceleration_and_twins_no_infinite_one() -> None:
    assert float(Spacing.of(_row(2)).of_values(torch.randn(2, 3))) == 0
    assert float(Spacing.of(_row(1)).of_values(torch.randn(1, 3))) == 0
    twins = Spacing.of(torch.tensor([0.0, 1.0, 1.0 + 1e-6, 2.0, 3.0]))
    assert float(twins.of_values(0.01 * torch.randn(5, 1).clamp(-2, 2))) < 1
