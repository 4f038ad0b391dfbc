"""Clips that were solved alone, in one root frame: that of the reference, to which the others are registered as wholes
(docs/method.md section 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
from fourdgen.poses.register import Solved, register
from fourdgen.poses.search import ClipSolution
from fourdgen.report import Reporter

KNOWN_STEPS = 150  # for the small model of a clip whose cameras were given
UNSURE = 0.5  # factor on the confidence of a clip that failed a test


@dataclass(frozen=True)
class Joined:
    """The clips that found their place, why others did not, and what check.png shows of both."""

    clips: dict[str, ClipAlignment]
    left_out: dict[str, str]
    blocks: list[check.Block]


def join_clips(
    capture: Capture, solutions: Mapping[str, ClipSolution], reference: str, settings: SearchSettings,
    report: Reporter, known: Alignment | None = None,
) -> Joined:  # fmt: skip
    """The solved clips in the root frame of the reference: one of them, or with `known` (clips whose cameras were
    given) one of those."""
    solved = {name: _solved(capture, name, solution, settings.side) for name, solution in solutions.items()}
    if known is not None:
        solved[reference] = _known(capture, reference, known.clips[reference], settings)
    out = Joined({}, {}, [])
    for name, solution in solutions.items():
        gain, bias = torch.ones(3), torch.zeros(3)
        mine, doubts = solved[name], [] if solution.verdict.accepted else [solution.verdict.reason]
        if name != reference:
            found = register(solved[reference], mine, settings.seed, settings.effort, known is not None)
            report.emit(
                "note",
                text=f"{name} joins {reference}",
                margin=min(found.margin, 99.0),
                stranger=found.stranger,
                apart=found.apart,
                exposed=found.exposed,
                gain=found.gain.tolist(),
                bias=found.bias.tolist(),
            )
            mine = replace(mine, rotation=found.rotation, place=found.place)
            gain, bias = found.gain, found.bias
            if not found.fits:
                out.left_out[name] = found.reason
                report.warn(f"{name} is left out: {found.reason}")
                shown = replace(mine, model=solved[reference].model)
                out.blocks.append(check.block_of(name, shown.fit(), left_out=found.reason))
                continue
            if found.reason:
                doubts.append(found.reason)
        frames = _all_frames(capture, name, mine, solution, not doubts, "; ".join(doubts))
        out.clips[name] = replace(frames, gain=gain, bias=bias)
        # The reference's model from the clip's poses: it shows whether the clip was placed rightly beside it.
        shown = replace(mine, model=solved[reference].model)
        said = "the view does not turn" if solution.still else ""
        out.blocks.append(check.block_of(name, shown.fit(), said, "; ".join(doubts)))
    return out


def best_of(solutions: Mapping[str, ClipSolution]) -> str:
    """The accepted clip that sees most directions; the first of equals."""

    def seen(solution: ClipSolution) -> tuple[bool, int]:
        bins = torch.rad2deg(azimuths(solution.rotation)).div(15).floor().remainder(24).unique()
        return solution.verdict.accepted, len(bins)

    return max(solutions, key=lambda name: seen(solutions[name]))


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
    fit = Fit(pictures, poses[:, :3, :3], torch.tensor([focal]), settings.surfels, settings.seed, place=place)
    fit.run(steps_of(KNOWN_STEPS, settings), Pace(turn=0.0, place=0.0, depth=0.0, smooth=0.0), decay=False)
    model = {key: value.detach() for key, value in fit.model.items()}
    return Solved(pictures, poses[:, :3, :3], place, focal, model, fit.score())


def _solved(capture: Capture, name: str, solution: ClipSolution, side: int) -> Solved:
    pictures = windows_of(capture, name, solution.frames, side)
    solved = Solved(pictures, solution.rotation, solution.place, solution.focal, solution.model, solution.loss)
    return solved.levelled()[0]


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
