"""A second look at a clip whose camera path is uncertain: the body moves from the start (docs/method.md section 8).

The first search ranks paths by how well a body that stands still explains them, which is quick, and right for most
clips. A body that gallops, or a view that turns back, is explained better by a wrong path and such a body: there the
right path was not among the last few. Here every start has a body that moves, and some turn back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from fourdgen.poses.candidates import BODY, NODES, WAVES, Candidate, SearchSettings, distinct, first_fit, steps_of
from fourdgen.poses.compare import Fit, Nodes, cosines
from fourdgen.poses.hypotheses import Start, orbit_starts, returning_starts, tidied
from fourdgen.poses.pictures import Pictures
from fourdgen.poses.suggested import Suggested
from fourdgen.poses.turn import Turn

FIRST = (10, 15, 45)  # steps: poses held, body bends, poses bend as a curve of 5 cosines
THEN = (30, 40, 100)  # the same of those that are left, from the orbit next to their path, 7 cosines
KEPT, LEFT = 6, 3  # candidates after the one and the other
ELEVATIONS = (15.0,)  # degrees, of all starts
APART = 8.0  # degrees between candidates


def look_again(
    pictures: Pictures, turn: Turn, settings: SearchSettings, step: Callable[[int, int], None]
) -> list[Candidate]:
    """The best few distinct paths of a wide search in which the body moves, to be refined as others are."""
    starts: list[Start | Suggested] = [
        *orbit_starts(turn, pictures.frame, pictures.time, settings.turn, settings.sweep, ELEVATIONS),
        *returning_starts(pictures.time, settings.turn, ELEVATIONS, settings.sweep),
        *settings.more_starts(),
    ]
    tried = []
    for i, start in enumerate(starts):
        fit = moving(pictures, start.rotations(pictures, settings.focal), None, settings, FIRST, 5, seed=0)
        tried.append(Candidate(start.name, fit, fit.score()))
        step(round(70 * (i + 1) / len(starts)), 100)
    left = []
    for i, candidate in enumerate(distinct(tried, APART)[:KEPT]):
        place, focal = candidate.fit.place.detach(), float(candidate.fit.focal.detach().exp())
        orbit = tidied(candidate.fit.rotations().detach(), place[:, :2], focal, pictures.time)
        fit = moving(pictures, orbit, place, settings, THEN, 7, seed=1)
        left.append(Candidate(candidate.name, fit, fit.score()))
        step(70 + 5 * (i + 1), 100)
    return distinct(left, APART)[:LEFT]


def moving(
    pictures: Pictures, start: Float[Tensor, "n 3 3"], place: Float[Tensor, "n 3"] | None, settings: SearchSettings,
    steps: tuple[int, int, int], waves: int, seed: int,
) -> Fit:  # fmt: skip
    """A fresh model and a body that moves, then poses that bend as a curve beside it."""
    held, bent, curve = steps
    fit = first_fit(pictures, start, settings, place, seed, held)
    fit.nodes = Nodes(fit, NODES, WAVES)
    fit.run(steps_of(bent, settings), replace(BODY, turn=0.0, smooth=0.0), decay=False)
    fit.use_basis(cosines(pictures.time, min(waves, len(pictures))))
    fit.run(steps_of(curve, settings), BODY)
    return fit
