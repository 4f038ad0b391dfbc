"""The root poses of one clip, from nothing: many starts, few survivors, moves along what a fit cannot mend, tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen.geometry.timeline import ticks
from fourdgen.geometry.transforms import nearest_rotation, rotation_angle_degrees, so3_exp
from fourdgen.poses.accept import (
    DISTINCT,
    MARGIN,
    SMALL_TURN,
    Verdict,
    doubted,
    flow_agreement,
    global_turn,
    judge,
    judge_still,
    path_difference,
    small_turn_doubted,
    widest,
)
from fourdgen.poses.again import look_again
from fourdgen.poses.candidates import BODY, NODES, WAVES, Candidate, SearchSettings, distinct, first_fit, steps_of
from fourdgen.poses.compare import Fit, Nodes, Pace, cosines
from fourdgen.poses.hypotheses import SWEEPS, Start, azimuths, orbit_starts, stretched, tidied
from fourdgen.poses.pictures import Pictures, cut, spread
from fourdgen.poses.suggested import Suggested
from fourdgen.poses.turn import Turn, turn_from_flow

# steps with poses held, steps with poses free, hypotheses that survive. The surfels must settle before the poses move:
# a hull fresh from the knife looks wrong everywhere, and poses that are free run away from it (15 degrees, not 4).
ROUNDS = ((15, 15, 10), (40, 40, 4))
PROBE = (60, 60)
TRIAL = (30, 20, 30)  # a move: poses held, free, and free for longer if it is one of the two that promise most
FINAL = (100, 100, 200, 150)  # poses held, body bends, poses bend as a curve, every frame for itself
# Line search: how many candidates, by what share the sweep is changed, by how many degrees the elevation.
MOVES = ((3, 0.2, 12.0), (2, 0.14, 9.0), (2, 0.08, 6.0))
RISES = 3  # cosines of time by which the elevation is moved, the constant among them
FINALISTS = 3
FLOW_DOUBT = 0.12  # a path against the flow has to fit better by so much
EVEN = 1.03  # times the loss of the best path that an orbit near an even one, or a mean, may have and still be believed
KIN, SOFT = 45.0, 0.1  # candidates so near (degrees) have a mean; a loss greater by this share weighs a factor e less
HOPELESS = 1.4  # times the best loss: such a candidate stays as a rival, but nobody spends a line search on it
FIRST_LOOK = 70  # percent of the work, where a second look is needed
STILL = "still"
# Frames times effort from which on a shorter search is believed: 8 frames at a fifth of the effort passed all tests
# with a path that was 22 degrees off.
PROOF = 24.0
LEAST_FRAMES = 3  # with fewer no path is searched
# --turn none is asked back where so much of the clear flow is in one sense: steps held and free, elevations tried.
STILL_STEADY, STILL_PROBE, STILL_ELEVATIONS = 0.5, (40, 40), (10.0,)
OTHER_SWEEP = 1.3  # a sweep that is so many times as wide as the given one, or as narrow, is another
# A turning view has to fit better than a still one by the first factor if the flow turns the same way in at least so
# large a share of the clear frames, else by the last. Bodies turn by less than WIDE, too: there so much more is asked
# where all of the flow is against it (above 0.72 none of the bench's still views that swing by 35 to 60 degrees pass).
STILL_GAIN, STILL_FLOW, SURE_GAIN = 1.05, 0.65, 1.5
WIDE, AGAINST_FLOW = 60.0, 0.85


@dataclass(frozen=True)
class ClipSolution:
    """The solved poses of some frames of a clip. `rotation`, `place`, `focal` are what a Fit needs to start there."""

    frames: Tensor
    rotation: Float[Tensor, "n 3 3"]
    place: Float[Tensor, "n 3"]  # x, y in sides, log distance
    focal: float
    model: dict[str, Tensor]
    loss: float
    still: bool
    name: str
    verdict: Verdict
    turn_sign: int  # what the flow says
    frame_loss: Float[Tensor, "n"]
    still_loss: float  # of the view that never turns
    nodes: Nodes | None = None
    other_sweep: float | None = None  # degrees, where it fits clearly better than the one that was given


def solve_clip(
    rgb: UInt8[np.ndarray, "t h w 3"],
    mask: UInt8[np.ndarray, "t h w"],
    settings: SearchSettings,
    step: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[str, list[Candidate]], None] = lambda stage, candidates: None,
    seconds: Float[Tensor, "t"] | None = None,
) -> ClipSolution:
    """The cascade of docs/method.md 8 for one clip. `step(done, total)` tells how far it is, `watch` sees every round.
    `seconds`: when the frames were filmed (at even times if None): paths are smooth in time.

    Raises ValueError when no frame shows the subject.
    """
    time = torch.arange(len(mask)).float() if seconds is None else ticks(seconds)
    turn = turn_from_flow(rgb, mask, time)
    chosen = spread(len(mask), settings.frames)
    shown = rgb[chosen.numpy()], mask[chosen.numpy()]
    pictures = cut(*shown, settings.side, time=time[chosen]).numbered(chosen, time)
    still = _still(pictures, settings)
    if settings.turn == "none" or len(pictures) < LEAST_FRAMES:
        return _unsearched(still, pictures, turn, settings, step)
    candidates = _race(pictures, turn, settings, step, watch)
    moved = _line_search(candidates, pictures, settings, step)
    watch("moved", moved)
    finalists = _refined(_with_rival(distinct(moved, 10.0), FINALISTS), [], pictures, turn, settings)
    solution = _chosen(finalists, still, pictures, turn, settings)
    if not solution.verdict.accepted:
        again = look_again(pictures, turn, settings, lambda done, total: step(FIRST_LOOK + 25 * done // total, 100))
        finalists = _refined(again, finalists, pictures, turn, settings)
        solution = _chosen(finalists, still, pictures, turn, settings)
    watch("refined", finalists)
    if settings.sweep and not solution.still:
        solution = _sweep_doubted(solution, pictures, settings)
    elif not (solution.still or _told(settings)):
        solution = replace(solution, verdict=small_turn_doubted(solution.verdict, solution.rotation))
    step(100, 100)
    return replace(solution, verdict=proven(solution.verdict, settings.effort, len(pictures)))


def proven(verdict: Verdict, effort: float, frames: int) -> Verdict:
    """The same, unless the search was shorter than the ones on which its tests were measured, and the frames are too
    few to make up for that: then what passed them is no more than likely."""
    if effort >= 1 or effort * frames >= PROOF:
        return verdict
    few = f"a search with {effort:g} of the usual effort on {frames} frames proves nothing (--set align.effort=1)"
    return doubted(verdict, few)


def _unsearched(
    still: Candidate, pictures: Pictures, turn: Turn, settings: SearchSettings, step: Callable[[int, int], None]
) -> ClipSolution:
    """A view that counts as still unseen: because somebody says so, or because there is too little to tell.

    Whoever says so is obeyed, and contradicted where the flow turns one way and a view that turns with it explains the
    pictures much better, the best of a few short fits after the same last fit as every path gets.
    """
    if len(pictures) < LEAST_FRAMES:
        solution = _solution(still, pictures, turn, [], still.loss)
        few = f"only {len(pictures)} of its frames show the subject, too few to tell how the view turns (--cameras)"
        return replace(solution, verdict=doubted(solution.verdict, few))
    rivals = []
    if turn.steady >= STILL_STEADY:
        free = replace(settings, turn="cw" if turn.sign > 0 else "ccw")
        starts = orbit_starts(turn, pictures.frame, pictures.time, free.turn, None, STILL_ELEVATIONS)
        for i, start in enumerate(starts):
            fit = _probe(pictures, start.rotations(pictures, settings.focal), None, free, *STILL_PROBE, 5)
            rivals.append(Candidate(start.name, fit, fit.score()))
            step(80 * (i + 1) // len(starts), 100)
        best = min(rivals, key=lambda c: c.loss)
        rivals = [_refine(best, pictures, free, best.fit.rotations().detach())]
    return _solution(still, pictures, turn, rivals, still.loss)


def _sweep_doubted(solution: ClipSolution, pictures: Pictures, settings: SearchSettings) -> ClipSolution:
    """The solution with a doubt where the same path, stretched to another sweep (or mirrored, unless its sense is
    given) and let go, fits clearly better than the one that is held to what was given."""
    assert settings.sweep is not None
    free = replace(settings, sweep=None)
    own = _probed("own", solution.rotation, solution.place, pictures, settings).loss
    angle = torch.rad2deg(azimuths(solution.rotation))
    reach = max(float(angle.max() - angle.min()), 1.0)
    others = [
        _probed("", stretched(solution.rotation, sense * sweep / reach), solution.place, pictures, free)
        for sense in ((1,) if _told(settings) else (1, -1))
        for sweep in SWEEPS
        if max(sweep / settings.sweep, settings.sweep / sweep) > OTHER_SWEEP
    ]
    best = min(others, key=lambda c: c.loss)
    if best.loss * MARGIN > own:
        return solution
    found = torch.rad2deg(azimuths(best.fit.rotations().detach()))
    other = float(found.max() - found.min())
    reason = f"a turn by about {other:.0f} degrees fits better than the given {settings.sweep:.0f} (--sweep)"
    return replace(solution, verdict=doubted(solution.verdict, reason), other_sweep=other)


def _refined(
    candidates: list[Candidate], others: list[Candidate], pictures: Pictures, turn: Turn, settings: SearchSettings
) -> list[Candidate]:
    """The candidates after their last fit, among `others` that have had theirs, best first."""
    refined = [
        *others,
        *(_refine(candidate, pictures, settings, candidate.fit.rotations().detach()) for candidate in candidates),
    ]
    refined.sort(key=lambda c: c.loss * (1.0 if _told(settings) else _doubt(c, pictures, turn)))
    if others and refined[0] is others[0]:
        return refined
    between = mean_path([(c.fit.rotations().detach(), c.loss) for c in refined])
    if between is not None:
        middle = _refine(refined[0], pictures, settings, between)
        refined = [middle, *refined] if middle.loss < EVEN * refined[0].loss else [*refined, middle]
    # A body that turns to and fro looks like a view that turns unevenly: the even one has the benefit of the doubt.
    even = _refine(refined[0], pictures, settings, refined[0].fit.rotations().detach(), around=1)
    return [even, *refined[1:]] if even.loss < EVEN * refined[0].loss else refined


def mean_path(paths: list[tuple[Float[Tensor, "n 3 3"], float]]) -> Float[Tensor, "n 3 3"] | None:
    """The mean of the first path and of those near it, the ones that fit better weighing more; None without one near.

    `paths`: rotations and loss, the best first. Each has read something else of the body's motion as the camera's; what
    they share is nearer to the truth than each of them.
    """
    first, least = paths[0]
    total, near = first, 0
    for path, loss in paths[1:]:
        turned = path @ global_turn(path, first)
        if float(rotation_angle_degrees(turned, first).median()) < KIN:
            total, near = total + math.exp((1 - loss / least) / SOFT) * turned, near + 1
    return nearest_rotation(total) if near else None


def _told(settings: SearchSettings) -> bool:
    """Whether somebody says which way the view turns: then the flow is not asked."""
    return settings.turn in ("cw", "ccw")


def _chosen(
    finalists: list[Candidate], still: Candidate, pictures: Pictures, turn: Turn, settings: SearchSettings
) -> ClipSolution:
    best = finalists[0]
    if not (_told(settings) or settings.sweep or _turns(best, still, pictures, turn)):
        return _solution(still, pictures, turn, finalists, still.loss)
    return _solution(best, pictures, turn, finalists[1:], still.loss)


def _doubt(candidate: Candidate, pictures: Pictures, turn: Turn) -> float:
    """By what factor a loss counts for more because the flow turns the other way."""
    return 1 + FLOW_DOUBT * (1 - flow_agreement(candidate.fit.rotations().detach(), pictures.frame, turn))


def _turns(best: Candidate, still: Candidate, pictures: Pictures, turn: Turn) -> bool:
    """Whether a turning view explains the clip. A body that bends is explained a little better by any path that is free
    to turn (a bird on a branch: 11 %), so a small gain counts only where the flow turns the same way: most of it where
    the view turns by more than bodies do, else all the more, the less of it does."""
    path = best.fit.rotations().detach()
    agrees = flow_agreement(path, pictures.frame, turn)
    if widest(path) >= WIDE:
        asked = STILL_GAIN if agrees >= STILL_FLOW else SURE_GAIN
    else:
        asked = STILL_GAIN + AGAINST_FLOW * (1 - agrees)
    return still.loss / best.loss > asked


def _probe(
    pictures: Pictures, start: Tensor, place: Tensor | None, settings: SearchSettings, held: int, free: int, waves: int,
    seed: int = 0,
) -> Fit:  # fmt: skip
    """Fresh model, then poses free to bend as a whole, in `waves` cosines."""
    fit = first_fit(pictures, start, settings, place, seed, held)
    fit.use_basis(cosines(pictures.time, min(waves, len(pictures))))
    fit.run(steps_of(free, settings), Pace(turn=0.006))
    return fit


def _race(
    pictures: Pictures, turn: Turn, settings: SearchSettings, step: Callable[[int, int], None], watch: Callable
) -> list[Candidate]:
    """Successive halving over all starts: the survivors, best first."""
    starts: list[Start | Suggested] = [
        *orbit_starts(turn, pictures.frame, pictures.time, settings.turn, settings.sweep),
        *settings.more_starts(),
    ]
    paths: list[tuple[str, Tensor, Tensor | None]] = [
        (s.name, s.rotations(pictures, settings.focal), None) for s in starts
    ]
    alive: list[Candidate] = []
    for number, (held, free, keep) in enumerate(ROUNDS):
        alive = []
        for i, (name, rotation, place) in enumerate(paths):
            fit = _probe(pictures, rotation, place, settings, held, free, 5, seed=number)
            alive.append(Candidate(name, fit, fit.score()))
            step(round(FIRST_LOOK / 4 * (number + (i + 1) / len(paths))), 100)
        alive.sort(key=lambda c: c.loss)
        watch(f"round {number}", alive)
        if number:
            alive = distinct(alive, 8.0)
        alive = _with_rival(alive, keep)
        paths = [(c.name, c.fit.rotations().detach(), c.fit.place.detach()) for c in alive]
    return alive


def _sense(candidate: Candidate) -> bool:
    angle = azimuths(candidate.fit.rotations().detach())
    return bool(angle[-1] > angle[0])


def _with_rival(candidates: list[Candidate], keep: int) -> list[Candidate]:
    """The best `keep`; the last of them gives way to the best that turns the other way: a margin needs a rival."""
    kept = candidates[:keep]
    if len({_sense(c) for c in kept}) == 1:
        other = next((c for c in candidates[keep:] if _sense(c) != _sense(kept[0])), None)
        kept = kept[:-1] + [other] if other is not None else kept
    return kept


def _moved(candidate: Candidate, share: float, tilt: float, pictures: Pictures, settings: SearchSettings) -> Candidate:
    """The best of the moves that a fit by gradient makes too slowly (a wider or narrower sweep; a view that is higher
    or lower all the time, at first and then not, or in the middle) and of no move; each with a fresh model."""
    rotation, place = candidate.fit.rotations().detach(), candidate.fit.place.detach()
    paths = [rotation]
    for curve in cosines(pictures.time, min(RISES, len(pictures))).T:
        pitch = torch.stack([np.radians(tilt) * curve, torch.zeros_like(curve), torch.zeros_like(curve)], 1)
        paths += [so3_exp(pitch) @ rotation, so3_exp(-pitch) @ rotation]
    if not settings.sweep:
        paths += [stretched(rotation, 1 / (1 + share)), stretched(rotation, 1 + share)]
    held, free, longer = TRIAL
    tried = [_probe(pictures, path, place, settings, held, free, 7) for path in paths]
    promising = sorted(tried, key=lambda fit: fit.score())[:2]
    for fit in promising:
        fit.run(steps_of(longer, settings), Pace(turn=0.006))
    return min((Candidate(candidate.name, fit, fit.score()) for fit in promising), key=lambda c: c.loss)


def _line_search(
    candidates: list[Candidate], pictures: Pictures, settings: SearchSettings, step: Callable
) -> list[Candidate]:
    """Large moves for all that may still win, then smaller ones for the best few. Best first."""
    hopeful = [c for c in candidates if c.loss <= HOPELESS * candidates[0].loss]
    rest = [c for c in candidates if c.loss > HOPELESS * candidates[0].loss]
    for number, (most, share, tilt) in enumerate(MOVES):
        hopeful = distinct(hopeful, 4.0)
        tried = []
        for i, candidate in enumerate(hopeful[:most]):
            tried.append(_moved(candidate, share, tilt, pictures, settings))
            step(FIRST_LOOK * (50 + 35 * number // len(MOVES) + 12 * (i + 1) // most) // 100, 100)
        hopeful = sorted(tried, key=lambda c: c.loss) + hopeful[most:]
    if rest:  # rivals must have had as many steps as the others
        rest = [_probed(c.name, c.fit.rotations().detach(), c.fit.place.detach(), pictures, settings) for c in rest]
    return sorted([*hopeful, *rest], key=lambda c: c.loss)


def _probed(name: str, rotation: Tensor, place: Tensor, pictures: Pictures, settings: SearchSettings) -> Candidate:
    fit = _probe(pictures, rotation, place, settings, *PROBE, 7)
    return Candidate(name, fit, fit.score())


def _refine(
    candidate: Candidate, pictures: Pictures, settings: SearchSettings, path: Float[Tensor, "n 3 3"], around: int = 7
) -> Candidate:
    """The candidate with body motion, from the orbit next to `path` (`around`: see `tidied`)."""
    place, focal = candidate.fit.place.detach(), float(candidate.fit.focal.detach().exp())
    orbit = tidied(path, place[:, :2], focal, pictures.time, around)
    fit = with_body(pictures, orbit, place, settings)
    return replace(candidate, fit=fit, loss=fit.score())


def with_body(
    pictures: Pictures, start: Float[Tensor, "n 3 3"], place: Float[Tensor, "n 3"], settings: SearchSettings
) -> Fit:
    """A fresh model, then a body that moves, then poses that bend as a curve, then every frame for itself."""
    held, bent, curve, free = FINAL
    fit = first_fit(pictures, start, settings, place, 7, held)
    fit.nodes = Nodes(fit, NODES, WAVES)
    fit.run(steps_of(bent, settings), replace(BODY, turn=0.0, smooth=0.0), decay=False)
    fit.use_basis(cosines(pictures.time, min(7, len(pictures))))
    fit.run(steps_of(curve, settings), BODY)
    fit.use_basis(torch.eye(len(pictures)))
    fit.run(steps_of(free, settings), replace(BODY, turn=0.004))
    return fit


def _still(pictures: Pictures, settings: SearchSettings) -> Candidate:
    """The model of a view that never turns, with as many steps as a turning one gets in the end. Its body may not turn
    as a whole either: that would be a turning view under another name."""
    held, bent, curve, free = FINAL
    fit = first_fit(pictures, torch.eye(3).repeat(len(pictures), 1, 1), settings, None, 0, held)
    fit.nodes = Nodes(fit, NODES, WAVES, turning=False)
    pace = replace(BODY, turn=0.0, smooth=0.0)
    fit.run(steps_of(bent, settings), pace, decay=False)
    fit.run(steps_of(curve + free, settings), pace)
    return Candidate(STILL, fit, fit.score())


def _solution(
    best: Candidate, pictures: Pictures, turn: Turn, rivals: list[Candidate], still_loss: float
) -> ClipSolution:
    fit = best.fit
    rotation = fit.rotations().detach()
    other = [c.loss for c in rivals if path_difference(rotation, c.fit.rotations().detach()) > DISTINCT]
    still = best.name == STILL
    if still:
        turning = [c.loss for c in rivals if widest(c.fit.rotations().detach()) >= SMALL_TURN]
        verdict = judge_still(still_loss, min(turning, default=None))
    else:
        verdict = judge(fit, pictures.frame, turn, min(other) if other else None)
    return ClipSolution(
        frames=pictures.frame, rotation=rotation, place=fit.place.detach(), focal=float(fit.focal.detach().exp()),
        model={name: value.detach() for name, value in fit.model.items()}, loss=best.loss, still=still,
        name=best.name, verdict=verdict, turn_sign=turn.sign, frame_loss=fit.frame_scores(),
        still_loss=still_loss, nodes=fit.nodes,
    )  # fmt: skip
