"""Registration: one similarity for all held-out views and times, or one for each time, refined on their pictures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourdgen.adam import Adam
from fourdgen.evaluate.pictures import draw_as_filmed
from fourdgen.evaluate.truth import View
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, rigid, so3_exp
from fourdgen.render import Rasterizer
from fourdgen.report import Reporter, Silent
from fourdgen.scene.files import extent
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels


@dataclass(frozen=True)
class Level:
    """One resolution of the search: longer side in pixels, steps, and the first step's length (radians, relative)."""

    side: int
    steps: int
    rate: float


LEVELS = (Level(32, 80, 0.02), Level(64, 80, 0.01), Level(128, 60, 0.004), Level(256, 40, 0.0015))
INSTANT = (Level(64, 40, 0.02), Level(128, 30, 0.005))
BATCH = 12  # pictures a step
CHECKED = 64  # pictures by which candidates are compared: fewer than twice as many, and all where there are fewer


@dataclass(frozen=True)
class _Group:
    """Held-out pictures of one time and size."""

    clip: SceneClip
    surfels: Surfels
    entries: Cameras  # in the truth's world
    rgb: Float[Tensor, "v 3 h w"]


def register(
    scene: Scene4D,
    views: list[View],
    start: Sim3,
    rasterizer: Rasterizer,
    report: Reporter = Silent(),
    levels: tuple[Level, ...] = LEVELS,
) -> Sim3:
    """`root_from_truth`: `start` corrected by the 7 numbers that make the held-out pictures agree best.

    Adam through the rasterizer's camera gradient, coarse to fine; of the start and the results of all levels the
    one that is best on the pictures is returned, so registering makes no score worse. Deterministic.
    """
    center, radius = extent(scene.at(views[0].clip, views[0].seconds))
    candidates = [start]
    done, total = 0, sum(level.steps for level in levels)
    for level in levels:
        groups = _groups(scene, views, level.side)
        correction = torch.zeros(7, requires_grad=True)  # rotation vector, shift in radii, log scale
        optimizer = Adam([{"params": [correction], "lr": level.rate}], betas=(0.9, 0.95))
        order = torch.Generator().manual_seed(0)
        begin = candidates[-1]
        tail = []
        for step in range(level.steps):
            optimizer.param_groups[0]["lr"] = level.rate * (1 - 0.9 * step / level.steps)
            optimizer.zero_grad()
            loss = torch.zeros(())
            count = 0
            for pick in torch.randperm(len(groups), generator=order).tolist():
                loss = loss + _error(groups[pick], begin, correction, center, radius, rasterizer).sum()
                count += len(groups[pick].rgb)
                if count >= BATCH:
                    break
            (loss / count).backward()
            optimizer.step()
            if step >= level.steps * 3 // 4:
                tail.append(correction.detach().clone())
            done += 1
            report.emit("step", stage="register", step=done, total=total, loss=float(loss.detach() / count))
        settled = torch.stack(tail).mean(0)  # batches differ; their mean is nearer to what fits all
        candidates.append(corrected(begin, settled, center, radius))
    return _best(scene, views, candidates, levels[-1].side, rasterizer)


def register_instants(
    scene: Scene4D, views: list[View], start: Sim3, rasterizer: Rasterizer, report: Reporter = Silent()
) -> list[Sim3]:
    """`root_from_truth` of each view, from the views of its own instant alone.

    Pictures do not tell a camera that swings from a body that swings. Where cameras were found, an asset whose shape is
    right at every instant may therefore turn to and fro in the world, and one similarity for all times counts that as
    an error of the shape. No instant comes out worse than with `start`.
    """
    together = defaultdict(list)
    for view in views:
        together[view.clip, view.seconds].append(view)
    found = {}
    for done, (instant, some) in enumerate(together.items(), 1):
        found[instant] = register(scene, some, start, rasterizer, levels=INSTANT)
        report.emit("step", stage="register instants", step=done, total=len(together))
    return [found[view.clip, view.seconds] for view in views]


def corrected(begin: Sim3, correction: Float[Tensor, "7"], center: Float[Tensor, "3"], radius: float) -> Sim3:
    """`begin`, then a turn about `center`, a shift in units of `radius`, and a scaling about `center`."""
    w, shift, scale = correction[:3].double(), correction[3:6].double(), float(correction[6].double().exp())
    rotation = so3_exp(w)
    middle = center.double()
    change = Sim3(scale, rotation, middle + radius * shift - scale * rotation @ middle)
    return change.compose(begin)


def _moved(cameras: Cameras, begin: Sim3, correction: Tensor, center: Tensor, radius: float) -> Cameras:
    """Cameras of the truth's world in the root frame, differentiable in the correction (see Sim3.move_cameras)."""
    first = begin.move_cameras(cameras.cam_from_world)
    scale = correction[6].exp()
    rotation = so3_exp(correction[:3])
    shift = center + radius * correction[3:6] - scale * rotation @ center
    turned = first[:, :3, :3] @ rotation.T
    return Cameras(rigid(turned, scale * first[:, :3, 3] - turned @ shift), cameras.K, cameras.size)


def _error(
    group: _Group, begin: Sim3, correction: Tensor, center: Tensor, radius: float, rasterizer: Rasterizer
) -> Float[Tensor, "v"]:
    cameras = _moved(group.entries, begin, correction, center, radius)
    out = draw_as_filmed(group.clip, group.surfels, cameras, rasterizer)
    difference = out.rgb.permute(0, 3, 1, 2) - group.rgb
    # Between L1 and L2: PSNR is what is reported, but outliers (a leg that is elsewhere) must not pull.
    return (difference**2 + 0.03**2).sqrt().mean(dim=(1, 2, 3))


@torch.no_grad()
def _best(scene: Scene4D, views: list[View], candidates: list[Sim3], side: int, rasterizer: Rasterizer) -> Sim3:
    groups = _groups(scene, views[:: max(1, len(views) // CHECKED)], side)
    zero = torch.zeros(7)
    scores = []
    for candidate in candidates:
        errors = []
        for group in groups:
            cameras = _moved(group.entries, candidate, zero, zero[:3], 1.0)
            out = draw_as_filmed(group.clip, group.surfels, cameras, rasterizer)
            errors.append(((out.rgb.permute(0, 3, 1, 2).clamp(0, 1) - group.rgb) ** 2).mean(dim=(1, 2, 3)))
        scores.append(float(torch.cat(errors).clamp_min(1e-10).log10().mean()))  # mean PSNR, upside down
    return candidates[scores.index(min(scores))]


def _groups(scene: Scene4D, views: list[View], side: int) -> list[_Group]:
    together = defaultdict(list)
    for view in views:
        together[view.clip, view.seconds, view.entry.size].append(view)
    groups = []
    for (clip, seconds, size), some in together.items():
        poses = torch.stack([view.entry.cam_from_input.double() for view in some])
        cameras = Cameras(poses, torch.stack([view.entry.K.float() for view in some]), size).shrunk(side)
        rgb = torch.stack([view.rgb for view in some])
        if cameras.size != size:
            rgb = F.interpolate(rgb, cameras.size[::-1], mode="area")
        groups.append(_Group(scene.clips[clip], scene.at(clip, seconds).detach(), cameras, rgb))
    return groups
