"""Masks that look wrong are noticed; masks of a subject that walks, turns and grows are not."""

from __future__ import annotations

import numpy as np

from fourdgen.priors.doubts import mask_doubts

HEIGHT, WIDTH, FRAMES = 90, 120, 16


def ellipses(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = [((columns - x[t]) / a[t]) ** 2 + ((rows - y[t]) / b[t]) ** 2 <= 1 for t in range(len(x))]
    return (np.array(inside) * 255).astype(np.uint8)


TIME = np.linspace(0, 1, FRAMES)
ONES = np.ones(FRAMES)


def test_a_subject_that_walks_turns_and_grows_is_not_doubted() -> None:
    walks = ellipses(25 + 70 * TIME, 45 * ONES, 16 + 5 * np.sin(6 * TIME), 20 + 8 * TIME)
    assert mask_doubts(walks) == []
    assert mask_doubts(walks[::4]) == []  # a film of fewer frames a second changes more in each step
    walks[5] = 0  # an empty frame is spoken of elsewhere
    assert mask_doubts(walks) == []


def test_a_speck_is_doubted() -> None:
    (doubt,) = mask_doubts(ellipses(60 + 3 * TIME, 45 * ONES, 2.5 * ONES, 2.5 * ONES))
    assert doubt == "cover 0.2 % of the picture only"


def test_a_mask_that_runs_out_of_the_picture_is_doubted() -> None:
    (doubt,) = mask_doubts(ellipses(60 * ONES, 85 + 2 * TIME, 40 * ONES, 30 * ONES))
    assert doubt == "run out of the picture in 100 % of the frames"
    once = ellipses(60 * ONES, np.where(TIME < 0.2, 88, 45), 30 * ONES, 30 * ONES)
    assert not any("run out" in doubt for doubt in mask_doubts(once))


def test_a_mask_that_jumps_is_doubted() -> None:
    flickers = ellipses(60 * ONES, 45 * ONES, np.where(np.arange(FRAMES) % 5 == 2, 40, 18), 20 * ONES)
    (doubt,) = mask_doubts(flickers)
    assert doubt == "change abruptly in 6 of 15 steps"


def test_no_masks_no_doubts() -> None:
    assert mask_doubts(np.zeros((3, 20, 20), np.uint8)) == []
