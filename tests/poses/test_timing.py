"""The time map between two views of one motion: found to a frame from outlines and cameras."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fourdgen.poses.timing import find_time_map, tangency
from tests.poses.subject import film, orbit

RATE = 12.0  # frames a second


def _hop(seconds: torch.Tensor) -> torch.Tensor:
    """Where the figure is at a time: it hops faster and faster."""
    return 0.25 * torch.sin(2.2 * seconds + 0.6 * seconds**2)


def _filmed(azimuth: float, sweep: float, times: torch.Tensor):  # type: ignore[no-untyped-def]
    """Outlines and cameras of the motion at `times` of its own clock."""
    cameras = orbit(azimuth + torch.linspace(0, sweep, len(times)), elevation=15.0)
    moved = cameras.cam_from_world.clone()
    moved[:, :3, 3] += moved[:, :3, 1] * _hop(times)[:, None]  # the figure goes up and down, not the camera
    return film(replace(cameras, cam_from_world=moved))[1], cameras


@pytest.fixture(scope="module")
def reference():  # type: ignore[no-untyped-def]
    times = torch.arange(30) / RATE
    return times, _filmed(0.0, 0.0, times)


@pytest.mark.parametrize(("offset", "rate", "sweep"), [(7 / RATE, 1.0, 0.0), (0.0, 0.8, 0.0), (0.25, 1.25, 60.0)])
def test_offset_and_rate_are_found(reference, offset: float, rate: float, sweep: float) -> None:  # type: ignore[no-untyped-def]
    times, first = reference
    seconds = torch.arange(22) / RATE
    second = _filmed(80.0, sweep, rate * seconds + offset)
    found = find_time_map(tangency(first, second), times, seconds)
    assert found.rate == pytest.approx(rate, rel=0.05)
    middle = float(seconds.mean())
    assert abs(found.rate * middle + found.offset - (rate * middle + offset)) < 1 / RATE
    assert found.plain > 1.5 * found.cost
    assert found.evident and found.speaks_for_itself


@pytest.mark.parametrize("late", [0.0, 0.4])
def test_two_motions_are_not_one(reference, late: float) -> None:  # type: ignore[no-untyped-def]
    """The best of all lines convinces nobody who was not told, even where the second clip hops, too."""
    times, first = reference
    seconds = torch.arange(26) / RATE
    other = _filmed(80.0, 60.0, 2.0 + 0.9 * torch.sin(3.1 * seconds + late))
    found = find_time_map(tangency(first, other), times, seconds)
    assert not found.speaks_for_itself


def test_few_frames_do_not_speak_for_themselves(reference) -> None:  # type: ignore[no-untyped-def]
    times, first = reference
    few = torch.arange(8) / RATE
    found = find_time_map(tangency(first, _filmed(80.0, 0.0, few)), times, few)
    assert found.evident and not found.speaks_for_itself


@pytest.mark.parametrize("lasts", [2.0, 24.0, 60.0])
def test_chance_is_not_believed_whatever_a_clip_lasts(lasts: float) -> None:
    """Frames that have nothing in common. The longer a clip lasts, the more lines there are, through fewer frames."""
    apart = np.random.default_rng(0).standard_normal((24, 36, 2))
    found = find_time_map(apart, torch.linspace(0, 2, 24), torch.linspace(0, lasts, 36))
    assert not found.evident


@pytest.mark.parametrize("swapped", [False, True])
def test_a_line_rests_on_the_frames_of_the_sparser_clip(reference, swapped: bool) -> None:  # type: ignore[no-untyped-def]
    """One motion, but one clip shows a frame of it every half second: of five frames chance makes as much."""
    times, first = reference
    sparse = torch.arange(-10, 15) / 2
    second = _filmed(80.0, 0.0, sparse)
    maps = [(first, second, times, sparse), (second, first, sparse, times)]
    one, other, mine, theirs = maps[swapped]
    assert not find_time_map(tangency(one, other), mine, theirs).evident


def test_own_times_stay_where_nothing_fits_better(reference) -> None:  # type: ignore[no-untyped-def]
    times, first = reference
    found = find_time_map(tangency(first, _filmed(80.0, 0.0, times)), times, times)
    assert (found.offset, found.rate) == (0.0, 1.0)


def test_one_centre_tells_nothing(reference) -> None:  # type: ignore[no-untyped-def]
    """Without a baseline there are no planes: no map is made up."""
    times, first = reference
    apart = tangency(first, _filmed(0.0, 0.0, times))
    assert bool(torch.isnan(torch.from_numpy(apart)).all())
    found = find_time_map(apart, times, times)
    assert (found.offset, found.rate) == (0.0, 1.0)
    assert math.isinf(found.cost)
    assert not found.evident


def test_planes_that_touch_a_rigid_subject_agree() -> None:
    """At the same instant both views' outermost planes coincide, to the size of a pixel."""
    first, second = _filmed(0.0, 0.0, torch.zeros(3)), _filmed(70.0, 20.0, torch.zeros(3))
    assert abs(tangency(first, second)).max() < 0.05
