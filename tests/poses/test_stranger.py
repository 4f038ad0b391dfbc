"""Another subject is told by its colours and by its shape together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourdgen.poses.pictures import cut
from fourdgen.poses.stranger import COLORS_APART, color_distance, strange
from tests.poses.subject import film, orbit


def test_views_of_one_subject_have_near_colours_and_another_paint_has_not() -> None:
    first = film(orbit(torch.linspace(0, 300, 8)))
    second = film(orbit(torch.linspace(30, 330, 8), elevation=25.0))
    one, other = cut(*first, 32), cut(*second, 32)
    assert color_distance(one, one) == 0
    assert color_distance(one, other) < COLORS_APART
    painted = cut(np.ascontiguousarray(second[0][..., [2, 0, 1]] // 2), second[1], 32)
    assert color_distance(one, painted) > COLORS_APART
    assert color_distance(one, painted) == pytest.approx(color_distance(painted, one))


def test_what_lies_around_the_subject_does_not_count() -> None:
    rgb, mask = film(orbit(torch.linspace(0, 150, 4)))
    behind = np.where(mask[..., None] > 0, rgb, np.array([0, 90, 255], np.uint8))
    assert color_distance(cut(rgb, mask, 32), cut(behind, mask, 32)) < 0.5


@pytest.mark.parametrize(
    ("worse", "apart", "expected"),
    [(1.75, 1.7, False), (1.4, 15.0, False), (1.73, 15.8, True), (2.8, 1.0, True)],
)
def test_neither_test_alone_makes_a_stranger(worse: float, apart: float, expected: bool) -> None:
    """The fox's two clips; one subject in another light; a fox and a dog; no common shape at all."""
    assert strange(worse, apart) is expected
