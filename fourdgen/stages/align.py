"""Stage align: first poses of every clip, and all clips in one root frame (docs/method.md 8, 9).

With cameras given nothing is searched: the subject is found in the user's world and becomes the middle of the root
frame. Without, every clip is solved alone by render-and-compare (side by side, one process a clip), and the others are
registered as wholes to the clip that came out best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from fourdgen import native
from fourdgen.config import check_clips, of_clip, said_of_clips
from fourdgen.data.capture import Capture, stack
from fourdgen.data.intake import clips_with_cameras
from fourdgen.data.records import Alignment, ClipAlignment
from fourdgen.data.sources import clip_names
from fourdgen.poses import check, given, hull_check, kept, readings, store, tracks
from fourdgen.poses.accept import doubted
from fourdgen.poses.candidates import SearchSettings
from fourdgen.poses.hypotheses import azimuths
from fourdgen.poses.joining import join_clips, windows_of
from fourdgen.poses.pictures import seen_through, spread
from fourdgen.poses.register import tone
from fourdgen.poses.search import LEAST_FRAMES, ClipSolution
from fourdgen.poses.side_by_side import solve_clips
from fourdgen.poses.standing import EQUAL
from fourdgen.poses.stranger import color_distance
from fourdgen.poses.suggested import NAME as SUGGESTED
from fourdgen.poses.suggested import suggest_all
from fourdgen.poses.synchronise import synchronised
from fourdgen.priors import geometry
from fourdgen.report import FourdgenError
from fourdgen.side_by_side import same_sums
from fourdgen.workspace import Context, Job, Stage

VERSION, SEARCHES = 16, 14  # of this stage, and of the searches that it keeps
GUESSED_FOV = 45.0  # degrees; rotations hardly depend on it, and root_pose finds the focal length
SAME_PICTURE = 1.0  # mean difference of two frames, of 255, up to which they show the same
Turning = Literal["auto", "cw", "ccw", "none"]
MOST_CLIPS = 8  # whose cameras have to be found
TONE_FRAMES = 24  # of each clip in the fit of its colours, where cameras are given
OTHER_LIGHT = 3.5  # delta E between two clips of one subject: one exposure leaves up to 2.9 (see poses/stranger.py)


@dataclass(frozen=True)
class AlignConfig:
    """Settings of stage align."""

    # These three may have one value for each clip, as in a=40,b=50.
    fov: float | dict[str, float] | None = None  # what the longer side of the picture sees, degrees; none: it is found
    turn: Turning | dict[str, Turning] = "auto"  # how the subject turns in the pictures, seen from above
    sweep: float | dict[str, float] | None = None  # degrees it turns in a clip, if you know; held within a tenth
    reference: str | None = None  # clip whose root frame all others join; none: the one that is solved best
    sync: bool | None = None  # whether the clips show the same motion; none: those that plainly do
    frames: int = 48  # search poses on at most this many frames of a clip, the rest lie between them
    side: int = 48  # size in pixels of the pictures on which poses are searched
    surfels: int = 1000  # of the small models that are rendered and compared
    effort: float = 1.0  # factor on all step counts of the search
    geometry: str | None = None  # folder or hub name of a Depth Anything 3 model that suggests one more camera path

    def __post_init__(self) -> None:
        for fov in said_of_clips(self.fov):
            if fov is not None and not 2 <= fov <= 150:
                raise ValueError(f"fov = {fov:g}: expected 2 to 150 degrees")
        for sweep in said_of_clips(self.sweep):
            if sweep is not None and not 0 < sweep <= 1440:
                raise ValueError(f"sweep = {sweep:g}: expected more than 0 and at most 1440 degrees")
        named = [name for value in (self.turn, self.sweep) if isinstance(value, dict) for name in value]
        for name in named or [""]:
            sweep = of_clip(self.sweep, name)
            if sweep is not None and of_clip(self.turn, name, "auto") == "none":
                raise ValueError(f"sweep = {sweep:g}: does not go with turn none, a view that does not turn")
        for key, most in (("frames", 10_000), ("side", 1024), ("surfels", 100_000), ("effort", 100)):
            if getattr(self, key) > most:
                raise ValueError(f"{key} = {getattr(self, key):g}: expected at most {most}")
        if self.frames < 3 or self.side < 16 or self.surfels < 50 or self.effort <= 0:
            raise ValueError("frames >= 3, side >= 16, surfels >= 50 and effort > 0 are needed")

    def focal_of(self, name: str) -> float:
        """Of a clip, in longer sides of the picture."""
        return 0.5 / math.tan(math.radians(of_clip(self.fov, name) or GUESSED_FOV) / 2)

    def turn_of(self, name: str) -> str:
        turn: str = of_clip(self.turn, name, "auto")
        return turn

    def sweep_of(self, name: str) -> float | None:
        sweep: float | None = of_clip(self.sweep, name)
        return sweep


def check_reference(job: Job, config: AlignConfig) -> None:
    """The reference must be one of the clips, and have cameras if any clip has: both are known before any work."""
    if config.geometry is not None:
        geometry.check(config.geometry)
    names = clip_names(job.inputs)
    if len(names) > MOST_CLIPS and job.cameras is None:
        raise FourdgenError(
            f"{len(names)} clips: at most {MOST_CLIPS} find their place in one root frame",
            "choose those that see all sides, or give --cameras",
        )
    check_clips({"--turn": config.turn, "--sweep": config.sweep, "--fov": config.fov}, names)
    if config.reference is None:
        return
    if config.reference not in names:
        raise FourdgenError(f"--reference: no clip is called '{config.reference}'", f"choose one of {', '.join(names)}")
    if job.cameras is not None and len(names) > 1:
        _check_has_cameras(config.reference, clips_with_cameras(job.cameras, dict(zip(names, job.inputs, strict=True))))


def _check_has_cameras(reference: str | None, with_cameras: Sequence[str]) -> None:
    if with_cameras and reference is not None and reference not in with_cameras:
        raise FourdgenError(
            f"--reference {reference}: it has no cameras, and other clips have",
            f"choose one of {', '.join(with_cameras)}",
        )


def run(ctx: Context, config: AlignConfig, capture: Capture) -> Alignment:
    names = [clip.name for clip in capture.clips]
    if config.sync is not None and len(names) == 1:
        ctx.report.warn(f"{names[0]} is the only clip, so {'--sync' if config.sync else '--no-sync'} changes nothing")
    with_cameras = [clip.name for clip in capture.clips if clip.cameras is not None]
    without = [name for name in names if name not in with_cameras]
    _check_has_cameras(config.reference, with_cameras)
    if with_cameras and not without:
        _say_what_is_ignored(ctx, config)
    known = _given(ctx, config, capture, with_cameras) if with_cameras else None
    if known is not None and not without:
        return known
    equal = {name for name in without if _motionless(capture, name)}
    settings = {name: _settings(ctx, config, name, name in equal) for name in without}
    if config.geometry is not None:
        network = geometry.load(config.geometry, ctx.device)
        turning = [name for name in without if settings[name].turn != "none"]
        for name, path in suggest_all(network, capture, turning, ctx.report).items():
            settings[name] = replace(settings[name], suggested=path)
    solutions = solve_clips(capture, settings, ctx.folder, ctx.threads, ctx.report, SEARCHES)
    for name in equal:
        told = config.turn_of(name) in ("cw", "ccw") or config.sweep_of(name)
        ctx.report.warn(
            f"{name}: {EQUAL}, so the view counts as still" + (", whatever --turn and --sweep say" if told else "")
        )
        solutions[name] = replace(solutions[name], verdict=doubted(solutions[name].verdict, EQUAL))
    for name, solution in solutions.items():
        _report(ctx, config, name, solution)
    return joined(ctx, config, capture, solutions, known)


def _say_what_is_ignored(ctx: Context, config: AlignConfig) -> None:
    """Options that help a search, where there is none."""
    given = {"--fov": config.fov, "--turn": config.turn if config.turn != "auto" else None, "--sweep": config.sweep}
    names = [name for name, value in given.items() if value is not None]
    if names:
        ctx.report.warn(
            f"all clips have cameras, so {' and '.join(names)} change nothing (leave out --cameras or these)"
        )


# ---- cameras given


def _given(ctx: Context, config: AlignConfig, capture: Capture, names: list[str]) -> Alignment:
    """The clips `names`, all of which have cameras."""
    poses, intrinsics, masks = [], [], []
    filmed = [capture.clip(name) for name in names]
    for clip in filmed:
        assert clip.cameras is not None
        chosen = spread(len(clip), max(4, 120 // len(filmed)))
        poses.append(clip.cameras.cam_from_world[chosen])
        intrinsics.append(clip.cameras.K[chosen])
        masks += list(stack(capture, clip.name, chosen)[1].numpy())
    center, radius = given.subject_ball(torch.cat(poses), torch.cat(intrinsics), masks, ctx.seed)
    world = given.root_from_input(torch.cat(poses), center, radius)
    clips = {}
    for clip in filmed:
        assert clip.cameras is not None
        placed, sure = world.move_cameras(clip.cameras.cam_from_world), torch.ones(len(clip))
        clips[clip.name] = ClipAlignment(
            placed, clip.cameras.K.float(), sure, torch.ones(3), torch.zeros(3), given=True
        )
    reference = config.reference or names[0]
    doubt = _given_doubt(ctx, capture, names)
    clips = _toned(ctx, config, capture, clips, reference)
    check.draw(_given_blocks(capture, clips, doubt), ctx.folder / "check.png")
    ctx.report.emit("note", text=f"cameras given; the subject's radius is {radius:.3g} in their units")
    clips = synchronised(capture, clips, reference, config.sync, ctx.report)
    return Alignment(clips, reference, world, given=True, doubt=doubt)


def _toned(
    ctx: Context, config: AlignConfig, capture: Capture, clips: dict[str, ClipAlignment], reference: str
) -> dict[str, ClipAlignment]:
    """With gain and bias of each clip's colours against the reference's, where these differ by more than the other
    sides that a clip of one subject shows."""
    seen = {
        name: windows_of(capture, name, spread(len(capture.clip(name)), TONE_FRAMES), config.side) for name in clips
    }
    out = dict(clips)
    for name in clips:
        if name == reference or color_distance(seen[reference], seen[name]) <= OTHER_LIGHT:
            continue
        parts = []
        for one in (reference, name):
            poses = clips[one].cam_from_root[seen[one].frame]
            filmed, sides = seen_through(seen[one], clips[one].K[seen[one].frame], capture.clip(one).size)
            parts.append((filmed, poses[:, :3, :3], tracks.places_of(poses, sides, float(filmed.extent)), sides))
        windows, rotation, place, focal = (list(values) for values in zip(*parts, strict=True))
        gain, bias = tone(windows, rotation, place, focal, ctx.seed, config.effort)
        out[name] = replace(clips[name], gain=gain, bias=bias)
        ctx.report.emit(
            "note", text=f"{name}: its colours are {float(gain.mean()):.2f} x those of {reference} {bias.mean():+.2f}",
            clip=name, gain=gain.tolist(), bias=bias.tolist(),
        )  # fmt: skip
    return out


def _given_doubt(ctx: Context, capture: Capture, names: list[str]) -> str:
    """Why the given cameras may be wrong; aloud."""
    filmed = {}
    for name in names:
        clip = capture.clip(name)
        assert clip.cameras is not None
        few = spread(len(clip), max(readings.LEAST, readings.FRAMES // len(names)))
        windows = windows_of(capture, name, few, readings.WINDOW)
        K = hull_check.window_intrinsics(windows, clip.cameras.K[windows.frame].float(), clip.size)
        filmed[name] = readings.Filmed(windows.picture[:, 3:], windows.frame, clip.cameras.cam_from_world.float(), K)
    doubt = readings.doubt_of(filmed, ctx.seed)
    if doubt:
        ctx.report.warn(doubt)
    return doubt


def _given_blocks(capture: Capture, clips: dict[str, ClipAlignment], doubt: str) -> list[check.Block]:
    """Frames of the clips with cameras, and whether these fit them."""
    windows = {name: windows_of(capture, name, spread(len(capture.clip(name)), check.COLUMNS), 96) for name in clips}
    return hull_check.blocks(windows, clips, {name: capture.clip(name).size for name in clips}, doubt)


# ---- cameras searched


def _settings(ctx: Context, config: AlignConfig, name: str = "", motionless: bool = False) -> SearchSettings:
    """Of a clip's search; without its name of what follows, which asks for no turn."""
    settings = SearchSettings(
        focal=config.focal_of(name), turn=config.turn_of(name), sweep=config.sweep_of(name), frames=config.frames,
        side=config.side, surfels=config.surfels, effort=config.effort, seed=ctx.seed,
    )  # fmt: skip
    return replace(settings, turn="none", sweep=None) if motionless else settings


def _motionless(capture: Capture, name: str) -> bool:
    """Whether no frame of a clip differs from the first by more than compression does, where the subject is."""
    rgb, mask = (
        frames.numpy().astype(np.int16) for frames in stack(capture, name, spread(len(capture.clip(name)), 12))
    )
    inside = mask.max(0) > 127
    if not inside.any():
        return False
    return bool((np.abs(rgb - rgb[:1])[:, inside].mean((1, 2)) < SAME_PICTURE).all())


def _report(ctx: Context, config: AlignConfig, name: str, solution: ClipSolution) -> None:
    verdict, report = solution.verdict, ctx.report
    if solution.still:
        report.emit("note", text=f"{name}: the view does not turn", margin=min(verdict.margin, 99.0))
    else:
        angle = torch.rad2deg(azimuths(solution.rotation))
        net = float(angle[-1] - angle[0])
        sense = "cw" if net > 0 else "ccw"  # as --turn says it
        report.emit(
            "note", text=f"{name}: the view turns by {net:+.0f} degrees ({sense})", clip=name,
            loss=solution.loss, still_loss=solution.still_loss, flow=verdict.flow, margin=min(verdict.margin, 99.0),
            overlap=verdict.overlap, relocated=verdict.relocated,
        )  # fmt: skip
    if not verdict.accepted:
        report.emit("note", text=f"{name}: the camera path is uncertain so far", reason=verdict.reason)
    if solution.name == SUGGESTED:
        report.emit("note", text=f"{name}: the path that neural geometry says led to the best one", clip=name)
    turn, sweep = config.turn_of(name), config.sweep_of(name)
    wanted = {"cw": 1, "ccw": -1}.get(turn, 0)
    if len(solution.frames) < LEAST_FRAMES:
        report.warn(f"{name}: {verdict.reason}, so it counts as still")
    elif wanted and not solution.still and solution.turn_sign == -wanted:
        report.warn(f"{name}: --turn {turn} is obeyed, but the optical flow says the subject turns the other way")
    elif turn == "none" and verdict.margin < 1 and not verdict.accepted:
        report.warn(f"{name}: --turn none is obeyed, but a view that turns explains the pictures better")
    if solution.other_sweep is not None:
        report.warn(
            f"{name}: --sweep {sweep:g} is obeyed, but a turn by about {solution.other_sweep:.0f} degrees "
            "explains the pictures better"
        )


def joined(
    ctx: Context, config: AlignConfig, capture: Capture, solutions: dict[str, ClipSolution],
    known: Alignment | None = None,
) -> Alignment:  # fmt: skip
    """All clips in the root frame of the reference; with `known` (clips whose cameras were given) in theirs."""
    given_clips = {} if known is None else dict(known.clips)
    blocks = [] if known is None else _given_blocks(capture, given_clips, known.doubt)
    with same_sums():
        found = join_clips(capture, solutions, config.reference, _settings(ctx, config), ctx.report, known)
    check.draw(blocks + found.blocks, ctx.folder / "check.png")
    clips = synchronised(capture, given_clips | found.clips, found.reference, config.sync, ctx.report)
    ordered = {
        clip.name: replace(clips[clip.name], turn=config.turn_of(clip.name), sweep=config.sweep_of(clip.name))
        for clip in capture.clips
        if clip.name in clips
    }
    world = None if known is None else known.world_from_input
    doubt = "" if known is None else known.doubt
    return Alignment(ordered, found.reference, world, given=False, left_out=found.left_out, doubt=doubt)


def facts(job: Job, config: AlignConfig, device: str) -> tuple[str, ...]:
    kernel = f"native kernel {'present' if native.available() else 'absent'}"
    return (kernel,) if config.geometry is None else (kernel, f"geometry {geometry.files_of(config.geometry)}")


STAGE = Stage(
    name="align", needs=("ingest",), config=AlignConfig, version=VERSION, run=run,
    save=store.save_alignment, load=store.load_alignment, facts=facts, check=check_reference, keeps=kept.PATTERN,
)  # fmt: skip
