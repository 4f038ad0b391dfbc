"""Another subject is told by its colours and by its shape together, or by colours that no exposure explains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourdgen.poses.pictures import cut
from fourdgen.poses.stranger import COLORS_APART, UNEXPOSED, color_distance, exposed_distance, strange
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
    ("worse", "apart", "exposed", "expected"),
    [
        (1.75, 1.7, 1.5, False), (1.4, 15.0, 2.0, False), (1.4, 29.0, 2.8, False), (1.4, 13.0, 3.6, False),
        (1.2, 9.6, 4.1, False), (1.73, 15.8, 2.0, True), (2.8, 1.0, 1.0, True), (1.476, 17.3, 4.1, True),
    ],
)  # fmt: skip
def test_what_makes_a_stranger(worse: float, apart: float, exposed: float, expected: bool) -> None:
    """The fox's two clips; one subject in another light, twice; another tint; a man before two cameras; a fox and a
    dog by both tests; no common shape at all; a fox and a dog whose shapes pass, by their colours alone."""
    assert strange(worse, apart, exposed) is expected


@pytest.mark.parametrize("light", [0.5, 0.7, 1.4])
def test_another_exposure_is_seen_through_and_another_paint_is_not(light: float) -> None:
    first = film(orbit(torch.linspace(0, 300, 6)))
    second = film(orbit(torch.linspace(30, 330, 6), elevation=25.0))
    one = cut(*first, 32)
    exposed = np.clip(second[0] * light, 0, 255).astype(np.uint8)
    lit, painted = cut(exposed, second[1], 32), cut(np.ascontiguousarray(exposed[..., [2, 0, 1]]), second[1], 32)
    assert color_distance(one, lit) > 2 * COLORS_APART
    assert exposed_distance(one, lit) < UNEXPOSED
    assert exposed_distance(one, painted) > UNEXPOSED
    assert exposed_distance(one, lit) == pytest.approx(exposed_distance(lit, one))
