"""Pose-guided sampling evens out viewing directions."""

from __future__ import annotations

import torch

from fourdgen.fit import sampler
from fourdgen.geometry.camera import look_at, orbit_eyes


def lingering() -> torch.Tensor:
    """A camera that spends 40 of 60 frames at one side."""
    azimuth = torch.cat([torch.zeros(40) + torch.arange(40) * 0.1, torch.linspace(20, 300, 20)])
    return sampler.view_directions(look_at(orbit_eyes(azimuth, 10.0, 3.0)))


def test_directions_point_from_the_subject_to_the_camera() -> None:
    eyes = orbit_eyes(torch.tensor([30.0, 120.0]), 25.0, 2.0)
    assert torch.allclose(sampler.view_directions(look_at(eyes)), eyes / 2, atol=1e-5)


def test_rare_views_are_drawn_more_often() -> None:
    p = sampler.pose_guided(lingering())
    assert abs(float(p.sum()) - 1) < 1e-6
    assert float(p[40:].mean()) > 4 * float(p[:40].mean())


def test_even_views_are_drawn_evenly() -> None:
    directions = sampler.view_directions(look_at(orbit_eyes(torch.arange(36) * 10.0, 0.0, 3.0)))
    p = sampler.pose_guided(directions)
    assert float(p.max() / p.min()) < 1.01


def test_clip_balanced_gives_each_clip_the_same() -> None:
    clip = torch.tensor([0] * 10 + [1] * 40)
    p = sampler.clip_balanced(clip)
    assert abs(float(p[:10].sum()) - 0.5) < 1e-6


def test_balanced_clips_share_two_thirds_of_the_draws() -> None:
    """The figure of docs/method.md section 10: the other third goes to frames alike, so a short clip takes less."""
    clip = torch.tensor([0] * 8 + [1] * 400)
    drawn = sampler.epoch(sampler.clip_balanced(clip), torch.Generator().manual_seed(0))
    assert abs(float((clip[drawn] == 0).float().mean()) - (8 / 408 / 3 + 1 / 3)) < 0.002
    assert round(100 * (8 / 408 / 3 + 1 / 3)) == 34


def test_every_frame_is_drawn_within_an_epoch_and_rare_ones_more() -> None:
    p = sampler.pose_guided(lingering())
    g = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.cat([sampler.epoch(p, g) for _ in range(20)]), minlength=60)
    assert int(counts.min()) >= 20  # once an epoch
    expected = 20 * (1 + 120 * p)
    assert torch.allclose(counts.float(), expected, rtol=0.15, atol=6)


def test_an_epoch_repeats_with_its_seed() -> None:
    p = sampler.uniform(7)
    a, b = (sampler.epoch(p, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
