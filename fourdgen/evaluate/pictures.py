"""Held-out pictures against what is drawn: in a clip's own colours, on white, whole and inside the subject's box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourdgen.evaluate.truth import View
from fourdgen.fit import lpips as perceptual
from fourdgen.fit import metrics
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import Rasterizer, RenderOut, draw
from fourdgen.scene.entries import camera_of
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels

WHOLE = ("psnr", "ssim", "lpips", "iou")
PICTURES = (*WHOLE, *(f"box_{key}" for key in WHOLE))


def draw_as_filmed(clip: SceneClip, surfels: Surfels, cameras: Cameras, rasterizer: Rasterizer) -> RenderOut:
    """Surfels on white, in the colours of a clip: gain * asset colour + bias. A clip in the asset's colours is drawn
    as it is."""
    out = draw(surfels, cameras, background=torch.ones(3), rasterizer=rasterizer)
    if bool((clip.gain == 1).all() and (clip.bias == 0).all()):
        return out
    alpha = out.alpha[..., None]
    return replace(out, rgb=(out.rgb - (1 - alpha)) * clip.gain + clip.bias * alpha + (1 - alpha))


def shown(scene: Scene4D, view: View, root_from_truth: Sim3, rasterizer: Rasterizer) -> RenderOut:
    """What a held-out view should see."""
    cameras = camera_of(scene, view.entry, root_from_truth)
    return draw_as_filmed(scene.clips[view.clip], scene.at(view.clip, view.seconds), cameras, rasterizer)


@torch.no_grad()
def picture_scores(
    scene: Scene4D,
    views: Sequence[View],
    root_from_truth: Sequence[Sim3],
    rasterizer: Rasterizer,
    judge: perceptual.Lpips | None,
) -> dict[str, float | None]:
    """Means over the held-out views, on white, of whole pictures and (`box_`) inside the box of the true outline.

    `root_from_truth`: one a view. Pictures and boxes that are too small for SSIM or LPIPS have none.
    """
    rows: dict[str, list[float]] = {key: [] for key in PICTURES}
    for view, mapping in zip(views, root_from_truth, strict=True):
        out = shown(scene, view, mapping, rasterizer)
        drawn, seen, true = out.rgb[0].permute(2, 0, 1).clamp(0, 1), out.alpha[0] > 0.5, view.alpha > 0.5
        _add(rows, "", drawn, view.rgb, seen, true, judge)
        box = metrics.mask_box(true)
        if box is not None:
            inside = (slice(None), *box)
            _add(rows, "box_", drawn[inside], view.rgb[inside], seen[box], true[box], judge)
    return {key: sum(values) / len(values) if values else None for key, values in rows.items()}


def _add(
    rows: dict[str, list[float]],
    prefix: str,
    drawn: Float[Tensor, "3 h w"],
    rgb: Float[Tensor, "3 h w"],
    seen: Bool[Tensor, "h w"],
    true: Bool[Tensor, "h w"],
    judge: perceptual.Lpips | None,
) -> None:
    least = min(seen.shape)
    rows[f"{prefix}psnr"].append(float(metrics.psnr(drawn, rgb)))
    if least >= metrics.SSIM_LEAST_SIDE:
        rows[f"{prefix}ssim"].append(float(metrics.ssim(drawn[None], rgb[None])[0]))
    if judge is not None and least >= perceptual.LEAST_SIDE:
        rows[f"{prefix}lpips"].append(float(judge(drawn[None], rgb[None])[0]))
    rows[f"{prefix}iou"].append(float(metrics.iou(seen[None], true[None])[0]))
