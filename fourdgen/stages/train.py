"""Stage train: canonical surfels, their motion and refined root poses. Its artifact is a complete scene.ply."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fourdgen import native
from fourdgen.data.capture import Capture, joined, to_bytes, write_png
from fourdgen.data.records import Alignment, ClipTrack, FrameSet, RootTrack
from fourdgen.fit import gauge, loop, rounds, starts
from fourdgen.fit.confidence import with_confidence
from fourdgen.fit.loop import TrainConfig
from fourdgen.fit.model import Model
from fourdgen.fit.views import View, Views
from fourdgen.geometry.camera import Cameras
from fourdgen.poses.standing import standing
from fourdgen.render import Rasterizer, draw
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import FourdgenError, all_at_once
from fourdgen.scene import files
from fourdgen.scene.bones import ClipTime
from fourdgen.scene.scene4d import EVERY, Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels
from fourdgen.workspace import Context, Job, Stage

SCENE = "scene.ply"
STATE = "model.pt"  # what a round of regeneration takes up: the network of the motion is not in scene.ply
BEST = "best"  # of that state, after a round: dB on the filmed frames of the best asset so far
CHECK_FRAMES = 8
LEAST_SURFELS, MOST_BONES = 10, 256
# Settings, what each of their values must be, what is wrong with others, what to do.
LIMITS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str, str], ...] = (
    (("steps",), lambda v: v >= 1, "every level needs steps", "use 1 or more at each level"),
    (("levels",), lambda v: 8 <= v <= 8192, "a subject of so many pixels cannot be trained on",
     "use 8 to 8192 pixels, coarse to fine"),
    (("progress",), lambda v: v > 0, "no share of the schedules", "use shares above 0"),
    (("growth",), lambda v: 0 < v <= 1, "no share of the surfels", "use shares above 0, 1 at most"),
    (("max_surfels",), lambda v: v >= 0, "a number of surfels is needed", "0: as many as the subject's pixels ask for"),
    (("surfels_per_pixel", "bone_extent"), lambda v: v > 0, "nothing comes of that", "use more than 0"),
    (("bones",), lambda v: 1 <= v <= MOST_BONES, "so many bones cannot be trained", f"use 1 to {MOST_BONES}"),
    (("starts", "densify_every", "checkpoint_every"), lambda v: v >= 1, "at least 1 is needed", "use 1 or more"),
    (("choose_at",), lambda v: 0 < v < 1, "no place within the training", "use a share above 0 and below 1"),
    (("rebuild_at",), lambda v: 0 < v < 1, "no places within the training",
     "use shares above 0 and below 1; leave it empty to never rebuild"),
    (("take_up", "search_at"), lambda v: 0 <= v < 1, "no share of the training", "use 0 or more, below 1"),
    (("ssim",), lambda v: 0 <= v <= 1, "no share of the colour loss", "use 0 to 1"),
    (("mask", "normal", "normal_late", "rigidity", "needle", "pose_turning", "pose_travel", "pose_prior", "smoothness"),
     lambda v: v >= 0, "no weight", "use 0 or more; 0 switches it off"),
    (("needle_bound",), lambda v: v >= 1, "no aspect ratio", "use 1 or more"),
)  # fmt: skip
WORSE = 0.1  # dB on the filmed frames that all rounds together may cost: one that costs more is undone


def check(job: Job, config: TrainConfig) -> None:
    """Raises FourdgenError: all settings with which nothing could be trained, or only nonsense."""
    errors = [
        FourdgenError(f"train.{name} = {_said(getattr(config, name))}: {wrong}", hint)
        for names, fits, wrong, hint in LIMITS
        for name in names
        if not all(fits(value) for value in _each(getattr(config, name)))
    ]
    ladders = {len(config.steps), len(config.levels), len(config.progress), len(config.growth)}
    if len(ladders) != 1 or 0 in ladders:
        wrong = "train.steps, train.levels, train.progress and train.growth differ in length or are empty"
        errors.append(FourdgenError(wrong, "one entry a level"))
    if list(config.rebuild_at) != sorted(config.rebuild_at):
        wrong = f"train.rebuild_at = {_said(config.rebuild_at)}: not in rising order"
        errors.append(FourdgenError(wrong, "such as 0.1,0.2; leave it empty to never rebuild"))
    if 0 < config.max_surfels < LEAST_SURFELS:
        wrong = f"train.max_surfels = {config.max_surfels}: so few surfels are no surface"
        errors.append(FourdgenError(wrong, f"use {LEAST_SURFELS} or more; 0: as many as the subject's pixels ask for"))
    if errors:
        raise all_at_once(errors)


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _said(value: Any) -> str:
    return ",".join(f"{v:g}" for v in _each(value))  # as it is typed after --set


def run(
    ctx: Context, config: TrainConfig, capture: Capture, alignment: Alignment, track: RootTrack, frames: FrameSet
) -> Scene4D:
    capture = capture.toned({name: (a.gain, a.bias) for name, a in alignment.clips.items()})
    rasterizer = rasterizer_on(ctx.device, report=ctx.report)
    ctx.report.emit("note", text=f"renderer: {rasterizer.name}")
    times = _clip_times(capture, alignment, frames.every)
    if frames.every > 1:  # frames that do not train tell the body nothing: what bobs there stays the camera's
        track = replace(track, clips={name: clip.bobbing() for name, clip in track.clips.items()})

    def as_scene(model: Model) -> Scene4D:
        return written_scene(model, capture, alignment, track, str(ctx.job.run_folder), frames.every)

    checkpoint = ctx.folder / "checkpoint.pt"
    if config.starts > 1 and not checkpoint.exists():
        subject = starts.Subject(capture, track.clips, frames, times, refine_poses=not track.given)
        starts.begin(
            subject, config, seed=ctx.seed, device=ctx.device, threads=ctx.threads, checkpoint=checkpoint,
            report=ctx.report,
        )  # fmt: skip
    model = loop.train(
        capture, track.clips, frames, times, config,
        refine_poses=not track.given, rasterizer=rasterizer, seed=ctx.seed, checkpoint=checkpoint,
        publish=lambda model: files.write(ctx.job.output, as_scene(model)), report=ctx.report,
    )  # fmt: skip
    views = Views(capture, track.clips, config.levels[-1])
    found = as_scene(model)
    _report_quality(ctx, model, found, views, frames, rasterizer)
    scene, drifts = gauge.settled(found, times, fixed(track))
    scene = with_confidence(scene, capture, rasterizer)
    torch.save({**model.trained(), "drifts": drifts}, ctx.folder / STATE)
    _draw_check(scene, views, frames, rasterizer, ctx.folder / "check.png")
    for path in [checkpoint, *ctx.folder.glob("start*.pt")]:
        path.unlink(missing_ok=True)
    return scene


def run_round(
    ctx: Context, config: TrainConfig, capture: Capture, alignment: Alignment, track: RootTrack, frames: FrameSet,
    before: Scene4D, made: Capture,
) -> Scene4D:  # fmt: skip
    """Training once more, with made-up views beside the filmed frames (docs/method.md 11.6). The result is the better
    scene on the filmed frames: a round that makes them worse is undone, and says so."""
    with_made = rounds.frames_with_views(frames, made)
    if len(with_made.index) == len(frames.index):
        ctx.report.emit("note", text="no new view was kept: the asset stays as it was", kept=False, draws=0.0)
        _keep_state(before, ctx.folder)
        return before
    after, state = trained_on(ctx, config, capture, alignment, track, frames, before, made)
    capture = capture.toned({name: (a.gain, a.bias) for name, a in alignment.clips.items()})
    rasterizer = rasterizer_on(ctx.device)
    views = Views(capture, track.clips, config.levels[-1])
    psnr = [_filmed_psnr(scene, views, frames, rasterizer) for scene in (before, after)]
    best = max(psnr[0], _best_before(before))
    better = psnr[1] >= best - WORSE
    _draw_check(after, views, frames, rasterizer, ctx.folder / "check.png")
    said = f"filmed frames {psnr[0]:.2f} dB before and {psnr[1]:.2f} dB after the round"
    first, settled = loop.first_step(config, config.take_up), loop.first_step(config, loop.SETTLE)
    drawn_for = max(0, settled - first) / max(1, sum(config.steps) - first)  # then only filmed frames are drawn
    draws = drawn_for * rounds.draws_of(with_made, len(frames.names))
    said += f" ({best:.2f} dB at best before)" if best > psnr[0] else ""
    ctx.report.emit("note", text=said + ("" if better else ": it is undone"), before=psnr[0], after=psnr[1],
                    best=best, kept=better, draws=draws)  # fmt: skip
    if better:
        torch.save({**state, BEST: max(best, psnr[1])}, ctx.folder / STATE)
    else:
        _keep_state(before, ctx.folder)
    return after if better else before


def trained_on(
    ctx: Context, config: TrainConfig, capture: Capture, alignment: Alignment, track: RootTrack, frames: FrameSet,
    before: Scene4D, made: Capture,
) -> tuple[Scene4D, dict[str, Any]]:  # fmt: skip
    """The asset trained further with made-up views (there may be none), and the state of it that can be taken up.

    Where cameras were found, only the surfels train: what training does to the motion there is shared between body and
    camera in a way that no picture tells, and no made-up view either, since it is drawn in the frame of the asset.
    """
    capture = capture.toned({name: (a.gain, a.bias) for name, a in alignment.clips.items()})
    rasterizer, initial, drifts = rasterizer_on(ctx.device), None, {}
    if config.take_up > 0 and isinstance(before, Trained) and before.state is not None:
        initial = torch.load(before.state, weights_only=True)
        drifts = initial["drifts"]
    surfels_alone = initial is not None and not track.given
    tracks = rounds.with_views(track.clips, before, made, drifts)
    times = _clip_times(capture, alignment, frames.every)
    model = loop.train(
        joined(capture, made), tracks, rounds.frames_with_views(frames, made), rounds.times_with_views(times, made),
        config, refine_poses=not track.given and not surfels_alone, rasterizer=rasterizer, seed=ctx.seed,
        checkpoint=ctx.folder / "checkpoint.pt", publish=lambda model: None, report=ctx.report,
        initial=initial, begin=config.take_up, hold_motion=surfels_alone,
    )  # fmt: skip
    (ctx.folder / "checkpoint.pt").unlink(missing_ok=True)
    filmed = replace(track, clips={name: tracks[name] for name in track.clips})
    after = written_scene(model, capture, alignment, filmed, str(ctx.job.run_folder), frames.every)
    if surfels_alone:
        after = replace(before, surfels=after.surfels)
    else:
        after, drifts = gauge.settled(after, times, fixed(track))
    return with_confidence(after, capture, rasterizer), {**model.trained(), "drifts": drifts}


def _best_before(before: Scene4D) -> float:
    """dB on the filmed frames of the best asset up to here, where a round has left it beside its state."""
    if not isinstance(before, Trained) or before.state is None:
        return float("-inf")
    return float(torch.load(before.state, weights_only=True).get(BEST, "-inf"))


def _keep_state(before: Scene4D, folder: Path) -> None:
    """A round that changes nothing hands on what the next one takes up, or that would start anew."""
    if isinstance(before, Trained) and before.state is not None:
        shutil.copyfile(before.state, folder / STATE)


@torch.no_grad()
def _filmed_psnr(
    scene: Scene4D, views: Views, frames: FrameSet, rasterizer: Rasterizer, most: int = 48,
    at: Callable[[str, float], Surfels] | None = None,
) -> float:  # fmt: skip
    """On about `most` filmed frames in their windows, on white. `at`: surfels at a time of a clip, else scene.at."""
    errors = []
    for row in range(0, len(frames.index), max(1, len(frames.index) // most)):
        clip, index, seconds = frames.names[int(frames.clip[row])], int(frames.index[row]), float(frames.seconds[row])
        view = views.view(clip, index)
        cameras = _window_cameras(scene, clip, index, view, views)
        state = (at or scene.at)(clip, seconds)
        out = draw(state, cameras, background=torch.ones(3), rasterizer=rasterizer)
        errors.append(float(((out.rgb[0].permute(2, 0, 1).clamp(0, 1) - view.target(torch.ones(3))) ** 2).mean()))
    return -10 * float(torch.tensor(errors).clamp_min(1e-9).log10().mean())


def fixed(track: RootTrack) -> list[str]:
    """Clips whose cameras are not to be moved: given ones, and those that stand still."""
    return [name for name, clip in track.clips.items() if clip.given or clip.still]


def _clip_times(capture: Capture, alignment: Alignment, every: int) -> dict[str, ClipTime]:
    times = {}
    for name, aligned in alignment.clips.items():
        seconds = capture.clip(name).seconds.float()
        if aligned.synchronised_with is None:
            times[name] = ClipTime(seconds, name, every=every)
        else:
            shown = aligned.synchronised_with, aligned.time_rate, aligned.time_offset
            times[name] = ClipTime(seconds, *shown, every=every)
    return times


def written_scene(
    model: Model, capture: Capture, alignment: Alignment, track: RootTrack, run_folder: str, every: int = 1
) -> Scene4D:
    """The model as a file holds it: four bones a surfel, sampled bone poses, refined cameras. It says where only every
    nth frame trained."""
    surfels, motion = model.motion.written(model.surfels())
    refined: Mapping[str, ClipTrack] = track.clips
    if model.corrections is not None:
        refined = model.corrections.tracks(track.clips)
    clips = {}
    for name, poses in refined.items():
        clip, aligned = capture.clip(name), alignment.clips[name]
        cameras = Cameras(poses.cam_from_root, poses.K, clip.size)
        clips[name] = SceneClip(name, clip.seconds.float(), clip.frame_ids, cameras, aligned.gain, aligned.bias)
    notes = {"poses": standing(alignment, track)}
    if every > 1:
        notes[EVERY] = str(every)
    return Scene4D(
        surfels=surfels.detach(), motion=motion, clips=clips, reference=alignment.reference,
        world_from_input=track.world_from_input, run_folder=run_folder, notes=notes,
    )  # fmt: skip


@torch.no_grad()
def _report_quality(
    ctx: Context, model: Model, scene: Scene4D, views: Views, frames: FrameSet, rasterizer: Rasterizer
) -> None:
    """PSNR on the training frames, and what the cut to four bones and sampled poses costs."""
    surfels = model.surfels()
    full = _filmed_psnr(scene, views, frames, rasterizer, 24, partial(model.motion.warp, surfels))
    cut = _filmed_psnr(scene, views, frames, rasterizer, 24)
    ctx.report.emit(
        "note", text=f"training frames {cut:.1f} dB in their windows ({len(scene.surfels)} surfels)", psnr=cut,
        cost_of_writing_db=full - cut,
    )  # fmt: skip
    if full - cut > 0.1:
        ctx.report.warn(f"writing four bones a surfel costs {full - cut:.2f} dB")


def _window_cameras(scene: Scene4D, clip: str, index: int, view: View, views: Views) -> Cameras:
    """The refined camera of a frame, moved into the window that the view shows."""
    refined, window = scene.clips[clip].cameras[index], views.windows[clip]
    K = refined.K[0].clone()
    K[:2, 2] -= window.corner[index].float()
    K[:2] *= view.size[0] / window.side
    return Cameras(refined.cam_from_world, K[None], view.size)


@torch.no_grad()
def _draw_check(scene: Scene4D, views: Views, frames: FrameSet, rasterizer: Rasterizer, path: Path) -> None:
    """Filmed above rendered above normals, for frames spread over all clips."""
    columns = []
    rows = torch.linspace(0, len(frames.index) - 1, min(CHECK_FRAMES, len(frames.index))).long().tolist()
    for row in rows:
        clip, index, seconds = frames.names[int(frames.clip[row])], int(frames.index[row]), float(frames.seconds[row])
        view = views.view(clip, index)
        out = draw(
            scene.at(clip, seconds),
            _window_cameras(scene, clip, index, view, views),
            background=torch.ones(3),
            rasterizer=rasterizer,
        )
        normal = (out.normal[0] * 0.5 + 0.5 * out.alpha[0][..., None]) + (1 - out.alpha[0][..., None])
        pictures = [view.target(torch.ones(3)).permute(1, 2, 0), out.rgb[0], normal]
        column = np.concatenate([to_bytes(p) for p in pictures])
        columns.append(cv2.resize(column, (160, 480), interpolation=cv2.INTER_AREA))
    write_png(path, np.concatenate(columns, 1))


def save(scene: Scene4D, folder: Path) -> None:
    files.write(folder / SCENE, scene)


@dataclass(frozen=True)
class Trained(Scene4D):
    """A trained scene, and where the state lies that further training takes up."""

    state: Path | None = None


def load(folder: Path) -> Scene4D:
    scene, state = files.read(folder / SCENE), folder / STATE
    parts = {f.name: getattr(scene, f.name) for f in fields(scene)}
    return Trained(**parts, state=state if state.is_file() else None)


def facts(job: Job, config: TrainConfig, device: str) -> tuple[str, ...]:
    return (f"native kernel {'present' if native.available() else 'absent'}",)


STAGE = Stage(
    name="train", needs=("ingest", "align", "root_pose", "sample"), config=TrainConfig, version=11,
    run=run, save=save, load=load, check=check, facts=facts,
)  # fmt: skip
# A row of a round of regeneration: `train` and `regenerate` stand for the rows before it (fourdgen/planning.py).
ROUND = Stage(
    name="retrain", needs=("ingest", "align", "root_pose", "sample", "train", "regenerate"), config=TrainConfig,
    version=12, run=run_round, save=save, load=load, check=check, facts=facts,
)  # fmt: skip
