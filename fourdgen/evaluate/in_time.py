"""Scores of pictures that follow each other in time: flicker, and frames between those that were trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.evaluate.pictures import draw_as_filmed
from fourdgen.evaluate.truth import Truth, View
from fourdgen.fit import lpips as perceptual
from fourdgen.fit import metrics
from fourdgen.render import Rasterizer, RenderOut
from fourdgen.scene.scene4d import EVERY, Scene4D


def flicker(views: Sequence[View], drawn: Callable[[View], RenderOut]) -> float | None:
    """How much the error shakes: mean |e(t+d) - 2 e(t) + e(t-d)| in grey levels (0..255), e = drawn - true.

    Taken over the held-out pictures of each camera that stands still, in triples at even distances, over the pixels
    that the subject covers in any of the three. An error that stays or grows steadily does not flicker; one that comes
    and goes does. d is the distance of the held-out frames, so figures compare within one truth folder. None where no
    camera has three pictures.
    """
    still = defaultdict(list)
    for view in views:
        if view.entry.frame is not None:
            pose = tuple(view.entry.cam_from_input.double().flatten().mul(1e5).round().long().tolist())
            still[view.clip, pose, view.entry.size].append(view)
    total, count = 0.0, 0
    for group in still.values():
        group.sort(key=lambda view: view.entry.frame or 0)
        frames = [view.entry.frame or 0 for view in group]
        errors, masks = [], []
        for view in group if len(group) >= 3 else ():
            out = drawn(view)
            errors.append(out.rgb[0].permute(2, 0, 1).clamp(0, 1) - view.rgb)
            masks.append((out.alpha[0] > 0.5) | (view.alpha > 0.5))
        for i in range(1, len(errors) - 1):
            if frames[i + 1] - frames[i] != frames[i] - frames[i - 1]:
                continue
            bend = (errors[i + 1] - 2 * errors[i] + errors[i - 1]).abs().mean(0)
            where = masks[i - 1] | masks[i] | masks[i + 1]
            total += 255 * float(bend[where].sum())
            count += int(where.sum())
    return total / count if count else None


def between(count: int, every: int) -> list[int]:
    """Of `count` frames of which 0, every, 2 every, ... train: those midway between two of them."""
    return [row + every // 2 for row in range(0, count - every, every)] if every > 1 else []


@torch.no_grad()
def interpolation(
    scene: Scene4D, truth: Truth, rasterizer: Rasterizer, judge: perceptual.Lpips | None
) -> dict[str, float | None] | None:
    """Vidu4D's protocol (arXiv 2405.16822): every nth frame trains, the frame midway between two of them is scored.

    Pictures are those of the input cameras; the asset is drawn by its own cameras, found or given, in the clip's own
    colours. The poses of all frames may have been found with all frames in sight: what is held out is the training of
    surfels and motion.
    `nearest_psnr` is the training frame before, taken as the prediction. None unless the scene was trained so and the
    truth folder has pictures of the input frames with alpha.
    """
    every = int(scene.notes.get(EVERY, "1"))
    entries = {(entry.clip, entry.frame): entry for entry in truth.inputs}
    rows: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": [], "nearest_psnr": []}
    for name, clip in scene.clips.items():
        ids = [int(i) for i in clip.frame_ids.tolist()]
        for row in between(len(ids), every):
            here, before = entries.get((name, ids[row])), entries.get((name, ids[row - every // 2]))
            if here is None or before is None:
                continue
            rgb, last = truth.picture(here), truth.picture(before)
            if rgb is None or last is None:
                continue
            cameras = clip.cameras[row].resized((rgb.shape[2], rgb.shape[1]))
            out = draw_as_filmed(clip, scene.at(name, float(clip.seconds[row])), cameras, rasterizer)
            picture: Float[Tensor, "3 h w"] = out.rgb[0].permute(2, 0, 1).clamp(0, 1)
            rows["psnr"].append(float(metrics.psnr(picture, rgb)))
            rows["ssim"].append(float(metrics.ssim(picture[None], rgb[None])[0]))
            rows["nearest_psnr"].append(float(metrics.psnr(last, rgb)))
            if judge is not None and min(rgb.shape[1:]) >= perceptual.LEAST_SIDE:
                rows["lpips"].append(float(judge(picture[None], rgb[None])[0]))
    if not rows["psnr"]:
        return None
    return {key: sum(values) / len(values) if values else None for key, values in rows.items()}
