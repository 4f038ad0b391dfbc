"""The visual hull that training starts from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fourdgen.fit.hull import SURVIVORS, carve, facing_quats, inflated, look_up
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
    points, colors = carve(views, poses, 1.3, torch.Generator().manual_seed(0))
    assert len(points) > SURVIVORS and 0.57 < float(points.norm(dim=1).max()) < 0.65
    assert float(colors.min()) > 0.9


def test_a_ball_seen_from_one_side_is_carved_as_a_ball() -> None:
    views, poses = ball_views(torch.linspace(-5, 5, 12))
    points, _ = carve(views, poses, 1.3, torch.Generator().manual_seed(0))
    along = points @ F.normalize(-poses[6, 2, :3], dim=0)
    assert 0.5 < float(along.abs().max()) < 0.7
    assert float(points.norm(dim=1).max()) < 0.75


def test_where_the_picture_goes_on_far_beyond_the_window_is_background() -> None:
    """A point to the left, where the picture ends with the window, may be there, and one just above, which a limb may
    reach at another moment; one far above, which was filmed, not."""
    views, poses = ball_views(torch.zeros(1))
    weight = torch.ones(64, 64)
    portrait = replace(views[0], weight=weight, picture=(0.0, -50.0, 64.0, 64.0))
    toward = poses[0, :3, :3].T
    places = [-1.8 * toward[:, 0], -1.2 * toward[:, 1], -1.8 * toward[:, 1], 1.8 * toward[:, 1], -5.0 * toward[:, 1]]
    inside, _, visible = look_up(torch.stack(places), portrait, poses[0])
    assert visible.tolist() == [0, 0, 1, 0, 0] and not bool(inside.any())
    assert look_up(torch.stack(places), views[0], poses[0])[2].tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("side", [50, 129, 300])
def test_a_disc_is_inflated_to_a_ball_and_thin_parts_stay_thin(side: int) -> None:
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    away = ((x - side / 2) ** 2 + (y - side / 2) ** 2).sqrt()
    radius = 0.35 * side
    half = inflated((away < radius).float())
    ball = (radius**2 - away**2).clamp_min(0).sqrt()
    assert half.shape == (side, side) and float((half - ball).abs()[away < 0.8 * radius].max()) < 0.08 * radius
    assert float(half[away > 1.1 * radius].max()) == 0
    limb = ((x - side / 2).abs() < 0.06 * side).float() * (y > 0.1 * side) * (y < 0.9 * side)
    assert 0.03 * side < float(inflated(limb).max()) < 0.12 * side


def test_masks_without_outline_have_a_bounded_thickness() -> None:
    assert float(inflated(torch.zeros(40, 40)).max()) == 0
    assert float(inflated(torch.ones(40, 40)).max()) < 24


def test_quaternions_face_their_normals() -> None:
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    normals = torch.cat([normals, torch.tensor([[0.0, 0.0, -1.0]])])
    assert torch.allclose(normal_axis(facing_quats(normals)), normals, atol=1e-5)
