"""Projection, resizing and orbits."""

from __future__ import annotations

import math

import pytest
import torch

from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes


def make(count: int = 3, size: tuple[int, int] = (64, 48)) -> Cameras:
    eyes = orbit_eyes(torch.linspace(0, 240, count), 20.0, 3.0)
    return Cameras(look_at(eyes), intrinsics(50.0, size).expand(count, 3, 3), size)


def test_orbit_looks_at_the_origin() -> None:
    pixels, depth = make().project(torch.zeros(1, 3))
    assert torch.allclose(pixels[:, 0], torch.tensor([32.0, 24.0]).expand(3, 2), atol=1e-4)
    assert torch.allclose(depth[:, 0], torch.full((3,), 3.0), atol=1e-5)


def test_a_point_above_the_subject_is_above_in_the_picture() -> None:
    above = torch.tensor([[0.0, -0.5, 0.0]])  # y points down
    assert bool((make().project(above)[0][:, 0, 1] < 24).all())


def test_positive_elevation_stands_above() -> None:
    assert bool((orbit_eyes(torch.tensor([0.0]), 30.0, 2.0)[:, 1] < 0).all())


def test_centers_are_the_eyes() -> None:
    eyes = orbit_eyes(torch.tensor([10.0, 200.0]), 15.0, 2.5)
    cameras = Cameras(look_at(eyes), intrinsics(40, (10, 10)).expand(2, 3, 3), (10, 10))
    assert torch.allclose(cameras.centers(), eyes, atol=1e-5)


def test_resizing_scales_pixels() -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    small = make().resized((32, 12)).project(points)[0]
    assert torch.allclose(small, make().project(points)[0] * torch.tensor([0.5, 0.25]), atol=1e-4)


def test_field_of_view_spans_the_longer_side() -> None:
    K = intrinsics(60.0, (200, 100))
    assert 2 * math.degrees(math.atan(100 / float(K[0, 0]))) == pytest.approx(60.0, abs=1e-4)


def test_poses_and_intrinsics_must_match() -> None:
    with pytest.raises(ValueError, match="2 poses but 1 intrinsics"):
        Cameras(torch.eye(4).expand(2, 4, 4), torch.eye(3)[None], (4, 4))


def test_an_index_gives_a_batch() -> None:
    assert len(make()[1]) == 1 and len(make()[1:]) == 2 and len(make()[[0, 2]]) == 2
