"""Whether a generated view is believed, pixel by pixel and as a whole (docs/method.md 11.5).

Where the asset is confident, a result must agree with it; where it is not, a result must at least be steady: what
stands out from the frames around it was made up for one frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fourdgen.generate import Footage, Generated, Guide
from fourdgen.generate.guide import render_guide
from fourdgen.generate.paths import Path
from fourdgen.render import Rasterizer

WHITE = 0.12  # a generated pixel that is less than this off white is background, where no silhouette was given
# Difference from a certain guide at which agreement has fallen to 1/e. Half of these refuses corrections, too.
COLOR, SILHOUETTE = 0.3, 0.7
BLINK = 0.25  # the same for a change that neighbouring frames do not share
SPREAD = 5  # pixels over which a disagreement counts
AROUND = 2  # frames on each side that a frame is compared with
# A frame is refused below these shares of what the asset's own filmed frames reach, judged as if they had been made.
SHARE_OF_IOU, SHARE_OF_AGREEMENT = 0.75, 0.5
POOR = 0.1  # quantile over the filmed frames that stands for them: a few may be spoilt
FILMED = 24  # filmed frames that are judged
LEAST_FRAMES = 0.5  # share of its frames without which a view is refused


@dataclass(frozen=True)
class Bounds:
    """A frame is refused below these. iou: of the silhouettes where the guide is confident. agreement: mean over the
    subject. The defaults are those of an asset that explains its filmed frames rather well."""

    iou: float = 0.6
    agreement: float = 0.4


@dataclass(frozen=True)
class Verdict:
    """agreement: 0..1 per pixel, 0 in refused frames. kept: per frame. reasons: of refused frames. reason: why the
    whole view is refused, empty where it is kept. weight: per pixel, what training is to make of it."""

    alpha: Float[Tensor, "t h w"]
    agreement: Float[Tensor, "t h w"]
    weight: Float[Tensor, "t h w"]
    kept: Bool[Tensor, "t"]
    iou: Float[Tensor, "t"]
    reasons: tuple[str, ...]
    reason: str


def bounds_of(footage: Footage, rasterizer: Rasterizer) -> Bounds:
    """What can be asked of a new view of this asset: shares of what its own filmed frames reach.

    An asset that hardly explains what was filmed cannot refuse a video for not agreeing with it.
    """
    overlaps, agreements = [], []
    step = max(1, len(footage.frames()) // FILMED)
    for name, clip in footage.scene.clips.items():
        rows = list(footage.scene.trained_frames(name))[::step]
        guide = render_guide(footage, Path(name, name, clip.seconds[rows], clip.cameras[rows]), rasterizer)
        frames = [footage.capture.frame(name, row) for row in rows]
        alpha = torch.stack([frame.mask for frame in frames])
        rgb = torch.stack([frame.rgb for frame in frames]) * alpha[..., None] + 1 - alpha[..., None]
        overlaps.append(confident_iou(guide.alpha, alpha, guide.confidence))
        agreements.append(_over_subject(agreement(guide, rgb, alpha), guide.alpha, alpha))
    iou, agreed = (float(torch.cat(found).quantile(POOR)) for found in (overlaps, agreements))
    return Bounds(SHARE_OF_IOU * iou, SHARE_OF_AGREEMENT * agreed)


def judge(guide: Guide, made: Generated, filtering: bool = True, bounds: Bounds = Bounds()) -> Verdict:
    """Weight per pixel = (0.5 + 0.5 (1 - c)) x agreement; of a generator that carries filmed pixels, times the filmed
    share: the rest is the asset's own opinion once more, and nothing is learnt from that.

    Without `filtering` everything counts one half: what judging is worth can be measured so.
    """
    alpha = made.alpha if made.alpha is not None else silhouettes(made.rgb)
    if not filtering:
        ones = torch.ones_like(alpha)
        kept = torch.ones(len(guide), dtype=torch.bool)
        return Verdict(alpha, ones, 0.5 * ones, kept, kept.float(), ("",) * len(guide), "")
    iou = confident_iou(guide.alpha, alpha, guide.confidence)
    local = agreement(guide, made.rgb, alpha)
    overall = _over_subject(local, guide.alpha, alpha)
    reasons = []
    for t in range(len(guide)):
        if not bool(torch.isfinite(made.rgb[t]).all() & torch.isfinite(alpha[t]).all()):
            reasons.append("not a picture")
        elif float(iou[t]) < bounds.iou:
            reasons.append(f"silhouette overlap {float(iou[t]):.2f} where the asset is confident")
        elif float(overall[t]) < bounds.agreement:
            reasons.append(f"agreement {float(overall[t]):.2f}")
        else:
            reasons.append("")
    kept = torch.tensor([not reason for reason in reasons])
    reason = ""
    if float(kept.float().mean()) < LEAST_FRAMES:
        worst = next(text for text in reasons if text)
        reason = f"{int((~kept).sum())} of {len(kept)} frames refused ({worst})"
        kept = torch.zeros_like(kept)
    local = torch.nan_to_num(local) * kept[:, None, None]
    weight = (0.5 + 0.5 * (1 - guide.confidence)) * local
    if made.filmed is not None:
        weight = weight * made.filmed
    return Verdict(torch.nan_to_num(alpha), local, weight, kept, iou, tuple(reasons), reason)


def silhouettes(rgb: Float[Tensor, "t h w 3"]) -> Float[Tensor, "t h w"]:
    """Soft silhouettes of a video on white: how far a pixel is from white, up to where it is clearly not."""
    off = (1 - rgb).amax(-1)
    solid = (off / (2 * WHITE)).clamp(0, 1)
    # A white part inside a subject is enclosed by it: small gaps are closed.
    closed = F.max_pool2d(solid[:, None], 5, 1, 2)
    return torch.maximum(solid, -F.max_pool2d(-closed, 5, 1, 2)[:, 0])


def confident_iou(
    guide: Float[Tensor, "t h w"], made: Float[Tensor, "t h w"], confidence: Float[Tensor, "t h w"]
) -> Float[Tensor, "t"]:
    """Overlap of two silhouettes with each pixel counting by confidence; 1 where nothing confident is in either."""
    both = (confidence * torch.minimum(guide, made)).sum((1, 2))
    either = (confidence * torch.maximum(guide, made)).sum((1, 2))
    return torch.where(either > 1, both / either.clamp_min(1e-6), torch.ones_like(either))


def agreement(guide: Guide, rgb: Float[Tensor, "t h w 3"], alpha: Float[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    """exp(-d), d the sum of three squared disagreements: with the guide in colour and in silhouette, both by
    confidence, and with what the neighbouring frames change of the guide."""
    change = torch.cat([rgb - guide.rgb, (alpha - guide.alpha)[..., None]], -1)
    color = _wide(change[..., :3].abs().mean(-1)) * guide.confidence / COLOR
    outline = _wide(change[..., 3].abs()) * guide.confidence / SILHOUETTE
    blink = _wide((change - _around(change)).abs().mean(-1)) / BLINK
    return torch.exp(-(color**2) - outline**2 - blink**2)


def _over_subject(
    values: Float[Tensor, "t h w"], guide: Float[Tensor, "t h w"], made: Float[Tensor, "t h w"]
) -> Float[Tensor, "t"]:
    """Mean over the pixels that are in either silhouette."""
    subject = (torch.maximum(guide, made) > 0.5).float()
    return (values * subject).sum((1, 2)) / subject.sum((1, 2)).clamp_min(1)


def _wide(values: Float[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    return F.avg_pool2d(values[:, None], SPREAD, 1, SPREAD // 2, count_include_pad=False)[:, 0]


def _around(change: Float[Tensor, "t h w c"]) -> Float[Tensor, "t h w c"]:
    """Median over the frames around each (not itself), held at the ends. What is not a number is passed over; where
    nothing is left to compare with, the frame itself."""
    count = len(change)
    if count < 3:
        return change
    out = torch.empty_like(change)
    for t in range(count):
        near = [i for i in range(max(0, t - AROUND), min(count, t + AROUND + 1)) if i != t]
        out[t] = change[near].nanmedian(0).values
    return torch.where(out.isnan(), change, out)
