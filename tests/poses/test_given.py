"""Given cameras: the subject in the unit sphere, upright, and the way back exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, so3_exp
from fourdgen.poses import given
from tests.poses.subject import eyes, figure, film, orbit

ROOT_FROM_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)  # z-up world to y-down root


def _filmed(input_from_root: Sim3) -> tuple[Cameras, list]:
    cameras = orbit(torch.linspace(0, 200, 9))
    _, mask = film(cameras)
    return Cameras(input_from_root.move_cameras(cameras.cam_from_world), cameras.K, cameras.size), list(mask)


@pytest.mark.parametrize("scale", [0.02, 1.0, 300.0])
def test_subject_lands_in_the_unit_sphere_and_maps_back(scale: float) -> None:
    input_from_root = Sim3(scale, ROOT_FROM_UP.T, scale * torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64))
    cameras, masks = _filmed(input_from_root)
    center, radius = given.subject_ball(cameras.cam_from_world, cameras.K, masks)
    world = given.root_from_input(cameras.cam_from_world, center, radius)
    points = world.apply(input_from_root.apply(figure()["means"]))
    reach = points.norm(dim=-1)
    assert 0.5 < float(reach.max()) < 1.0
    assert float(points.mean(0).norm()) < 0.3
    assert float(points[200:400].mean(0)[1]) < float(points[:200].mean(0)[1])  # the head is up, that is at smaller y
    assert float(eyes(world.move_cameras(cameras.cam_from_world)).norm(dim=-1).min()) >= 2.0 - 1e-3
    back = world.inverse().move_cameras(world.move_cameras(cameras.cam_from_world))
    assert torch.allclose(back, cameras.cam_from_world, atol=3e-5 * max(1, scale))


def test_moved_cameras_see_the_same_pixels() -> None:
    input_from_root = Sim3(7.0, ROOT_FROM_UP.T, torch.zeros(3, dtype=torch.float64))
    cameras, masks = _filmed(input_from_root)
    world = given.root_from_input(cameras.cam_from_world, *given.subject_ball(cameras.cam_from_world, cameras.K, masks))
    points = input_from_root.apply(figure()["means"])
    before, _ = cameras.project(points)
    after, _ = Cameras(world.move_cameras(cameras.cam_from_world), cameras.K, cameras.size).project(world.apply(points))
    assert torch.allclose(before, after, atol=2e-2)


def test_a_world_that_is_not_z_up_takes_its_up_from_the_cameras() -> None:
    tilted = Sim3(1.0, so3_exp(torch.tensor([2.0, 0.3, 0.1])).double(), torch.zeros(3, dtype=torch.float64))
    cameras, masks = _filmed(tilted)
    world = given.root_from_input(cameras.cam_from_world, *given.subject_ball(cameras.cam_from_world, cameras.K, masks))
    downwards = world.move_cameras(cameras.cam_from_world)[:, 1, :3]  # each picture's down in the root frame
    assert float(downwards[:, 1].min()) > 0.8


@pytest.mark.parametrize("step", [0, 4])
def test_one_still_camera_puts_the_subject_in_front_of_it(step: int) -> None:
    """One that walks through the picture, too, whose rays all meet in the camera: in any world, as rounding has it."""
    filming = orbit(torch.zeros(9))
    _, mask = film(filming)
    walked = [np.roll(one, (i - 4) * step, 1) for i, one in enumerate(mask)]
    for place in torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        turned = Sim3(1.0, so3_exp(0.2 * place.float()).double(), 2 * place)
        cameras = Cameras(turned.move_cameras(filming.cam_from_world), filming.K, filming.size)
        center, radius = given.subject_ball(cameras.cam_from_world, cameras.K, walked)
        pixel, depth = cameras.project(center[None])
        assert torch.allclose(depth, torch.tensor(3.0), atol=0.5)
        assert torch.allclose(pixel[:, 0], torch.tensor([48.0, 48.0]), atol=8)
        assert radius > 0.1
