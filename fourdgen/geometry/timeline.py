"""Samples in time: frames are not always evenly spaced, and what moves smoothly does so in time, not per frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

STAMP, RAGGED = 0.006, 0.25  # seconds, steps: stamps are rounded, to 0.01 s in a GIF; less than both means nothing
LEAST_STEP = 0.25  # of the mean step: what two frames that are nearer differ by is noise, and no speed


def ticks(seconds: Float[Tensor, "t"]) -> Float[Tensor, "t"]:
    """Ascending times in steps of the clip, from 0: exactly 0, 1, 2... where frames are evenly spaced but for the
    rounding of their stamps, whole numbers where only some frames of an even clip are there, else real ones.
    """
    count = len(seconds)
    if count < 2:
        return torch.zeros(count)
    time = seconds.double() - seconds[0].double()
    step = time.diff().median().clamp_min(1e-9)
    for whole in (torch.ones(count - 1), (time.diff() / step).round().clamp_min(1)):
        number = torch.cat([torch.zeros(1), whole]).double().cumsum(0)
        centered = number - number.mean()
        pace = (centered @ time) / (centered @ centered)
        if bool(((time - time.mean() - pace * centered).abs() < min(STAMP, RAGGED * float(pace))).all()):
            return number.float()
    return (time / step).float()


@dataclass(frozen=True)
class Spacing:
    """How the samples of one or several curves, one behind the other, lie in time.

    Times are in mean steps of each curve, so an evenly sampled one has nothing but ones, and a second difference is
    the same number whether few samples or many show the same curve unevenly. `step` [n-1]: from each sample to the
    next (1 between curves). `span` [n-2]: time between the middles of an inner sample's two steps, which its
    acceleration stands for; 0 where its neighbours are of another curve.
    """

    step: Float[Tensor, "n-1"]
    span: Float[Tensor, "n-2"]

    @staticmethod
    def of(time: Float[Tensor, "n"], curve: Int[Tensor, "n"] | None = None) -> Spacing:
        """`time` ascends within each curve; `curve`: the number of each sample's curve (one curve without)."""
        curve = torch.zeros(len(time), dtype=torch.long) if curve is None else curve
        step, inside = time.diff(), curve[1:] == curve[:-1]
        for number in curve.unique().tolist():
            mine = inside & (curve[1:] == number)
            if bool(mine.any()):
                step[mine] = (step[mine] / step[mine].mean().clamp_min(1e-9)).clamp_min(LEAST_STEP)
        step = torch.where(inside, step, 1.0)
        return Spacing(step, (step[1:] + step[:-1]) / 2 * (inside[1:] & inside[:-1]))

    def of_rates(self, moved: Float[Tensor, "n-1 k"]) -> Float[Tensor, ""]:
        """Mean squared acceleration over time, from what the curves move by from each sample to the next."""
        rate = moved / self.step[:, None]
        return self._mean(rate[1:] - rate[:-1])

    def of_values(self, values: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        """Mean squared acceleration over time of the curves `values`."""
        before, after = 1 / self.step[:-1, None], 1 / self.step[1:, None]
        return self._mean(after * values[2:] - (before + after) * values[1:-1] + before * values[:-2])

    def _mean(self, change: Float[Tensor, "n-2 k"]) -> Float[Tensor, ""]:
        """Mean over time of the squared acceleration, from the changes of the rate at the inner samples."""
        if len(change) == 0:
            return change.sum()
        weight = torch.where(self.span > 0, 1 / self.span.clamp_min(LEAST_STEP), 0.0)
        return ((change**2).sum(-1) * weight).sum() / self.span.sum().clamp_min(1)
