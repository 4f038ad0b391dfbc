"""The training loop: dynamic surfels from frames, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourdgen.config import of_clip
from fourdgen.data.capture import Capture
from fourdgen.data.records import ClipTrack, FrameSet
from fourdgen.fit import gestures, losses, sampler
from fourdgen.fit.density import Growth
from fourdgen.fit.hull import carve, shell, spread_bones
from fourdgen.fit.model import Model, PoseCorrections, Rates
from fourdgen.fit.rebuild import observe, rebuild
from fourdgen.fit.views import View, Views
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.timeline import Spacing, ticks
from fourdgen.render import Rasterizer, RenderOut
from fourdgen.report import Reporter, Silent
from fourdgen.scene.bones import BoneMotion, ClipTime, acceleration, rigidity
from fourdgen.scene.surfels import rgb_from_sh

LATE = 0.6  # progress from which normals count fully
SETTLE = 0.9  # progress from which only filmed frames are drawn: a round of regeneration ends on what is certain
FIT_STEPS = 500  # over which it is averaged how well the drawn frames are fitted, for the choice among starts
HULL_EXTENT = 1.3  # half side of the cube that is carved; the subject's radius is 0.5-1


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training stage. Sizes are in subject pixels, weights are relative to the colour loss."""

    steps: tuple[int, ...] = (6000, 4600, 2400)  # steps at each level
    levels: tuple[float, ...] = (40.0, 80.0, 160.0)  # size of the subject in pixels at each level
    progress: tuple[float, ...] = (0.30, 0.35, 0.35)  # share of every schedule that each level takes
    growth: tuple[float, ...] = (0.4, 0.7, 1.0)  # share of the surfels that each level may hold
    max_surfels: int = 0  # 0: surfels_per_pixel times the subject's area at the finest level
    surfels_per_pixel: float = 1.4  # number of surfels per covered pixel when max_surfels is 0
    bones: int = 25  # Gaussian bones
    bone_extent: float = 0.6  # extent of a bone, in distances to its neighbours
    starts: int = 1  # trainings begun with seeds of their own; the one that fits the filmed frames best goes on
    choose_at: float = 0.41  # progress at which it is chosen
    motion: bool = True  # false: one rigid asset for all times, such as a statue
    ssim: float = 0.2  # share of D-SSIM in the colour loss, the rest is L1
    mask: float = 0.5  # weight of the silhouette loss
    normal: float = 0.03  # weight of normal consistency, from 30 % of the training on
    normal_late: float = 0.17  # further weight of normal consistency, from 60 % on, when the motion has settled
    rigidity: float = 0.03  # weight of as-rigid-as-possible bones, while they do not hang together
    needle: float = 0.01  # weight of the aspect bound
    needle_bound: float = 6.0  # aspect ratio from which a surfel counts as a needle
    pose_turning: float = 5.0  # weight of the acceleration of refined cameras' turns, radians per squared frame step
    pose_travel: float = 300.0  # the same of their translations, root units: what bobs is the body
    pose_prior: float = 0.01  # weight of the size of root-pose corrections at the start, falling to a tenth
    focal: bool | dict[str, bool] = True  # whether focal lengths that were found move on; may have one value per clip
    take_up: float = 0.62  # progress at which a round of regeneration goes on from the asset; 0: training starts anew
    rebuild_at: tuple[float, ...] = (0.10, 0.17, 0.24)  # progress at which shape and bones are rebuilt
    search_at: float = 0.6  # progress at which limbs are turned by search in frames that do not fit; 0: never
    tree: bool = True  # whether rebuilt bones hang together in a kinematic tree
    smoothness: float = 7.5  # weight of the acceleration of bones, radians and root units per (1/24 s)^2
    densify_every: int = 150  # steps between births
    checkpoint_every: int = 1000  # steps between checkpoints


@dataclass
class Progress:
    """Where the loop stands; everything here is in the checkpoint."""

    step: int = 0
    order: Tensor | None = None  # draws that are left of the current epoch
    fit: float = 0.0  # dB on the frames drawn lately: a running mean over some FIT_STEPS steps


def plan(config: TrainConfig, step: int) -> tuple[int, float]:
    """Level of a step and the progress 0..1 that all schedules follow."""
    done = 0.0
    for level, (count, share) in enumerate(zip(config.steps, config.progress, strict=True)):
        if step < count:
            return level, (done + share * step / count) / sum(config.progress)
        step -= count
        done += share
    return len(config.steps) - 1, 1.0


def first_step(config: TrainConfig, begin: float) -> int:
    """The first step whose progress is at least `begin`."""
    steps = range(sum(config.steps))
    return next((step for step in steps if plan(config, step)[1] >= begin), len(steps))


def rebuild_due(config: TrainConfig, step: int) -> bool:
    """Whether shape and bones are rebuilt before this step: the first at which a share of `rebuild_at` is reached."""
    return config.motion and _reached(config, step, config.rebuild_at)


def search_due(config: TrainConfig, step: int) -> bool:
    """Whether missed movements are searched for before this step: the first at which `search_at` is reached."""
    return config.motion and _reached(config, step, (config.search_at,))


def _reached(config: TrainConfig, step: int, shares: tuple[float, ...]) -> bool:
    before, now = plan(config, step - 1)[1], plan(config, step)[1]
    return step > 0 and any(before < share <= now for share in shares)


def normal_weight(config: TrainConfig, progress: float) -> float:
    """Weight of normal consistency: a little while the motion is sought, much when it has settled (section 5)."""
    early = min(1.0, max(0.0, progress - 0.3) / 0.2)
    late = min(1.0, max(0.0, progress - LATE) / 0.1)
    return config.normal * early + config.normal_late * late


def rate_factor(progress: float, motion: bool = True) -> Callable[[str], float]:
    """Learning-rate schedules by parameter group (docs/method.md section 12). Without motion bones never learn any."""

    def factor(name: str) -> float:
        if name == "means":
            return 10 ** (-2 * max(0.0, progress - 0.1) / 0.9)
        if name in ("motion", "bones"):
            return 0.0 if progress < 0.03 or not motion else 10 ** (-1.5 * max(0.0, progress - 0.2) / 0.8)
        if name in ("poses", "focal"):
            return 0.0 if not 0.15 < progress < 0.8 else 1 - (progress - 0.15) / 0.65 * 0.9
        return 10 ** (-max(0.0, progress - 0.4) / 0.6)

    return factor


def train(
    capture: Capture,
    tracks: Mapping[str, ClipTrack],
    frames: FrameSet,
    clip_times: Mapping[str, ClipTime],
    config: TrainConfig,
    *,
    refine_poses: bool,
    rasterizer: Rasterizer,
    seed: int,
    checkpoint: Path,
    publish: Callable[[Model], None],
    report: Reporter = Silent(),
    initial: Mapping[str, Any] | None = None,
    begin: float = 0.0,
    until: float = 1.0,
    hold_motion: bool = False,
) -> Model:
    """Fit surfels, motion and (optionally) root poses. Goes on from `checkpoint` if it exists, and keeps it up to date.

    `publish(model)` is called at first and with each checkpoint, so that a usable asset exists early. Training stops,
    with a checkpoint, where all schedules stand at `until`, 0..1; 1 is the end, which leaves none of its own. With
    `initial`, the state of a trained model (`Model.trained`), training takes it up where all schedules stand at
    `begin`, 0..1, with the surfels that there are: none are born or dropped. The motion is then not trained where
    `hold_motion` says so.
    """
    generator = torch.Generator().manual_seed(seed)
    total = sum(config.steps)
    finest = Views(capture, tracks, config.levels[-1])
    most = config.max_surfels or max(500, round(config.surfels_per_pixel * finest.covered_pixels()))
    growth, progress = Growth(), Progress()
    if initial is None:
        model = start(finest, tracks, frames, clip_times, config, most, refine_poses, generator)
    else:
        model = Model.taken_up(initial, clip_times, corrections_of(tracks, clip_times, config, refine_poses))
        progress.step = first_step(config, begin)
        if hold_motion:
            model.hold_motion()
    if checkpoint.exists():
        _resume(checkpoint, model, growth, progress, generator)
    publish(model)
    end = total if until >= 1 else first_step(config, until)
    current, views, seen_psnr = -1, finest, 0.0
    spacing = {name: Spacing.of(ticks(time.seconds)) for name, time in clip_times.items()}
    filmed = torch.tensor([clip_times[frames.names[number]].filmed for number in frames.clip.tolist()])

    while progress.step < end:
        level, done = plan(config, progress.step)
        if level != current:
            views = finest if level == len(config.steps) - 1 else Views(capture, tracks, config.levels[level])
            current = level
        if rebuild_due(config, progress.step) and not hold_motion:
            model = rebuild(model, observe(model, finest, tracks, frames), config.tree, generator)
            growth.reset(len(model))
        if search_due(config, progress.step) and initial is None:
            coarse = Views(capture, tracks, config.levels[0])
            gestures.find(model, coarse, tracks, frames, rasterizer, generator, report)
        model.set_rates(rate_factor(done, config.motion))
        row, progress.order = _next(progress.order, frames, filmed if done >= SETTLE else None, generator)

        loss, error = _step_loss(
            model, views, tracks, frames, row, done, progress.step, config, rasterizer, generator, spacing
        )
        loss.backward()
        model.optimizer.step()
        growth.after_backward(model)
        model.optimizer.zero_grad()
        progress.step += 1

        if initial is None and progress.step % config.densify_every == 0 and done < 0.75:
            growth.update(model, round(most * config.growth[level]), generator)
        psnr = -10 * float(torch.log10(error.clamp_min(1e-8)))
        seen_psnr = psnr if seen_psnr == 0 else 0.98 * seen_psnr + 0.02 * psnr
        progress.fit += (psnr - progress.fit) / min(progress.step, FIT_STEPS)
        if progress.step % 25 == 0 or progress.step == total:
            report.emit(
                "step",
                stage="train",
                step=progress.step,
                total=total,
                loss=float(loss.detach()),
                psnr=seen_psnr,
                surfels=len(model),
            )
        if progress.step < total and (progress.step % config.checkpoint_every == 0 or progress.step == end):
            _save(checkpoint, model, growth, progress, generator)
            publish(model)
    return model


def _next(
    order: Tensor | None, frames: FrameSet, among: Tensor | None, generator: torch.Generator
) -> tuple[int, Tensor]:
    """The row of `frames` that is drawn next, and what is left of the epoch; with `among` [rows], one of these only."""
    while True:
        if order is None or len(order) == 0:
            order = sampler.epoch(frames.probability, generator)
        if among is not None:
            order = order[among[order]]
        if len(order):
            return int(order[0]), order[1:]


def start(
    views: Views,
    tracks: Mapping[str, ClipTrack],
    frames: FrameSet,
    clip_times: Mapping[str, ClipTime],
    config: TrainConfig,
    most: int,
    refine_poses: bool,
    generator: torch.Generator,
) -> Model:
    """Seeds on the hull of every second frame, bones among them, no motion yet."""
    rows = range(0, len(frames.index), 2)
    picked = [(frames.names[int(frames.clip[i])], int(frames.index[i])) for i in rows]
    poses = torch.stack([tracks[name].cam_from_root[t] for name, t in picked])
    points, colors = carve([views.view(*key) for key in picked], poses, HULL_EXTENT, generator)
    seeds = shell(points, colors, min(most, max(200, most // 3)), HULL_EXTENT, generator)
    centers, distance = spread_bones(points, config.bones, generator)
    motion = BoneMotion(centers, config.bone_extent * distance, clip_times, generator=generator)
    return Model.from_seeds(
        seeds, motion, corrections_of(tracks, clip_times, config, refine_poses), Rates(), opacity=0.27
    )


def corrections_of(
    tracks: Mapping[str, ClipTrack], clip_times: Mapping[str, ClipTime], config: TrainConfig, refine_poses: bool
) -> PoseCorrections | None:
    """Corrections of the poses of filmed clips without given cameras, where they are to be refined."""
    filmed = {name: track for name, track in tracks.items() if clip_times[name].filmed and not track.given}
    held = [name for name in filmed if not of_clip(config.focal, name, True)]
    return PoseCorrections(filmed, held) if refine_poses else None


def _step_loss(
    model: Model, views: Views, tracks: Mapping[str, ClipTrack], frames: FrameSet, row: int, done: float, step: int,
    config: TrainConfig, rasterizer: Rasterizer, generator: torch.Generator, spacing: Mapping[str, Spacing],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Loss of one frame before a random background, and its plain squared colour error."""
    clip, index = frames.names[int(frames.clip[row])], int(frames.index[row])
    view = views.view(clip, index)
    pose, K = tracks[clip].cam_from_root[index], view.K
    corrected = model.corrections is not None and model.corrections.covers(clip)
    if corrected and model.corrections is not None:
        pose, K = model.corrections.pose(clip, index), model.corrections.intrinsics(clip, K)
    cameras = Cameras(pose[None], K[None], view.size)
    background = torch.rand(3, generator=generator)

    p = model.p
    bones = model.motion.dual_quats(clip, frames.seconds[row : row + 1])
    means, quats, _ = model.motion.carried(bones[0], p["means"], p["quats"])
    out = rasterizer(
        means,
        quats,
        p["log_scales"].exp(),
        torch.sigmoid(p["opacity"]),
        rgb_from_sh(p["sh"]),
        cameras,
        background=background,
    )
    color_loss, silhouette, error = _compared(out, view, background, config)
    loss = color_loss + config.mask * silhouette
    # Every second step with twice the weight: these cost time and change slowly.
    if step % 2 == 0:
        if (weight := normal_weight(config, done)) > 0:
            loss = loss + 2 * weight * losses.normal_consistency(out, cameras).mean()
        if config.smoothness > 0:
            loss = loss + 2 * config.smoothness * acceleration(model.motion, clip).mean()
        if config.rigidity > 0 and len(model.motion.centers) > 1 and not model.motion.joined:
            loss = loss + 2 * config.rigidity * rigidity(model.motion, bones).mean()
        if config.needle > 0:
            loss = loss + 2 * config.needle * losses.needle(p["log_scales"], config.needle_bound).mean()
        if corrected and model.corrections is not None:
            twist = model.corrections.twist_of(clip)
            prior = config.pose_prior * (1 - 0.9 * done)
            loss = loss + 2 * prior * (twist**2).sum(1).mean()
            if len(twist) > 2:
                # Where some frames are held out their cameras bob as measured, and what corrects them is smooth.
                path = model.corrections.path(clip) if frames.every == 1 else model.corrections.change(clip)
                loss = loss + 2 * losses.camera_acceleration(
                    path, spacing[clip], config.pose_turning, config.pose_travel
                )
    return loss, error


def _compared(out: RenderOut, view: View, background: Tensor, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The colour loss and the silhouette loss of a picture, and its plain squared colour error."""
    image, target = out.rgb.squeeze(0).permute(2, 0, 1), view.target(background)
    color = view.strength * losses.photometric(image, target, view.weight, config.ssim)
    silhouette = (out.alpha.squeeze(0) - view.mask).abs()
    if view.weight is not None:
        silhouette = silhouette * view.weight
    return color, silhouette.mean(), F.mse_loss(image.detach(), target)


def _save(path: Path, model: Model, growth: Growth, progress: Progress, generator: torch.Generator) -> None:
    """Atomic: a killed run finds the checkpoint before or this one, never half of it."""
    state = {
        "model": model.state(),
        "growth": {"pull": growth.pull, "steps": growth.steps},
        "step": progress.step,
        "order": progress.order if progress.order is not None else torch.zeros(0, dtype=torch.long),
        "fit": progress.fit,
        "generator": generator.get_state(),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, model: Model, growth: Growth, progress: Progress, generator: torch.Generator) -> None:
    state = torch.load(path, weights_only=True)
    model.load_state(state["model"])
    growth.pull, growth.steps = state["growth"]["pull"], state["growth"]["steps"]
    progress.step, progress.order, progress.fit = state["step"], state["order"], state["fit"]
    generator.set_state(state["generator"])


def fit_of(checkpoint: Path) -> float:
    """dB on the frames that were drawn last before a checkpoint was written."""
    return float(torch.load(checkpoint, weights_only=True)["fit"])
