"""What the searches for a clip's root poses share: settings, candidates, how a fit begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fourdgen.poses.accept import path_difference
from fourdgen.poses.compare import Fit, Pace
from fourdgen.poses.course import course_of
from fourdgen.poses.pictures import Pictures
from fourdgen.poses.suggested import Suggested

NODES, WAVES = 20, 10  # body motion in the final fit, so that a leap or a swing is not read as a turn of the camera
BODY = Pace(turn=0.006, bend=0.004, stiff=0.1, smooth=30.0, level=0.2)  # cameras move smoothly and hardly roll


@dataclass(frozen=True)
class SearchSettings:
    """How one clip is searched. Step counts are multiplied by `effort`."""

    focal: float = 1.2  # in longer sides of the picture
    turn: str = "auto"  # auto, cw, ccw, none
    sweep: float | None = None  # degrees, if known
    frames: int = 48  # at most so many, evenly spread
    side: int = 48  # of the windows, pixels
    surfels: int = 1000
    effort: float = 1.0
    seed: int = 0
    suggested: Suggested | None = None  # one more start

    def more_starts(self) -> list[Suggested]:
        """Starts beside the orbits."""
        path = self.suggested
        return [] if path is None or not path.obeys(self.turn, self.sweep) else [path]


@dataclass(frozen=True)
class Candidate:
    """A camera path under examination, with the fit that it had last."""

    name: str
    fit: Fit
    loss: float


def steps_of(count: int, settings: SearchSettings) -> int:
    return max(3, round(count * settings.effort))


def first_fit(
    pictures: Pictures, start: Tensor, settings: SearchSettings, place: Tensor | None, seed: int, held: int
) -> Fit:
    """A fresh model for these poses, settled before any of them moves."""
    fit = Fit(pictures, start, torch.tensor([settings.focal]), settings.surfels, settings.seed + seed, place=place)
    course = course_of(settings.turn, settings.sweep)
    fit.course = None if course is None else course.strain
    fit.run(steps_of(held, settings), Pace(turn=0.0, smooth=0.0), decay=False)
    return fit


def distinct(candidates: list[Candidate], degrees: float) -> list[Candidate]:
    """Best first, without those that came to the same path as a better one."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: c.loss):
        rotation = candidate.fit.rotations().detach()
        if all(path_difference(rotation, other.fit.rotations().detach()) > degrees for other in kept):
            kept.append(candidate)
    return kept
