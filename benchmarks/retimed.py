"""Re-timed versions of a clip: the same camera path at another pace, or with frames missing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

DROPPED, GAP = 1 / 4, 1 / 8  # of an uneven clip: share of its frames that are missing here and there, and in one piece
SEED = 20  # of the frames that are missing: the same ones in every run


def _eased(count: int) -> np.ndarray:
    share = np.linspace(0, 1, count)
    return (share * share * (3 - 2 * share) * (count - 1)).round().astype(int)


def _there_and_back(count: int) -> np.ndarray:
    return np.concatenate([np.arange(0, count, 2), np.arange(count - 1, -1, -2)])


def _stop_and_go(count: int) -> np.ndarray:
    """Twice as fast as filmed, with a pause of a quarter of the clip after each half."""
    half, pause = np.arange(0, count, 2), count // 4
    first, second = half[: len(half) // 2], half[len(half) // 2 :]
    return np.concatenate([first, np.full(pause, first[-1]), second, np.full(pause, second[-1])])


def _uneven(count: int) -> np.ndarray:
    """Frames are missing at random, and in one piece after a third of the clip. First and last stay."""
    gap = np.arange(count // 3, count // 3 + round(GAP * count))
    rest = np.setdiff1d(np.arange(1, count - 1), gap)
    missing = np.random.default_rng(SEED).choice(rest, round(DROPPED * count), replace=False)
    return np.setdiff1d(np.arange(count), np.concatenate([gap, missing]))


VERSIONS: dict[str, Callable[[int], np.ndarray]] = {
    "as_filmed": np.arange,
    "eased": _eased,
    "there_and_back": _there_and_back,
    "stop_and_go": _stop_and_go,
    "first_third": lambda count: np.arange(max(8, count // 3)),
    "uneven": _uneven,
}
TRUE_TIMES = ("as_filmed", "first_third", "uneven")  # their frames keep the times at which they were filmed


def retimed(version: str, seconds: Float[Tensor, "t"]) -> tuple[Int[np.ndarray, "n"], Float[Tensor, "n"]]:
    """Which frames of a clip a version shows, and when. `seconds`: ascending times of the clip's frames. Frames that
    are played faster, slower or backwards are even in time: at the clip's mean step."""
    order = VERSIONS[version](len(seconds))
    if version in TRUE_TIMES:
        return order, seconds[torch.from_numpy(order)]
    step = (seconds[-1] - seconds[0]) / max(1, len(seconds) - 1)
    return order, seconds[0] + step * torch.arange(len(order))
