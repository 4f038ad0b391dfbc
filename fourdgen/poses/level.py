"""The horizon: people, tripods and turntables keep the camera level, so its x axis stays across the root's vertical.

Pictures tell the pitch of a body that moves badly: a dog that lowers its head looks as if the camera had gone up, a
galloping fox as if it had rolled, and between two clips of two motions that was 13 degrees. The cameras' x axes do not
depend on the body. They span the horizontal plane as soon as the view turns (the "straightening" of panoramas: Brown
and Lowe 2007), whatever the elevation does. All of it is a preference and not a rule: a camera that rolls is believed
when the pictures say so, because the penalty grows linearly beyond ROLL.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.transforms import so3_exp

ROLL = math.sin(math.radians(8.0))  # sines of the roll beyond this weigh linearly
DETERMINED = 0.06  # least mean square of the x axes along their second direction: a turn of about 50 degrees


def tilt(rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, ""]:
    """Mean squared sine of the roll against the root's y axis (Huber). `rotations`: cam_from_root."""
    roll = rotations[:, 0, 1].abs()
    return torch.where(roll < ROLL, roll**2, ROLL * (2 * roll - ROLL)).mean()


def level_turn(rotations: Float[Tensor, "n 3 3"]) -> tuple[Float[Tensor, "3 3"], bool]:
    """The smallest rotation L for which the cameras `rotations @ L` are as level as can be, and whether they tell.

    Without enough turn the x axes leave the pitch about themselves open: then the second value is False and L makes
    the root's y axis merely perpendicular to them.
    """
    across = rotations[:, 0].double()
    y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(across.T @ across / len(across))
    determined = float(values[1]) > DETERMINED
    if determined:
        down = vectors[:, 0]
        down = down if float((rotations[:, 1].double() @ down).sum()) > 0 else -down
    else:
        down = y - (y @ vectors[:, 2]) * vectors[:, 2]
        down = down / down.norm().clamp_min(1e-9)
    axis = torch.linalg.cross(y, down)
    angle = torch.atan2(axis.norm(), y @ down)
    turn = so3_exp(axis / axis.norm().clamp_min(1e-12) * angle)
    return turn.to(rotations.dtype), determined


def about_y(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation about the y axis that is nearest to `rotation`."""
    flat = torch.zeros_like(rotation)
    flat[0::2, 0::2] = nearest_rotation_2d(rotation[0::2, 0::2])
    flat[1, 1] = 1.0
    return flat


def nearest_rotation_2d(m: Float[Tensor, "2 2"]) -> Float[Tensor, "2 2"]:
    angle = torch.atan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1])
    return torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
