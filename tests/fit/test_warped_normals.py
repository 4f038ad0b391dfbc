"""Normal consistency in the warped state: on two spheres that move apart and turn, the right normals are known."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fourdgen.fit import losses
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import dual_quat, quat_exp, quat_from_matrix, quat_multiply, quat_rotate
from fourdgen.render import pick
from fourdgen.scene.motion import blend_dual_quats, move
from fourdgen.scene.surfels import normal_axis

RADIUS, COUNT = 0.35, 900
MIDDLES = torch.tensor([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0]])


def spheres() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(means, outward normals, quats) of surfels on both spheres, canonical."""
    i = torch.arange(COUNT) + 0.5
    height, turn = 1 - 2 * i / COUNT, math.pi * (1 + 5**0.5) * i
    ring = (1 - height**2).sqrt()
    normal = torch.stack([ring * turn.cos(), height, ring * turn.sin()], 1)
    side = F.normalize(torch.linalg.cross(normal, torch.tensor([0.3, 0.5, 0.8]).expand_as(normal)), dim=1)
    quats = quat_from_matrix(torch.stack([side, torch.linalg.cross(normal, side), normal], 2))
    means = torch.cat([RADIUS * normal + middle for middle in MIDDLES])
    return means, normal.repeat(2, 1), quats.repeat(2, 1)


def bones() -> torch.Tensor:
    """Each sphere turns about its own middle and moves away."""
    turns = quat_exp(torch.tensor([[0.9, 0.4, 0.0], [0.0, -0.7, 0.5]]))
    shift = torch.tensor([[-0.1, 0.2, 0.1], [0.15, -0.1, 0.2]])
    return dual_quat(turns, shift + MIDDLES - quat_rotate(turns, MIDDLES))


def warped(means: torch.Tensor, quats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every surfel follows its own sphere's bone."""
    weights = torch.softmax(-100 * torch.cdist(means, MIDDLES), 1)
    return move(blend_dual_quats(bones().expand(len(means), -1, -1), weights), means, quats)[:2]


def cameras() -> Cameras:
    poses = look_at(orbit_eyes(torch.tensor([20.0, 140.0, 260.0]), 15.0, 3.2))
    return Cameras(poses, intrinsics(42.0, (96, 96)).expand(3, 3, 3).clone(), (96, 96))


def loss_of(means: torch.Tensor, quats: torch.Tensor) -> torch.Tensor:
    moved, spun = warped(means, quats)
    sigma = torch.full((len(means), 2), 0.75 * math.sqrt(4 * math.pi / COUNT) * RADIUS)
    opacity, colors = torch.full((len(means),), 0.9), torch.zeros(len(means), 3)
    total = torch.zeros(())
    for index in range(3):
        camera = cameras()[index]
        out = pick("auto", "cpu")(moved, spun, sigma, opacity, colors, camera)
        total = total + losses.normal_consistency(out, camera).sum() / (out.alpha > 0.5).sum()
    return total / 3


def seen() -> torch.Tensor:
    """Surfels that the cameras see well, of the true spheres."""
    means, _, quats = spheres()
    moved, spun = warped(means, quats)
    sigma = torch.full((len(means), 2), 0.01)
    flat = torch.zeros(len(means), 3)
    out = pick("auto", "cpu")(moved, spun, sigma, torch.full((len(means),), 0.9), flat, cameras(), weights=True)
    assert out.weight is not None
    return out.weight.amax(0) > 0.5 * out.weight.amax()


def lean(quats: torch.Tensor, degrees: float) -> torch.Tensor:
    """Every surfel tilted out of its plane, each to another side."""
    direction = 2 * math.pi * torch.rand(len(quats), generator=torch.Generator().manual_seed(0))
    axis = torch.stack([direction.cos(), direction.sin(), torch.zeros(len(quats))], 1)
    return quat_multiply(quats, quat_exp(math.radians(degrees) * axis))


def error(quats: torch.Tensor, normals: torch.Tensor) -> float:
    """Mean angle to the true normals, degrees; the sign of a surfel's axis means nothing."""
    cosine = (normal_axis(quats) * normals).sum(1).abs().clamp(max=1)
    return float(torch.rad2deg(torch.acos(cosine)).mean())


def test_the_truth_is_nearly_consistent_and_leaning_surfels_are_not() -> None:
    means, _, quats = spheres()
    right = float(loss_of(means, quats))
    assert right < 0.1  # the outline, where a pixel sees a steep surface, and surfels that are flat
    assert float(loss_of(means, lean(quats, 40.0))) > right + 0.1


def test_the_loss_turns_surfels_back_through_the_warp() -> None:
    """Only canonical orientations are free, and the loss is taken where the bones have carried the surfels."""
    means, normals, quats = spheres()
    free = lean(quats, 30.0).requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=0.02)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 60)
        optimizer.zero_grad()
        loss_of(means, free).backward()
        optimizer.step()
    well = seen()
    assert error(lean(quats, 30.0)[well], normals[well]) > 29
    assert error(free.detach()[well], normals[well]) < 15
