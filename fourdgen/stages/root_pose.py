"""Stage root_pose: poses and focal lengths of all clips together, at higher resolution, body motion beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen import native
from fourdgen.config import of_clip
from fourdgen.data.capture import Capture, stack
from fourdgen.data.records import Alignment, ClipAlignment, ClipTrack, RootTrack, stands_still
from fourdgen.geometry.timeline import ticks
from fourdgen.poses import check, store, tracks
from fourdgen.poses.accept import OVERLAP, outlines_doubt, overlap, without_outlines
from fourdgen.poses.advice import for_clip
from fourdgen.poses.compare import Fit
from fourdgen.poses.course import course_of
from fourdgen.poses.joint import JointSettings, normalised, refine_together
from fourdgen.poses.pictures import Pictures, cut, join, seen_through
from fourdgen.poses.standing import standing
from fourdgen.side_by_side import same_sums
from fourdgen.workspace import Context, Job, Stage

HARDLY = 0.5  # weight of a frame below which its camera is called guessed


@dataclass(frozen=True)
class RootPoseConfig:
    """Settings of stage root_pose. With cameras given the stage passes them on."""

    side: int = 96  # size in pixels of the pictures on which poses are refined
    surfels: int = 2000  # of the model that is rendered and compared
    effort: float = 1.0  # factor on all step counts
    # Whether focal lengths move from where align left them; may have one value for each clip, as in a=false,b=true.
    focal: bool | dict[str, bool] = True
    batch: int = 8  # frames a step

    def __post_init__(self) -> None:
        for key, most in (("side", 1024), ("surfels", 100_000), ("effort", 100), ("batch", 1000)):
            if getattr(self, key) > most:
                raise ValueError(f"{key} = {getattr(self, key):g}: expected at most {most}")
        if self.side < 16 or self.surfels < 50 or self.effort <= 0 or self.batch < 1:
            raise ValueError("side >= 16, surfels >= 50, effort > 0 and batch >= 1 are needed")


def run(ctx: Context, config: RootPoseConfig, capture: Capture, alignment: Alignment) -> RootTrack:
    if alignment.given:
        clips = {name: ClipTrack(a.cam_from_root, a.K, a.confidence, given=True) for name, a in alignment.clips.items()}
        track = RootTrack(clips, alignment.world_from_input, True, not alignment.doubt, alignment.doubt)
        return _said(ctx, alignment, track)
    with same_sums():
        return _said(ctx, alignment, _refined(ctx, config, capture, alignment))


def _said(ctx: Context, alignment: Alignment, track: RootTrack) -> RootTrack:
    """The track, after the closing line has heard how sure it is."""
    ctx.report.emit("fact", name="poses", text=standing(alignment, track))
    return track


def _refined(ctx: Context, config: RootPoseConfig, capture: Capture, alignment: Alignment) -> RootTrack:
    # The reference first: its root frame is the one that stays.
    capture = capture.toned({name: (a.gain, a.bias) for name, a in alignment.clips.items()})
    names = sorted(alignment.clips, key=lambda name: name != alignment.reference)
    parts, rotation, place, focal = [], [], [], []
    for name in names:
        rgb, mask = stack(capture, name)
        aligned, time = alignment.clips[name], ticks(capture.clip(name).seconds)
        pictures = cut(rgb.numpy(), mask.numpy(), config.side, time=time)
        sides = float(aligned.K[0, 0, 0]) / max(capture.clip(name).size)
        if aligned.given:  # a lens may zoom, and its middle need not be the picture's
            pictures, sides = seen_through(pictures, aligned.K[pictures.frame], capture.clip(name).size)
        if not aligned.given:
            _say_what_is_guessed(ctx, name, pictures)
        poses = aligned.cam_from_root[pictures.frame]
        parts.append(pictures)
        rotation.append(poses[:, :3, :3])
        place.append(tracks.places_of(poses, sides, float(pictures.extent)))
        focal.append(sides)
    settings = _settings(ctx, config)
    pictures = join(parts)
    start = Fit(pictures, torch.cat(rotation), torch.tensor(focal), 0, 0, model={}, place=torch.cat(place))
    rotations = start.rotations().detach()
    still = frozenset(i for i in range(len(names)) if stands_still(rotations[pictures.clip == i]))
    held = frozenset(i for i, name in enumerate(names) if alignment.clips[name].given)
    told = [alignment.clips[name] for name in names]
    courses = {i: course_of(clip.turn, clip.sweep) for i, clip in enumerate(told)}
    lenses = frozenset(i for i, name in enumerate(names) if not of_clip(config.focal, name, True))
    fit = refine_together(
        pictures, torch.cat(rotation), torch.cat(place), torch.tensor(focal), settings, still, held,
        lambda step: ctx.report.emit("step", stage="root_pose", step=step, total=settings.total), courses,
        lenses,
    )  # fmt: skip
    poses = fit.poses().detach()
    if not held:  # else the root frame is the given cameras', and everything stands in it already
        poses = normalised(poses, fit.model["means"].detach(), torch.sigmoid(fit.model["opacity"].detach()))[0]
    # Outlines are measured anew below, at higher resolution and with the motion beside the poses.
    doubts = {name: [without_outlines(a.reason)] if not a.accepted else [] for name, a in alignment.clips.items()}
    losses, found = fit.frame_scores(), fit.focal.detach().exp().tolist()
    clips, singles = {}, []
    for i, name in enumerate(names):
        rows = pictures.clip == i
        aligned = alignment.clips[name]
        clips[name] = ClipTrack(aligned.cam_from_root, aligned.K, aligned.confidence, given=True)
        if not aligned.given:
            clips[name] = _track(
                capture, name, aligned, pictures.frame[rows], poses[rows], found[i], losses[rows], parts[i], i in still
            )
        single = check.of_clip(fit, i)
        singles.append((name, single, found[i]))
        shared = overlap(single)
        ctx.report.emit(
            "note", text=f"{name}: field of view {_fov(found[i]):.0f} degrees, outlines agree to {100 * shared:.0f} %",
            loss=float(losses[rows].mean()), focal=found[i], overlap=shared,
        )  # fmt: skip
        if shared < OVERLAP and i not in still:
            doubts[name].append(outlines_doubt(shared))
        course = courses[i]
        if course is not None and i not in still | held:
            doubts[name].append(course.broken(poses[pictures.clip == i, :3, :3]))
    clips = {name: clips[name] for name in alignment.clips}
    said = {name: "; ".join(filter(None, parts)) for name, parts in doubts.items()}
    if len(capture.clips) > 1:
        said = {name: for_clip(text, name) for name, text in said.items()}
    blocks = [
        check.block_of(name, single, f"field of view {_fov(focal):.0f} degrees", said[name], given=clips[name].given)
        for name, single, focal in singles
    ]
    blocks += [check.Block(name, f"{name}: LEFT OUT: {why}", check.OUT, []) for name, why in alignment.left_out.items()]
    check.draw(blocks, ctx.folder / "check.png")
    reason = "; ".join(filter(None, [alignment.doubt, *(f"{name}: {text}" for name, text in said.items() if text)]))
    if reason:
        ctx.report.warn(
            f"the cameras are uncertain{', and options in brackets may help' * ('(--' in reason)}: {reason}"
        )
    return RootTrack(clips, alignment.world_from_input, given=False, certain=not reason, reason=reason)


def _say_what_is_guessed(ctx: Context, name: str, pictures: Pictures) -> None:
    """Frames that hardly show the subject get cameras from their neighbours more than from their own picture."""
    hardly = pictures.frame[pictures.weight < HARDLY].tolist()
    if hardly:
        ctx.report.warn(
            f"{name}: {len(hardly)} frames from {hardly[0]} to {hardly[-1]} show less than half of the subject, so "
            "they count less and their cameras are half guessed (leave them out, or give --cameras)"
        )


def _settings(ctx: Context, config: RootPoseConfig) -> JointSettings:
    plain = JointSettings()
    steps = {
        name: max(3, round(getattr(plain, name) * config.effort)) for name in ("held", "whole", "bent", "curve", "free")
    }
    return replace(
        plain, **steps, surfels=config.surfels, batch=config.batch, seed=ctx.seed,
        focal_rate=plain.focal_rate if config.focal else 0.0,
    )  # fmt: skip


def _fov(focal: float) -> float:
    return math.degrees(2 * math.atan(0.5 / focal))


def _track(
    capture: Capture, name: str, aligned: ClipAlignment, frames: Tensor, poses: Float[Tensor, "n 4 4"], focal: float,
    losses: Float[Tensor, "n"], pictures: Pictures, still: bool,
) -> ClipTrack:  # fmt: skip
    """All frames of a clip; those without a subject lie between their neighbours."""
    clip = capture.clip(name)
    extent = float(pictures.extent)
    place = tracks.places_of(poses, focal, extent)
    time = ticks(clip.seconds)
    centers = tracks.centers_between(pictures.center, frames, clip.seconds)
    rotation, placed = tracks.between(poses[:, :3, :3], place, frames, time, focal, pictures.center, centers)
    if still:
        rotation = poses[:1, :3, :3].expand(len(clip), 3, 3)
    moved = tracks.poses_of(rotation, placed, focal, extent)
    moved[frames] = poses
    measured = torch.full((len(clip),), tracks.GUESSED)
    measured[frames] = pictures.weight.clamp_min(tracks.GUESSED)
    steady = tracks.steadied(moved[:, :3, 3], clip.seconds, measured)
    bob = (moved[:, :3, 3] - steady)[:, :2]  # no distances: what is quick in these is an outline's, whose limbs swing
    moved[:, :3, 3] = steady
    confidence = torch.zeros(len(clip))
    doubt = 1.0 if aligned.accepted else 0.5
    confidence[frames] = doubt * pictures.weight * (losses.median() / losses.clamp_min(1e-6)).clamp(0, 1)
    return ClipTrack(moved, tracks.intrinsics_of(focal, clip.size, len(clip)), confidence, bob=bob)


def facts(job: Job, config: RootPoseConfig, device: str) -> tuple[str, ...]:
    return (f"native kernel {'present' if native.available() else 'absent'}",)


STAGE = Stage(
    name="root_pose", needs=("ingest", "align"), config=RootPoseConfig, version=10, run=run,
    save=store.save_track, load=store.load_track, facts=facts,
)  # fmt: skip
