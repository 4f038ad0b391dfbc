"""Stage export: confidence per surfel, then scene.ply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.render import Rasterizer
from fourdgen.render.carried import rasterizer_on
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import normal_axis, rgb_from_sh
from fourdgen.workspace import Context, Stage

SCENE = "scene.ply"


@dataclass(frozen=True)
class ExportConfig:
    """Settings of stage export."""

    confidence_size: int = 256  # longer side of the pictures in which blending weights are gathered
    confidence_views: int = 48  # at most this many frames are looked at


def run(ctx: Context, config: ExportConfig, scene: Scene4D) -> Scene4D:
    confidence = surfel_confidence(scene, rasterizer_on(ctx.device), config)
    return replace(scene, surfels=replace(scene.surfels, confidence=confidence))


@torch.no_grad()
def surfel_confidence(scene: Scene4D, rasterizer: Rasterizer, config: ExportConfig) -> Float[Tensor, "n"]:
    """c_k = (1 - exp(-W_k / w0)) max_f cos+(n_k, view_f) (docs/method.md section 11.3).

    W_k is the blending weight of surfel k summed over the frames, each divided by the pixels that the surfel covers
    there, so that resolution drops out, and the mean over frames makes clip length drop out.
    w0 is a quarter of its median.
    """
    frames = [(name, t) for name, clip in scene.clips.items() for t in range(len(clip.seconds))]
    frames = frames[:: max(1, len(frames) // config.confidence_views)]
    gathered = torch.zeros(len(scene.surfels))
    facing = torch.zeros(len(scene.surfels))
    scales = scene.surfels.log_scales.exp()
    opacities = torch.sigmoid(scene.surfels.opacity)
    for name, t in frames:
        clip = scene.clips[name]
        shrink = min(1.0, config.confidence_size / max(clip.cameras.size))
        size = (max(8, round(clip.cameras.size[0] * shrink)), max(8, round(clip.cameras.size[1] * shrink)))
        cameras = clip.cameras[t].resized(size)
        state = scene.at(name, float(clip.seconds[t]))
        out = rasterizer(state.means, state.quats, scales, opacities, rgb_from_sh(state.sh), cameras, weights=True)
        ray = torch.nn.functional.normalize(state.means - cameras.centers()[0], dim=-1)
        cosine = (normal_axis(state.quats) * ray).sum(-1).abs()
        assert out.weight is not None and out.pixels is not None  # asked for
        seen = out.weight[0] / out.pixels[0].clamp_min(1)
        gathered += seen / len(frames)
        facing = torch.maximum(facing, cosine * (seen > 0.01))
    typical = gathered[gathered > 0].median() if bool((gathered > 0).any()) else torch.tensor(1.0)
    return (1 - torch.exp(-gathered / (0.25 * typical))) * facing


def save(scene: Scene4D, folder: Path) -> None:
    files.write(folder / SCENE, scene)


def load(folder: Path) -> Scene4D:
    return files.read(folder / SCENE)


STAGE = Stage(name="export", needs=("train",), config=ExportConfig, version=1, run=run, save=save, load=load)
