"""Clips that were solved alone, in one root frame: that of the reference (docs/method.md section 9).

They join in the order of their certainty, each as a whole, registered to the clip of those that have joined that it
looks like most: one that shares no side with the reference may well share one with a clip that does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fourdgen.data.capture import Capture, stack
from fourdgen.data.records import Alignment, ClipAlignment
from fourdgen.geometry.timeline import ticks
from fourdgen.poses import check, tracks
from fourdgen.poses.candidates import SearchSettings, steps_of
from fourdgen.poses.compare import Fit, Pace
from fourdgen.poses.hypotheses import azimuths
from fourdgen.poses.pictures import Pictures, cut, mask_boxes, seen_through, spread, whole_boxes
from fourdgen.poses.register import Solved, register, votes
from fourdgen.poses.search import ClipSolution
from fourdgen.poses.stranger import color_distance, exposed_distance, strange_colors
from fourdgen.report import Reporter

KNOWN_STEPS = 150  # for the small model of a clip whose cameras were given
TRIES = 2  # clips to which one is registered before it has to wait for others to join
UNSURE = 0.5  # factor on the confidence of a clip that failed a test


@dataclass(frozen=True)
class Joined:
    """The reference, the clips that found their place in its frame, why others did not, and what check.png shows of
    both."""

    reference: str
    clips: dict[str, ClipAlignment]
    left_out: dict[str, str]
    blocks: list[check.Block]


@dataclass(frozen=True)
class Member:
    """A clip in the frame of its group: how it stands there, its colours against those of the group's first clip
    (filmed = gain * its colour + bias), and a doubt of its place. `reason`: why it does not belong there, if so."""

    solved: Solved
    gain: Float[Tensor, "3"] = field(default_factory=lambda: torch.ones(3))
    bias: Float[Tensor, "3"] = field(default_factory=lambda: torch.zeros(3))
    doubt: str = ""
    reason: str = ""
    margin: float = math.inf

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """The higher, the surer is its place."""
        return not self.reason, not self.doubt, self.margin


class Group:
    """Clips in one root frame, that of the first; others may join them."""

    def __init__(
        self, first: str, members: Mapping[str, Member], solutions: Mapping[str, ClipSolution],
        settings: SearchSettings, report: Reporter, known: bool = False,
    ) -> None:  # fmt: skip
        """`members`: the clips that stand in the frame already, the first among them; with `known` by cameras that
        were given. `solutions`: of every clip that was searched."""
        self.first, self.settings, self.report, self.known = first, settings, report, known
        self.solutions = solutions
        self.members = dict(members)
        self.anchors = {name: member.solved for name, member in members.items()}  # to which others are registered
        self.found: dict[str, Member] = {}  # the surest place of every clip that asked, so far
        self._asked: dict[str, set[str]] = {}

    def take(self, waiting: Mapping[str, Solved]) -> None:
        """Lets those join that fit, the first first. One that is refused, or whose place is in doubt, is asked again
        when others have joined; what is in doubt still joins in the end."""
        left = dict(waiting)
        grown = True
        while grown and left:
            grown = False
            for name, solved in list(left.items()):
                self._ask(name, solved)
                found = self.found[name]
                if not found.reason and not found.doubt:
                    self._join(name, found)
                    del left[name]
                    grown = True
        for name in left:
            if not self.found[name].reason:
                self._join(name, self.found[name])

    def _join(self, name: str, member: Member) -> None:
        self.members[name] = member
        solution = self.solutions[name]
        # A path that was refused leads others astray, and a still view shows one side.
        if solution.verdict.accepted and not solution.still and not member.doubt:
            self.anchors[name] = self._modelled(member.solved)

    def _modelled(self, solved: Solved) -> Solved:
        """With a small model in the group's frame: the clip's own stands in the frame in which it was solved."""
        pictures, focal = solved.pictures, solved.focal
        return replace(solved, model=model_under(pictures, solved.rotation, solved.place, focal, self.settings)[0])

    def _ask(self, name: str, solved: Solved) -> None:
        """Registers a clip to the one that it looks like most of those that it was not registered to so far, and, where
        that leaves a doubt, to the next."""
        asked = self._asked.setdefault(name, set())
        new = [one for one in self.anchors if one not in asked]
        if asked:  # what another subject's colours say, they say of every clip
            new = [one for one in new if not self._other_colors(self.anchors[one], solved)]
        if len(new) > 1:
            new.sort(key=lambda one: votes(self.anchors[one], solved)[1])
        for anchor in new[:TRIES]:
            asked.add(anchor)
            found = self._registered(name, solved, anchor)
            if name not in self.found or found.rank > self.found[name].rank:
                self.found[name] = found
            if self.found[name].rank[:2] == (True, True):
                return

    @staticmethod
    def _other_colors(anchor: Solved, solved: Solved) -> bool:
        pictures = anchor.pictures, solved.pictures
        return strange_colors(color_distance(*pictures), exposed_distance(*pictures))

    def _registered(self, name: str, solved: Solved, anchor: str) -> Member:
        settings, beside = self.settings, self.members[anchor]
        found = register(self.anchors[anchor], solved, settings.seed, settings.effort, self.known)
        gain, bias = found.gain * beside.gain, found.gain * beside.bias + found.bias
        self.report.emit(
            "note", text=f"{name} joins {anchor}", margin=min(found.margin, 99.0), stranger=found.stranger,
            apart=found.apart, exposed=found.exposed, gain=gain.tolist(), bias=bias.tolist(),
        )  # fmt: skip
        placed = replace(solved, rotation=found.rotation, place=found.place)
        if found.fits:
            return Member(placed, gain, bias, doubt=found.reason, margin=found.margin)
        return Member(placed, gain, bias, reason=found.reason, margin=found.margin)


def join_clips(
    capture: Capture, solutions: Mapping[str, ClipSolution], wanted: str | None, settings: SearchSettings,
    report: Reporter, known: Alignment | None = None,
) -> Joined:  # fmt: skip
    """The solved clips in one root frame: with `known` (clips whose cameras were given) theirs, else that of the clip
    `wanted`, else that of the surest one. Where nobody said whose frame it is, the most clips that fit together stay,
    and the others are left out."""
    solved = {name: _solved(capture, name, solution, settings.side) for name, solution in solutions.items()}
    order = by_certainty(solutions)
    if known is not None:
        given = {
            name: Member(_known(capture, name, clip, settings), clip.gain, clip.bias)
            for name, clip in known.clips.items()
        }
        group = Group(known.reference, given, solutions, settings, report, known=True)
        group.take({name: solved[name] for name in order})
    else:
        first = wanted or order[0]
        group = _grown(first, [name for name in order if name != first], solved, solutions, settings, report)
        left = [name for name in order if name not in group.members]
        while wanted is None and len(left) > len(group.members):
            other = _grown(left[0], left[1:], solved, solutions, settings, report)
            if len(other.members) > len(group.members):
                group = other
            left = [name for name in left if name not in other.members]
    out = Joined(group.first, {}, {}, [])
    model = group.members[group.first].solved.model
    for name, solution in solutions.items():
        if name not in group.members:
            outsider = group.found.get(name, Member(solved[name]))
            reason = (
                outsider.reason or f"it looks like another subject than {_listed(list(group.members))} (--reference)"
            )
            out.left_out[name] = reason
            report.warn(f"{name} is left out: {reason}")
            shown = replace(outsider.solved, model=model) if outsider.reason else outsider.solved
            out.blocks.append(check.block_of(name, shown.fit(), left_out=reason))
            continue
        member = group.members[name]
        doubts = [doubt for doubt in (solution.verdict.reason, member.doubt) if doubt]
        frames = _all_frames(capture, name, member.solved, solution, not doubts, "; ".join(doubts))
        out.clips[name] = replace(frames, gain=member.gain, bias=member.bias)
        # The reference's model from the clip's poses: it shows whether the clip was placed rightly beside it.
        shown = replace(member.solved, model=model)
        said = "the view does not turn" if solution.still else ""
        out.blocks.append(check.block_of(name, shown.fit(), said, "; ".join(doubts)))
    return out


def _grown(
    first: str, others: Sequence[str], solved: Mapping[str, Solved], solutions: Mapping[str, ClipSolution],
    settings: SearchSettings, report: Reporter,
) -> Group:  # fmt: skip
    group = Group(first, {first: Member(solved[first])}, solutions, settings, report)
    group.take({name: solved[name] for name in others})
    return group


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def by_certainty(solutions: Mapping[str, ClipSolution]) -> list[str]:
    """Names of the clips: accepted ones first, and of these the ones that see most directions; equals as they come."""

    def seen(solution: ClipSolution) -> tuple[bool, int]:
        bins = torch.rad2deg(azimuths(solution.rotation)).div(15).floor().remainder(24).unique()
        return solution.verdict.accepted, len(bins)

    return sorted(solutions, key=lambda name: seen(solutions[name]), reverse=True)  # stable, reversed or not


def windows_of(capture: Capture, name: str, frames: Int[Tensor, "n"], side: int) -> Pictures:
    """The subject in these frames of a clip, in windows of `side` pixels, numbered by frame and by time."""
    rgb, mask = stack(capture, name, frames)
    time = ticks(capture.clip(name).seconds)
    return cut(rgb.numpy(), mask.numpy(), side, time=time[frames]).numbered(frames, time)


def _known(capture: Capture, name: str, clip: ClipAlignment, settings: SearchSettings) -> Solved:
    """A clip with cameras as if it had been solved: a small model under its poses."""
    pictures = windows_of(capture, name, spread(len(capture.clip(name)), settings.frames), settings.side)
    poses = clip.cam_from_root[pictures.frame]
    pictures, focal = seen_through(pictures, clip.K[pictures.frame], capture.clip(name).size)
    place = tracks.places_of(poses, focal, float(pictures.extent))
    model, loss = model_under(pictures, poses[:, :3, :3], place, focal, settings)
    return Solved(pictures, poses[:, :3, :3], place, focal, model, loss)


def model_under(
    pictures: Pictures, rotation: Float[Tensor, "n 3 3"], place: Float[Tensor, "n 3"], focal: float,
    settings: SearchSettings,
) -> tuple[dict[str, Tensor], float]:  # fmt: skip
    """A small model of a clip under poses that are held, and its loss."""
    fit = Fit(pictures, rotation, torch.tensor([focal]), settings.surfels, settings.seed, place=place)
    fit.run(steps_of(KNOWN_STEPS, settings), Pace(turn=0.0, place=0.0, depth=0.0, smooth=0.0), decay=False)
    return {key: value.detach() for key, value in fit.model.items()}, fit.score()


def _solved(capture: Capture, name: str, solution: ClipSolution, side: int) -> Solved:
    pictures = windows_of(capture, name, solution.frames, side)
    solved = Solved(pictures, solution.rotation, solution.place, solution.focal, solution.model, solution.loss)
    return solved.levelled[0]


def _all_frames(
    capture: Capture, name: str, solved: Solved, solution: ClipSolution, accepted: bool, reason: str
) -> ClipAlignment:
    """Poses of every frame of the clip, those between the solved ones included."""
    clip = capture.clip(name)
    count, frames = len(clip), solution.frames
    time = ticks(clip.seconds)
    centers, shown = mask_centers(stack(capture, name)[1].numpy(), time.numpy())
    rotation, place = tracks.between(
        solved.rotation, solved.place, frames, time, solved.focal, solved.pictures.center, centers
    )
    if solution.still:  # the camera stands: it is the subject that crosses the picture
        rotation = solved.rotation[:1].expand(count, 3, 3)
    poses = tracks.poses_of(rotation, place, solved.focal, float(solved.pictures.extent))
    typical = solution.frame_loss.median()
    per_frame = (typical / solution.frame_loss.clamp_min(1e-6)).clamp(0, 1).numpy()
    confidence = torch.from_numpy(np.interp(time.numpy(), time[frames].numpy(), per_frame)).float() * shown
    confidence = confidence * (1.0 if accepted else UNSURE)
    K = tracks.intrinsics_of(solved.focal, clip.size, count)
    return ClipAlignment(
        poses.float(), K.float(), confidence, torch.ones(3), torch.zeros(3), accepted=accepted, reason=reason
    )


def mask_centers(
    mask: UInt8[np.ndarray, "t h w"], time: Float[np.ndarray, "t"]
) -> tuple[Float[Tensor, "t 2"], Float[Tensor, "t"]]:
    """Middle of the subject (else between its neighbours' in time) from the picture's, in longer sides; 1 where it
    is."""
    height, width = mask.shape[1:]
    boxes = whole_boxes(mask_boxes(mask), (width, height), time)
    shown = ~np.isnan(boxes[:, 0])
    middle = np.stack([(boxes[:, 0] + boxes[:, 2] - width) / 2, (boxes[:, 1] + boxes[:, 3] - height) / 2], 1)
    filled = [np.interp(time, time[shown], middle[shown, axis]) for axis in (0, 1)]
    return torch.from_numpy(np.stack(filled, 1) / max(height, width)).float(), torch.from_numpy(shown).float()
