"""What a person says of a clip's turn (--turn, --sweep), as a cost that holds a path to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fourdgen.poses.hypotheses import SIGNS, azimuths

LEAST_TURN = math.radians(10)  # a path that turns by less in the given sense is not believed to turn in it
SLACK = 0.1  # of a given sweep: people know it about
WEIGHT = 3.0


@dataclass(frozen=True)
class Course:
    """`sign`: +1 where the azimuth grows (the subject turns clockwise seen from above), -1, or 0 if nobody said.
    `sweep`: radians between the farthest azimuths of the path, or None."""

    sign: int
    sweep: float | None

    def strain(self, rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, ""]:
        """By how much a path breaks its word: squared, in radians for the sense, as a share for the sweep."""
        course = azimuths(rotations)
        cost = torch.zeros(())
        if self.sign:
            # Twice the mean distance from the start is the whole turn of an even path; one that turns back has a sign,
            # too.
            cost = cost + (LEAST_TURN - self.sign * 2 * (course.mean() - course[0])).clamp_min(0) ** 2
        if self.sweep is not None:
            share = (course.max() - course.min()) / self.sweep
            cost = cost + ((share - 1).abs() - SLACK).clamp_min(0) ** 2
        return WEIGHT * cost

    def broken(self, rotations: Float[Tensor, "n 3 3"]) -> str:
        """By how much a path that was held breaks its word for all that, in words; empty where it hardly does."""
        course = torch.rad2deg(azimuths(rotations))
        reach = float(course.max() - course.min())
        if self.sweep is not None and abs(math.radians(reach) / self.sweep - 1) > 2 * SLACK:
            return f"it ends with a turn by {reach:.0f} degrees, not the given {math.degrees(self.sweep):.0f} (--sweep)"
        if self.sign * float(course.mean() - course[0]) < 0:
            return "it ends turning against the given sense (--turn)"
        return ""


def course_of(turn: str, sweep: float | None) -> Course | None:
    """From --turn (auto, cw, ccw, none) and --sweep (degrees); None where they say nothing."""
    sign = SIGNS[turn][0] if len(SIGNS.get(turn, ())) == 1 else 0
    return None if sign == 0 and sweep is None else Course(sign, None if sweep is None else math.radians(sweep))


def of_clips(
    courses: Mapping[int, Course | None], clip: Int[Tensor, "n"]
) -> Callable[[Float[Tensor, "n 3 3"]], Float[Tensor, ""]] | None:
    """The strain of several clips' rotations in one tensor. `courses`: by a clip's number; `clip`: the number of each
    row's."""
    parts = [(course, (clip == number).nonzero()[:, 0]) for number, course in sorted(courses.items()) if course]
    if not parts:
        return None
    return lambda rotations: torch.stack([course.strain(rotations[rows]) for course, rows in parts]).sum()
