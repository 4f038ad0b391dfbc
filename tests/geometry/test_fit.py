"""Similarities that fit cameras."""

from __future__ import annotations

import pytest
import torch

from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.geometry.fit import rotation_errors, similarity_between
from fourdgen.geometry.transforms import Sim3, so3_exp

TRUE = Sim3(0.37, so3_exp(torch.tensor([0.4, -2.0, 0.9]).double()), torch.tensor([2.0, -0.7, 0.1]).double())


def cameras(count: int = 12, sweep: float = 220.0) -> torch.Tensor:
    eyes = orbit_eyes(torch.linspace(0, sweep, count), 20.0, torch.linspace(3.0, 3.5, count))
    return look_at(eyes, torch.tensor([0.1, 0.2, 0.0]))


def assert_similar(found: Sim3, true: Sim3, tolerance: float) -> None:
    assert torch.allclose(found.matrix(), true.matrix(), atol=tolerance)


def test_similarity_between_moved_cameras_is_found() -> None:
    true = cameras()
    assert_similar(similarity_between(TRUE.move_cameras(true), true), TRUE, 1e-4)  # cameras are float32


def test_errors_of_rotation_about_the_subject_do_not_move_it() -> None:
    """Cameras that are wrong by turns about the subject leave scale and place of the subject alone."""
    true = cameras()
    random = torch.Generator().manual_seed(1)
    wrong = true.clone()
    wrong[:, :3, :3] = true[:, :3, :3] @ so3_exp(0.1 * torch.randn(12, 3, generator=random))
    wrong[:, :3, 3] = true[:, :3, 3]  # the world's origin stays where it was before each camera
    found = similarity_between(wrong, true)
    assert found.scale == pytest.approx(1.0, abs=0.01)
    assert float(found.translation.norm()) < 0.02


def test_one_bad_camera_does_not_pull() -> None:
    true = cameras()
    wrong = TRUE.move_cameras(true)
    wrong[3, :3, 3] += 5.0
    found = similarity_between(wrong, true)
    assert found.scale == pytest.approx(TRUE.scale, rel=0.02)


def test_a_camera_that_stands_still_gives_a_scale() -> None:
    true = cameras()[:1].repeat(8, 1, 1)
    found = similarity_between(Sim3(0.5, torch.eye(3).double(), torch.zeros(3).double()).move_cameras(true), true)
    assert found.scale == pytest.approx(0.5, rel=1e-3)
    assert float(found.translation.norm()) < 1e-3


def test_rotation_errors_ignore_one_global_turn() -> None:
    true = cameras()
    turned = true[:, :3, :3] @ so3_exp(torch.tensor([0.5, 1.0, -0.2])).T
    assert float(rotation_errors(turned, true[:, :3, :3]).max()) < 0.05
    turned[2] = so3_exp(torch.tensor([0.0, 0.5, 0.0])) @ turned[2]
    errors = rotation_errors(turned, true[:, :3, :3])
    assert errors.argmax() == 2
    assert 20 < float(errors[2]) < 30
