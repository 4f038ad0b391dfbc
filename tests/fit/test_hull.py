"""The visual hull that training starts from."""

from __future__ import annotations

import pytest
import torch

from fourdgen.fit.hull import THIN, carve, facing_quats
from fourdgen.fit.views import View
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.scene.surfels import normal_axis

SIZE = (64, 64)


def ball_views(azimuths: torch.Tensor, radius: float = 0.6) -> tuple[list[View], torch.Tensor]:
    """Views of a white ball at the origin from 3 away."""
    poses = look_at(orbit_eyes(azimuths, 10.0, 3.0))
    K = intrinsics(40.0, SIZE)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    ray = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], -1)
    ray = ray / ray.norm(dim=-1, keepdim=True)
    miss = 3 * (1 - ray[..., 2] ** 2).clamp_min(0).sqrt()
    mask = (miss < radius).float()
    assert Cameras(poses, K.expand(len(poses), 3, 3), SIZE).size == SIZE
    return [View(mask.expand(3, 64, 64), mask, None, K) for _ in poses], poses


def test_a_ball_seen_from_all_sides_is_carved_as_a_ball() -> None:
    views, poses = ball_views(torch.linspace(0, 330, 12))
    points, colors, share = carve(views, poses, 1.3, torch.Generator().manual_seed(0))
    assert share == pytest.approx(0.85) and float(points.norm(dim=1).max()) < 0.85
    assert float(colors.min()) > 0.9


def test_a_subject_seen_from_one_side_stays_thin() -> None:
    views, poses = ball_views(torch.linspace(-5, 5, 12))
    points, _, _ = carve(views, poses, 1.3, torch.Generator().manual_seed(0))
    toward = -poses[6, 2, :3]
    assert float((points @ toward).abs().max()) < 1.9 * THIN  # the cube's corner stands out by the square root of three
    assert float(points.norm(dim=1).max()) < 0.85


def test_quaternions_face_their_normals() -> None:
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    normals = torch.cat([normals, torch.tensor([[0.0, 0.0, -1.0]])])
    assert torch.allclose(normal_axis(facing_quats(normals)), normals, atol=1e-5)
