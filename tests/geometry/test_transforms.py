"""Group axioms and round trips of rigid motions."""

from __future__ import annotations

import math

import pytest
import torch

from fourdgen.geometry import transforms as tf


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_quats(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=-1)


def test_quaternion_product_is_matrix_product(generator: torch.Generator) -> None:
    a, b = random_quats(50, generator), random_quats(50, generator)
    product = tf.quat_to_matrix(tf.quat_multiply(a, b))
    assert torch.allclose(product, tf.quat_to_matrix(a) @ tf.quat_to_matrix(b), atol=1e-12)


def test_rotation_by_quaternion_is_rotation_by_matrix(generator: torch.Generator) -> None:
    q, v = random_quats(50, generator), torch.randn(50, 3, generator=generator, dtype=torch.float64)
    assert torch.allclose(tf.quat_rotate(q, v), (tf.quat_to_matrix(q) @ v[..., None])[..., 0], atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.3, 2.0, math.pi - 1e-3])
def test_logarithm_inverts_exponential(angle: float) -> None:
    w = angle * torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64), dim=-1)
    assert torch.allclose(tf.quat_log(tf.quat_exp(w)), w, atol=1e-6)


def test_exponential_of_zero_is_exactly_identity() -> None:
    assert tf.quat_exp(torch.zeros(3)).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_exponential_has_a_gradient_at_zero() -> None:
    w = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    tf.quat_exp(w)[0, 1].backward()
    assert w.grad is not None and abs(float(w.grad[0, 0]) - 0.5) < 1e-6


def test_matrix_round_trip_covers_half_turns(generator: torch.Generator) -> None:
    half_turns = torch.eye(4, dtype=torch.float64)[1:]  # the trace is -1 there
    q = torch.cat([random_quats(100, generator), half_turns])
    back = tf.quat_from_matrix(tf.quat_to_matrix(q))
    assert torch.allclose((back * q).sum(-1).abs(), torch.ones(len(q), dtype=torch.float64), atol=1e-10)


def test_rigid_inverse(generator: torch.Generator) -> None:
    m = tf.rigid(
        tf.quat_to_matrix(random_quats(10, generator)), torch.randn(10, 3, generator=generator, dtype=torch.float64)
    )
    assert torch.allclose(tf.rigid_inverse(m) @ m, torch.eye(4, dtype=torch.float64).expand(10, 4, 4), atol=1e-12)


def test_dual_quaternion_parts(generator: torch.Generator) -> None:
    q, t = random_quats(20, generator), torch.randn(20, 3, generator=generator, dtype=torch.float64)
    rotation, translation = tf.dual_quat_parts(3.0 * tf.dual_quat(q, t))
    assert torch.allclose(rotation, q, atol=1e-12) and torch.allclose(translation, t, atol=1e-12)


def test_angle_between_rotations() -> None:
    turn = tf.so3_exp(torch.tensor([0.0, math.radians(40), 0.0], dtype=torch.float64))
    assert float(tf.rotation_angle_degrees(torch.eye(3, dtype=torch.float64), turn)) == pytest.approx(40, abs=1e-6)
    assert float(tf.rotation_angle_degrees(turn, turn)) == pytest.approx(0, abs=1e-6)


def test_nearest_rotation_never_mirrors(generator: torch.Generator) -> None:
    m = torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
    r = tf.nearest_rotation(m)
    assert torch.allclose(torch.linalg.det(r), torch.ones(50, dtype=torch.float64))
    assert torch.allclose(r @ r.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(50, 3, 3), atol=1e-10)


def random_sim3(generator: torch.Generator) -> tf.Sim3:
    return tf.Sim3(
        2.7, tf.quat_to_matrix(random_quats(1, generator))[0], torch.randn(3, generator=generator, dtype=torch.float64)
    )


def test_similarity_inverse_and_composition(generator: torch.Generator) -> None:
    a, b = random_sim3(generator), random_sim3(generator)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    assert torch.allclose(a.inverse().apply(a.apply(x)), x, atol=1e-12)
    assert torch.allclose(a.compose(b).apply(x), a.apply(b.apply(x)), atol=1e-12)
    homogeneous = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], 1)
    assert torch.allclose((homogeneous @ a.matrix().T)[:, :3], a.apply(x), atol=1e-12)


def test_moved_cameras_show_the_same_picture(generator: torch.Generator) -> None:
    world_from_input = random_sim3(generator)
    pose = tf.rigid(
        tf.quat_to_matrix(random_quats(5, generator)), torch.randn(5, 3, generator=generator, dtype=torch.float64)
    )
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64)

    def seen_from(poses: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return points @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]

    before = seen_from(pose, x)
    after = seen_from(world_from_input.move_cameras(pose).double(), world_from_input.apply(x))
    assert torch.allclose(after, world_from_input.scale * before, atol=1e-5)  # float32 inside


def test_so3_exp_is_the_matrix_exponential_and_is_smooth_at_zero() -> None:
    g = torch.Generator().manual_seed(0)
    for size in (0.0, 1e-6, 1e-2, 1.0, 3.0):
        w = (size * torch.randn(20, 3, generator=g, dtype=torch.float64)).requires_grad_(True)
        cross = torch.linalg.cross(w[:, None].expand(-1, 3, 3), torch.eye(3).double().expand(20, 3, 3)).mT
        grad = torch.randn(20, 3, 3, generator=g, dtype=torch.float64)
        ours, truth = tf.so3_exp(w), torch.linalg.matrix_exp(cross)
        assert torch.allclose(ours, truth, atol=1e-11)
        slopes = [torch.autograd.grad(out, w, grad, retain_graph=True)[0] for out in (ours, truth)]
        assert torch.allclose(*slopes, atol=1e-5)
    assert torch.equal(tf.so3_exp(torch.zeros(3)), torch.eye(3))
