"""Quaternions, rigid motions, similarities and dual quaternions.

Conventions, everywhere in fourdgen: quaternions are wxyz; a rigid motion is a 4x4 matrix named `target_from_source`, so
that inner names meet in a product; a dual quaternion is 8 numbers, the real part first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-12


def quat_multiply(a: Float[Tensor, "*b 4"], b: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Hamilton product a b (apply b first)."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def quat_conjugate(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Inverse of a unit quaternion."""
    return q * q.new_tensor([1.0, -1.0, -1.0, -1.0])


def quat_rotate(q: Float[Tensor, "*b 4"], v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Rotate v by the unit quaternion q. Batch shapes broadcast."""
    u = q[..., 1:]
    u, v = torch.broadcast_tensors(u, v)
    t = 2 * torch.linalg.cross(u, v)
    return v + q[..., :1] * t + torch.linalg.cross(u, t)


def quat_exp(w: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion of the rotation vector w (radians). Smooth at 0, where it is exactly the identity."""
    angle = (w * w).sum(-1, keepdim=True).add(_TINY).sqrt()
    half = 0.5 * angle
    return torch.cat([half.cos(), half.sin() / angle * w], -1)


def quat_log(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3"]:
    """Rotation vector (radians, at most pi long) of a unit quaternion."""
    q = q * torch.where(q[..., :1] < 0, -1.0, 1.0)
    sine = q[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, q[..., :1])
    return q[..., 1:] * torch.where(sine > 1e-6, angle / sine.clamp_min(1e-8), torch.full_like(sine, 2.0))


def quat_to_matrix(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of q, which is normalised first."""
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*q.shape[:-1], 3, 3)


def quat_from_matrix(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion with w >= 0 of a rotation matrix (Shepperd's method: the largest of four roots is divided by)."""
    m = matrix
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    d = torch.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], -1)
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    e, f, g = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    candidates = torch.stack(
        [
            torch.stack([1 + trace, a, b, c], -1),
            torch.stack([a, 1 + 2 * d[..., 0] - trace, e, f], -1),
            torch.stack([b, e, 1 + 2 * d[..., 1] - trace, g], -1),
            torch.stack([c, f, g, 1 + 2 * d[..., 2] - trace], -1),
        ],
        -2,
    )
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    q = torch.nn.functional.normalize(q, dim=-1)
    return q * torch.where(q[..., :1] < 0, -1.0, 1.0)


def so3_exp(w: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of the rotation vector w (radians), by Rodrigues' formula. Smooth at 0, where it is exactly 1."""
    half = 0.5 * (w * w).sum(-1, keepdim=True).add(_TINY).sqrt()
    sinc = half.sin() / half
    cross = (w @ _CROSS.to(w)).reshape(*w.shape, 3)
    first, second = (sinc * half.cos())[..., None], (0.5 * sinc * sinc)[..., None]
    return torch.eye(3, dtype=w.dtype, device=w.device) + first * cross + second * (cross @ cross)


# Row k holds the matrix by which the k-th axis is crossed with a vector.
_CROSS = torch.linalg.cross(torch.eye(3)[:, None].expand(3, 3, 3), torch.eye(3).expand(3, 3, 3)).mT.reshape(3, 9)


def rotation_angle_degrees(a: Float[Tensor, "*b 3 3"], b: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle of the rotation between a and b, in degrees."""
    relative = a.transpose(-1, -2) @ b
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    skew = relative - relative.transpose(-1, -2)
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1).norm(dim=-1) / 2
    return torch.rad2deg(torch.atan2(sine, cosine))


def turn_rates(rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n-1 3"]:
    """Rotation vectors from each rotation to the next, with sines for angles (radians while turns are small)."""
    step = rotations[1:] @ rotations[:-1].transpose(1, 2)
    skew = step - step.transpose(1, 2)
    return torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], -1) / 2


def rigid(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """4x4 matrix of x -> rotation x + translation."""
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], -2)


def rigid_inverse(matrix: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Inverse of a rigid 4x4 matrix."""
    rotation = matrix[..., :3, :3].transpose(-1, -2)
    return rigid(rotation, -(rotation @ matrix[..., :3, 3:])[..., 0])


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation nearest to a matrix in the Frobenius norm (orthogonal Procrustes)."""
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vh)
    flip = torch.ones_like(matrix[..., 0])
    flip = torch.cat([flip[..., :2], sign[..., None]], -1)
    return u @ (flip[..., None] * vh)


def dual_quat(rotation: Float[Tensor, "*b 4"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 8"]:
    """Unit dual quaternion of x -> rotate(rotation, x) + translation."""
    pure = torch.cat([torch.zeros_like(translation[..., :1]), translation], -1)
    return torch.cat([rotation, 0.5 * quat_multiply(pure, rotation)], -1)


def dual_quat_right(dq: Float[Tensor, "*b 8"]) -> Float[Tensor, "*b 8 8"]:
    """Matrices of right multiplication: `dual_quat_right(b) @ a` are the 8 numbers of a b (b acts first)."""
    return (dq @ _RIGHT.to(dq)).reshape(*dq.shape, 8)


def _right_table() -> Float[Tensor, "8 64"]:
    """Row k holds the 8x8 matrix by which the k-th unit multiplies from the right."""
    units = torch.eye(4)
    quat = torch.stack([quat_multiply(units, unit.expand(4, 4)).T for unit in units])  # [k out in]
    table = torch.zeros(8, 8, 8)
    table[:4, :4, :4], table[:4, 4:, 4:], table[4:, 4:, :4] = quat, quat, quat
    return table.reshape(8, 64)


_RIGHT = _right_table()


def dual_quat_parts(dq: Float[Tensor, "*b 8"]) -> tuple[Float[Tensor, "*b 4"], Float[Tensor, "*b 3"]]:
    """Rotation quaternion and translation of a dual quaternion, which is normalised first."""
    dq = dq / dq[..., :4].norm(dim=-1, keepdim=True)
    real, dual = dq[..., :4], dq[..., 4:]
    return real, 2 * quat_multiply(dual, quat_conjugate(real))[..., 1:]


@dataclass(frozen=True)
class Sim3:
    """A similarity x -> scale rotation x + translation, in float64 (it maps user coordinates of any size)."""

    scale: float
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]

    @staticmethod
    def identity() -> Sim3:
        return Sim3(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))

    def matrix(self) -> Float[Tensor, "4 4"]:
        """4x4 matrix with the scale inside its upper left block."""
        return rigid(self.scale * self.rotation.double(), self.translation.double())

    def inverse(self) -> Sim3:
        rotation = self.rotation.T
        return Sim3(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def compose(self, other: Sim3) -> Sim3:
        """self after other."""
        return Sim3(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.scale * self.rotation @ other.translation + self.translation,
        )

    def apply(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        return (self.scale * points.double() @ self.rotation.T + self.translation).to(points.dtype)

    def move_cameras(self, cam_from_source: Float[Tensor, "c 4 4"]) -> Float[Tensor, "c 4 4"]:
        """`cam_from_target` (rigid, float32) of cameras given as `cam_from_source`, in lengths of the target world.

        A camera's picture does not change when the world and the camera's distance are scaled together.
        """
        source = cam_from_source.double()
        rotation = source[:, :3, :3] @ self.rotation.T
        translation = self.scale * source[:, :3, 3] - rotation @ self.translation
        return rigid(rotation, translation).float()
