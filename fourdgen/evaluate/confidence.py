"""Does confidence tell right from wrong? Measured on the held-out views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourdgen.evaluate.pictures import draw_as_filmed
from fourdgen.evaluate.truth import View
from fourdgen.fit.confidence import pixel_confidence
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import Rasterizer
from fourdgen.scene.entries import camera_of
from fourdgen.scene.scene4d import Scene4D

WRONG = 0.1  # largest colour difference of any channel, on white, from which a pixel counts as wrong


@dataclass(frozen=True)
class Judgement:
    """Over the union of true and rendered foreground. `auc`: chance that a wrong pixel has less confidence than a right
    one (0.5 is guessing). `base`: share of wrong pixels. `claimed`: mean of 1 - confidence; calibrated where it equals
    `base`."""

    auc: float
    base: float
    claimed: float


@torch.no_grad()
def judge(scene: Scene4D, views: list[View], root_from_truth: Sim3, rasterizer: Rasterizer) -> Judgement | None:
    """None where every pixel is right, or every one wrong."""
    doubts, faults = [], []
    for view in views:
        camera = camera_of(scene, view.entry, root_from_truth)
        state = scene.at(view.clip, view.seconds)
        out = draw_as_filmed(scene.clips[view.clip], state, camera, rasterizer)
        drawn, true = out.alpha[0] > 0.5, view.alpha > 0.5
        difference = (out.rgb[0].permute(2, 0, 1).clamp(0, 1) - view.rgb).abs().amax(0)
        union = drawn | true
        doubts.append(1 - pixel_confidence(state, camera, rasterizer)[union])
        faults.append(((difference > WRONG) | (drawn != true))[union])
    doubt, fault = torch.cat(doubts), torch.cat(faults)
    area = auc(doubt, fault)
    return None if area is None else Judgement(area, float(fault.double().mean()), float(doubt.double().mean()))


def auc(score: Float[Tensor, "n"], positive: Bool[Tensor, "n"]) -> float | None:
    """Area under the ROC curve by rank sums, ties counted half; None where only one kind is there."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return None
    _, place, many = torch.unique(score, return_inverse=True, return_counts=True)
    last = many.cumsum(0).double()
    rank = (last - (many.double() - 1) / 2)[place]
    return float((rank[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))
