"""Lens distortion against OpenCV's own, and pictures against points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fourdgen.data.lens import Lens, distort, straightener, undistort

K = np.array([[80.0, 0, 50], [0, 82.0, 38], [0, 0, 1]])
LENSES = [
    Lens("polynomial", (-0.2, 0.03), (0.002, -0.001)),
    Lens("polynomial", (0.15, 0.02, 0.01)),
    Lens("rational", (0.1, 0.02, 0.01, 0.05, 0.01, 0.002), (0.001, 0.001)),
    Lens("fisheye", (0.05, -0.01, 0.002, 0.0)),
]


@pytest.mark.parametrize("lens", LENSES)
def test_distort_agrees_with_opencv(lens: Lens) -> None:
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    ours = distort(lens, points) * [K[0, 0], K[1, 1]] + K[:2, 2]
    if lens.model == "fisheye":
        theirs = cv2.fisheye.distortPoints(points[None], K, np.array(lens.k))[0]
    else:
        k = (*lens.k, 0, 0, 0)[: 6 if lens.model == "rational" else 3]
        order = np.array([k[0], k[1], *lens.p, *k[2:]])
        solid = np.concatenate([points, np.ones((50, 1))], 1)
        theirs = cv2.projectPoints(solid[:, None], np.zeros(3), np.zeros(3), K, order)[0][:, 0]
    assert np.abs(ours - theirs).max() < 1e-6


@pytest.mark.parametrize("lens", LENSES)
def test_undistort_inverts_distort(lens: Lens) -> None:
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (50, 2))
    assert np.abs(undistort(lens, distort(lens, points)) - points).max() < 1e-6


@pytest.mark.parametrize("lens", LENSES)
def test_a_straightened_picture_shows_a_point_where_its_camera_puts_it(lens: Lens) -> None:
    """A dot filmed through the lens must land where the new K projects the same ray, to a fifth of a pixel."""
    ray = np.array([0.31, -0.22])
    filmed = distort(lens, ray) * [K[0, 0], K[1, 1]] + K[:2, 2]
    y, x = np.mgrid[:76, :100] + 0.5
    picture = (255 * np.exp(-((x - filmed[0]) ** 2 + (y - filmed[1]) ** 2) / 8)).astype(np.float32)
    undo = straightener(lens, K, (100, 76))
    straight = undo(picture) * (undo.known > 0)
    y, x = np.mgrid[: straight.shape[0], : straight.shape[1]] + 0.5
    found = np.array([(straight * x).sum(), (straight * y).sum()]) / straight.sum()
    wanted = ray * [undo.K[0, 0], undo.K[1, 1]] + undo.K[:2, 2]
    assert np.abs(found - wanted).max() < 0.2
    assert (straight.shape[1], straight.shape[0]) == undo.size


def test_the_picture_grows_for_a_barrel_and_has_unknown_corners_for_a_pincushion() -> None:
    barrel = straightener(Lens("polynomial", (-0.2,)), K, (100, 76))
    assert barrel.size[0] > 100 and barrel.size[1] > 76
    assert barrel.K[0, 2] > K[0, 2] and barrel.K[1, 2] > K[1, 2]  # on the left and above as well
    pincushion = straightener(Lens("polynomial", (0.2,)), K, (100, 76))
    assert pincushion.size == (100, 76)
    assert pincushion.known[0, 0] == 0 and pincushion.known[38, 50] == 255


def test_no_lens_changes_nothing() -> None:
    picture = np.random.default_rng(2).integers(0, 255, (76, 100, 3), np.uint8)
    undo = straightener(Lens(), K, (100, 76))
    assert np.array_equal(undo(picture), picture)
    assert np.array_equal(undo.K, K)
