"""Short movements that gradient descent misses: limbs are turned by search in frames that do not fit (docs/method.md
section 12).

An arm that is raised for a few frames leaves the place where the model has it altogether. No small turn brings it
nearer to what was filmed, so no gradient points there, and surfels of other parts take its colours on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.data.records import ClipTrack, FrameSet
from fourdgen.fit.model import Model
from fourdgen.fit.rebuild import as_trained
from fourdgen.fit.skeleton import distil
from fourdgen.fit.views import View, Views
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import quat_conjugate, quat_exp, quat_log, quat_multiply, quat_rotate
from fourdgen.render import Rasterizer
from fourdgen.report import Reporter
from fourdgen.scene.surfels import rgb_from_sh

LEAST = 8  # frames without which nothing can be said of what is usual
BAD, RAISED = 1.4, 1.05  # usual losses: of a frame that begins a search, of those beside it that belong to it
MOST_BAD = 1 / 3  # share of the frames: where more fit badly, no short movement is what is wrong
REACH = 8  # frames on each side that say what is usual, and how far a search reaches from a bad frame
COARSE, FINE = (30, 60, 90, 120), (20, 40, 60, 80, 100, 120)  # degrees, both ways about each axis
WORST = 2  # frames of a window at which all limbs are tried
SHORTLIST, FINALISTS = 10, 3  # limbs that are tried again beside one that was found; that are tried in all frames
LIMBS = 4  # that may be turned one after the other
LARGE = 45  # degrees that a turn has to reach: gradients find smaller ones
EXCESS, GAIN = 0.5, 0.03  # shares of the loss above the usual, and of all, that a turn has to remove
JUMP = 0.02  # usual losses that a change by 30 degrees from frame to frame costs
PACE = 0.25  # at the full rate what was found is lost within 40 steps


@dataclass(frozen=True)
class Shot:
    """A training frame, with its time on the clock of the motion that it shows."""

    clip: str
    index: int
    seconds: float
    view: View
    pose: Float[Tensor, "4 4"]


@dataclass(frozen=True)
class Turn:
    """Further rotation vectors (radians, in the frame of the parent) of a bone, from shot to shot of a window."""

    bone: int
    vectors: Float[Tensor, "w 3"]
    loss: float  # summed over the window

    @property
    def degrees(self) -> float:
        """Of the largest."""
        return math.degrees(float(self.vectors.norm(dim=1).max()))


@torch.no_grad()
def find(
    model: Model, views: Views, tracks: Mapping[str, ClipTrack], frames: FrameSet, rasterizer: Rasterizer,
    generator: torch.Generator, report: Reporter,
) -> None:  # fmt: skip
    """Looks for missed movements in every motion. Where one is found, a fresh network is taught it and all the rest as
    it was, and trains slowly from then on; where none is, nothing changes."""
    motion = model.motion
    if not motion.joined:
        return
    taught, changed = {}, False
    for code in sorted({clip.code_of for clip in motion.clips.values()}):
        moments = motion.moments(code)
        taught[code] = motion.twists(code, moments)
        shots = _shots(model, views, tracks, frames, code)
        if len(shots) < LEAST:
            continue
        twists = motion.twists(code, torch.tensor([shot.seconds for shot in shots]))
        loss = torch.stack([_losses(model, *pair, rasterizer)[0] for pair in zip(shots, twists[:, None], strict=True)])
        usual = _usual(loss)
        for window in _windows(loss, usual):
            here = slice(window.start, window.stop)
            turns = _search(model, shots[here], twists[here], loss[here], usual[here], rasterizer, window, len(shots))
            for turn in turns:
                by = _spread(turn.vectors, window, shots, moments)
                taught[code][:, turn.bone, :3] = _turned(by, taught[code][:, turn.bone, :3])
            if turns:
                changed = True
                _report(report, shots[here], turns, float(loss[here].sum()))
    if changed:
        _teach(model, taught, generator)


def _shots(
    model: Model, views: Views, tracks: Mapping[str, ClipTrack], frames: FrameSet, code: str
) -> list[Shot]:  # fmt: skip
    """The filmed training frames that show the motion of clip `code`, by time."""
    shots = {}
    for number, index, seconds in zip(
        frames.clip.tolist(), frames.index.tolist(), frames.seconds.tolist(), strict=True
    ):
        clip = frames.names[number]
        time = model.motion.clips[clip]
        if time.code_of == code and time.filmed:
            seen = as_trained(model, views, tracks, clip, index)
            shots[clip, index] = Shot(clip, index, time.rate * seconds + time.offset, *seen)
    return sorted(shots.values(), key=lambda shot: shot.seconds)


def _losses(
    model: Model, shot: Shot, twists: Float[Tensor, "k b 6"], rasterizer: Rasterizer
) -> Float[Tensor, "k"]:  # fmt: skip
    """Colour and silhouette error of a frame with each of several poses of the bones."""
    p, background = model.p, torch.full((3,), 0.5)
    moved = [model.motion.carried(bones, p["means"], p["quats"])[:2] for bones in model.motion.pose(twists)]
    means, quats = (torch.stack(part) for part in zip(*moved, strict=True))
    view, many = shot.view, len(twists)
    cameras = Cameras(shot.pose.expand(many, 4, 4).contiguous(), view.K.expand(many, 3, 3).contiguous(), view.size)
    out = rasterizer(
        means, quats, p["log_scales"].exp(), torch.sigmoid(p["opacity"]), rgb_from_sh(p["sh"]), cameras,
        background=background,
    )  # fmt: skip
    error = (out.rgb - view.target(background).permute(1, 2, 0)).abs().mean(-1) + 0.5 * (out.alpha - view.mask).abs()
    return (error if view.weight is None else error * view.weight).mean((1, 2))


def _usual(loss: Float[Tensor, "f"]) -> Float[Tensor, "f"]:
    """The median loss around every frame: what is hard to draw changes slowly, as the camera goes round."""
    span = min(len(loss), 2 * REACH + 1)
    first = (torch.arange(len(loss)) - REACH).clamp(0, len(loss) - span)
    return loss.unfold(0, span, 1).median(1).values[first]


def _windows(loss: Float[Tensor, "f"], usual: Float[Tensor, "f"]) -> list[range]:
    """Runs of frames around those that fit badly: with raised neighbours, and one frame beyond them."""
    ratio = (loss / usual.clamp_min(1e-9)).tolist()
    bad = [i for i, value in enumerate(ratio) if value > BAD]
    if len(bad) > MOST_BAD * len(ratio):
        return []
    inside: set[int] = set()
    for i in bad:
        for way in (-1, 1):
            j = i + way
            while 0 <= j < len(ratio) and abs(j - i) < REACH and ratio[j] > RAISED:
                j += way
            inside |= set(range(i, j + way, way))
    places = sorted(inside & set(range(len(ratio))))
    starts = [i for i in places if i - 1 not in places]
    ends = [i + 1 for i in places if i + 1 not in places]
    return [range(*ends_of) for ends_of in zip(starts, ends, strict=True)]


def _search(
    model: Model, shots: Sequence[Shot], twists: Float[Tensor, "w b 6"], loss: Float[Tensor, "w"],
    usual: Float[Tensor, "w"], rasterizer: Rasterizer, window: range, count: int,
) -> list[Turn]:  # fmt: skip
    """Turns of limbs, one after the other, each of which brings the window's loss a good deal nearer to the usual."""
    now, left, wanted = twists.clone(), float(loss.sum()), float(usual.sum())
    limbs = [bone for bone, parent in enumerate(model.motion.parents.tolist()) if parent >= 0]
    unit = JUMP * float(usual.mean()) / math.radians(30) ** 2
    free = window.start == 0, window.stop == count  # ends of the film: nothing beyond that the turn starts from
    worst = (loss / usual).topk(min(WORST, len(loss))).indices.tolist()
    turns: list[Turn] = []
    while left > wanted and limbs and len(turns) < LIMBS:

        def tried(bone: int, degrees: Sequence[int], places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
            return [_tried(model, shots[i], now[i], bone, degrees, rasterizer) for i in places]

        promise = {bone: sum(float(cost.min()) for cost, _ in tried(bone, COARSE, worst)) for bone in limbs}
        limbs = sorted(limbs, key=promise.__getitem__)[:SHORTLIST]
        courses = [_course(bone, tried(bone, FINE, range(len(shots))), unit, free) for bone in limbs[:FINALISTS]]
        large = [course for course in courses if course.degrees > LARGE]
        best = min(large, key=lambda turn: turn.loss, default=None)
        if best is None or left - best.loss < max(EXCESS * (left - wanted), GAIN * left):
            break
        now[:, best.bone, :3] = _turned(best.vectors, now[:, best.bone, :3])
        left = best.loss
        turns.append(best)
        limbs.remove(best.bone)  # a second turn would lead it back along the line of sight, where few pixels tell
    return turns


def _tried(
    model: Model, shot: Shot, twists: Float[Tensor, "b 6"], bone: int, degrees: Sequence[int], rasterizer: Rasterizer
) -> tuple[Float[Tensor, "k"], Float[Tensor, "k 3"]]:
    """Losses of a frame with a limb turned by each of `degrees` both ways about each axis of the camera, first by none;
    and these turns (radians, in the frame of the parent)."""
    angles = torch.tensor([way * math.radians(angle) for angle in degrees for way in (1, -1)])
    axes = torch.cat([torch.zeros(1, 3), (angles[:, None, None] * shot.pose[:3, :3]).flatten(0, 1)])
    above = model.motion.pose(twists[None])[0, int(model.motion.parents[bone]), :4]
    turns = quat_rotate(quat_conjugate(above).expand(len(axes), 4), axes)
    many = twists.repeat(len(turns), 1, 1)
    many[:, bone, :3] = _turned(turns, many[:, bone, :3])
    return _losses(model, shot, many, rasterizer), turns


def _course(
    bone: int, tried: Sequence[tuple[Float[Tensor, "k"], Float[Tensor, "k 3"]]], unit: float, free: tuple[bool, bool]
) -> Turn:
    """The best course over time among the turns that were tried at each frame, by dynamic programming. `unit`: what it
    costs to change by a radian from frame to frame, squared; `free`: at which ends a change from none costs nothing.
    """
    costs, turns = zip(*tried, strict=True)
    ends = [0 if end else unit * (turn**2).sum(1) for end, turn in zip(free, (turns[0], turns[-1]), strict=True)]
    sums, back = costs[0] + ends[0], []
    for cost, before, now in zip(costs[1:], turns, turns[1:], strict=False):
        least, where = (unit * torch.cdist(now, before) ** 2 + sums).min(1)
        sums = cost + least
        back.append(where)
    path = [int((sums + ends[1]).argmin())]
    for where in reversed(back):
        path.insert(0, int(where[path[0]]))
    loss = sum(float(cost[at]) for cost, at in zip(costs, path, strict=True))
    return Turn(bone, torch.stack([turn[at] for turn, at in zip(turns, path, strict=True)]), loss)


def _turned(by: Float[Tensor, "k 3"], vectors: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
    """Rotation vectors, turned further."""
    return quat_log(quat_multiply(quat_exp(by), quat_exp(vectors)))


def _spread(
    vectors: Float[Tensor, "w 3"], window: range, shots: Sequence[Shot], moments: Float[Tensor, "t"]
) -> Float[Tensor, "t 3"]:
    """Turns of a window's frames, at all moments of the motion: none outside, where frames beyond it say so."""
    before, after = window.start > 0, window.stop < len(shots)
    known = torch.nn.functional.pad(vectors, (0, 0, before, after)).numpy()
    seconds = [shot.seconds for shot in shots[window.start - before : window.stop + after]]
    return torch.from_numpy(np.stack([np.interp(moments, seconds, axis) for axis in known.T], 1)).float()


@torch.enable_grad()
def _teach(model: Model, twists: Mapping[str, Float[Tensor, "t b 6"]], generator: torch.Generator) -> None:
    """A fresh network for all motions, whose moments of Adam are gone; those of everything else go on."""
    motion = model.motion
    motion.forget(generator)
    distil(motion, twists, generator)
    motion.pace.fill_(PACE)
    for parameter in (motion.code, *motion.net.parameters()):
        model.optimizer.state.pop(parameter, None)
    model.optimizer.zero_grad()


def _report(report: Reporter, shots: Sequence[Shot], turns: Sequence[Turn], before: float) -> None:
    clip = shots[0].clip
    indices = [shot.index for shot in shots if shot.clip == clip]
    degrees = max(turn.degrees for turn in turns)
    limbs = "a limb" if len(turns) == 1 else f"{len(turns)} limbs"
    said, now = ("was", "is") if len(turns) == 1 else ("were", "are")
    gain = 1 - turns[-1].loss / before
    report.emit(
        "note", text=f"{clip}: frames {indices[0]} to {indices[-1]}: {limbs} turned by up to {degrees:.0f} degrees "
        f"{said} missed and {now} found (loss -{gain:.0%})", clip=clip, first=indices[0], last=indices[-1],
        bones=[turn.bone for turn in turns], degrees=degrees, gain=gain,
    )  # fmt: skip
