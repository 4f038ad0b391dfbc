"""How far an asset can be trusted: a confidence per surfel, and one per pixel of any view (docs/method.md section 11).

Both lie in 0..1. A surfel's is what the filmed frames say about it: how often it was seen, and how well it explains
what was seen where it stands. A pixel's is the calibrated probability that its colour is within 0.1 of the truth and
that it is rightly inside the silhouette; outside it is cautious rather than calibrated.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fourdgen.data.capture import Capture
from fourdgen.geometry.camera import Cameras
from fourdgen.render import Rasterizer, colors_seen, draw, surface_normal
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels

SIDE = 256  # longer side of the pictures in which evidence is gathered
FRAMES = 48  # so many frames are looked at, evenly spread: fewer than twice as many, and all where there are fewer
TYPICAL = 0.1  # mean colour error at which a surfel's confidence is one half
PRIOR = 0.25  # colour error that a surfel is taken to have before it is seen
PRIOR_PIXELS = 0.5  # how many pixels of evidence the prior counts as, per frame
GREY = 0.5  # background of the comparison: light and dark subjects both differ from it, so that outlines count

# Log-odds that a pixel inside the silhouette is wrong, linear in `features`. Fitted by logistic regression to held-out
# views of six rendered scenes with two seeds each (`benchmarks/regenerate.py --seeds 0,1 --calibrate` does it again).
# Fitted on five of them, AUC on the sixth, inside, is .81 to .91.
INSIDE = (-0.94, 0.26, -2.08, 0.11, 0.31, 0.24, 0.34, 0.39)
INSIDE_BIAS = 2.32
SHIFTS = (2, 4, 8, 16)  # misplacements that are tried, in 1/256 of the picture's longer side
VISIBLE = 0.1  # difference of any channel from which a pixel counts as wrong
# Outside, doubt falls from EDGE with distance. REACH is wider than calibration would have it: the missing limb that is
# taken for clear background is the one mistake that nothing repairs later.
EDGE, REACH = 0.95, 12.0  # REACH in 1/256 of the picture's longer side


@torch.no_grad()
def with_confidence(scene: Scene4D, capture: Capture, rasterizer: Rasterizer) -> Scene4D:
    """The scene with `surfels.confidence` found from the filmed frames of its clips."""
    return replace(scene, surfels=replace(scene.surfels, confidence=surfel_confidence(scene, capture, rasterizer)))


@torch.no_grad()
def surfel_confidence(scene: Scene4D, capture: Capture, rasterizer: Rasterizer) -> Float[Tensor, "n"]:
    """c_k = (1 - exp(-W_k / w0)) TYPICAL / (TYPICAL + e_k).

    W_k is the blending weight of surfel k over the filmed frames, divided by the pixels it covers in each, so that
    resolution and clip length drop out; w0 is a quarter of its median. e_k is the mean colour error of the pixels
    that it helps to paint, by blending weight, before a grey background.
    """
    frames = [(name, t) for name in scene.clips for t in scene.trained_frames(name)]
    frames = frames[:: max(1, len(frames) // FRAMES)]
    gathered = torch.zeros(len(scene.surfels))
    error = torch.full((len(scene.surfels),), PRIOR * PRIOR_PIXELS * len(frames))
    weight = torch.full((len(scene.surfels),), PRIOR_PIXELS * len(frames))
    for name, t in frames:
        clip, frame = scene.clips[name], capture.frame(name, t)
        cameras = clip.cameras[t].shrunk(SIDE)
        state = scene.at(name, float(clip.seconds[t]))
        out = draw(state, cameras, background=torch.full((3,), GREY), rasterizer=rasterizer, weights=True)
        filmed = torch.cat([frame.rgb * frame.mask[..., None], frame.mask[..., None], frame.weight[..., None]], -1)
        filmed = F.interpolate(filmed.permute(2, 0, 1)[None], cameras.size[::-1], mode="area")[0]
        target = (filmed[:3] + (1 - filmed[3]) * GREY).permute(1, 2, 0)
        wrong = (out.rgb[0] - target).abs().amax(-1)
        known = (filmed[4] > 0.5).float()
        painted = _shares(state, cameras, torch.stack([wrong * known, known], -1), rasterizer)
        error += painted[:, 0]
        weight += painted[:, 1]
        assert out.weight is not None and out.pixels is not None  # asked for
        gathered += out.weight[0] / out.pixels[0].clamp_min(1) / len(frames)
    typical = gathered[gathered > 0].median() if bool((gathered > 0).any()) else torch.tensor(1.0)
    return (1 - torch.exp(-gathered / (0.25 * typical))) * TYPICAL / (TYPICAL + error / weight)


def _shares(
    state: Surfels, cameras: Cameras, maps: Float[Tensor, "h w m"], rasterizer: Rasterizer
) -> Float[Tensor, "n m"]:
    """Sum over the pixels of each surfel of blending weight times value. Colour is linear in the surfels' colours, so
    this is the gradient of sum(picture * map) with respect to them, and every rasterizer can give it."""
    with torch.enable_grad():
        ink = torch.zeros(len(state), maps.shape[-1], requires_grad=True)
        out = rasterizer(state.means, state.quats, state.log_scales.exp(), torch.sigmoid(state.opacity), ink, cameras)
        (out.rgb[0] * maps).sum().backward()
    assert ink.grad is not None
    return ink.grad


@torch.no_grad()
def pixel_confidence(surfels: Surfels, camera: Cameras, rasterizer: Rasterizer) -> Float[Tensor, "h w"]:
    """Probability that each pixel of a view is right, for surfels at one time (`scene.at`) and one camera.

    Far outside the silhouette it is 1: clear background is background.
    """
    evidence, distance = features(surfels, camera, rasterizer)
    wrong = torch.sigmoid(evidence @ torch.tensor(INSIDE) + INSIDE_BIAS)
    return 1 - torch.where(distance > 0, EDGE * torch.exp(-((distance / REACH) ** 2)), wrong)


@torch.no_grad()
def features(
    surfels: Surfels, camera: Cameras, rasterizer: Rasterizer
) -> tuple[Float[Tensor, "h w 8"], Float[Tensor, "h w"]]:
    """What confidence is computed from inside the silhouette, and the distance to it for pixels outside (0 inside).

    Log-odds of the surfels' confidence, disagreement of rendered and depth normals (L1), alpha, log(1 + distance to the
    outline), log of `changes` for each of SHIFTS. Distances are in 1/256 of the picture's longer side.
    """
    colors = colors_seen(surfels, camera)
    painted = torch.cat([colors if colors.dim() == 2 else colors[0], surfels.confidence[:, None]], 1)
    out = rasterizer(
        surfels.means, surfels.quats, surfels.log_scales.exp(), torch.sigmoid(surfels.opacity), painted, camera
    )
    alpha = out.alpha[0]
    safe = alpha.clamp_min(1e-4)[..., None]
    rgb = (out.rgb[0, ..., :3] + 1 - alpha[..., None]).clamp(0, 1)
    certain = (out.rgb[0, ..., 3] / safe[..., 0]).clamp(0.01, 0.99)
    surface = surface_normal(out.depth, out.alpha, camera)[0]
    bent = (out.normal[0] / safe - surface).abs().sum(-1).clamp_max(3)
    bent = torch.where(surface.abs().sum(-1) > 0, bent, torch.ones_like(bent))
    within, beyond = outline(alpha > 0.5)
    unit = 256 / max(camera.size)
    moved = [(changes(rgb, max(1, round(shift * unit))) + 0.02).log() for shift in SHIFTS]
    return torch.stack([torch.logit(certain), bent, alpha, torch.log1p(within * unit), *moved], -1), beyond * unit


def changes(rgb: Float[Tensor, "h w 3"], reach: int) -> Float[Tensor, "h w"]:
    """Share of eight places around each pixel, `reach` pixels away, whose colour differs by more than VISIBLE: what a
    misplacement by so much would spoil."""
    height, width = rgb.shape[:2]
    rows, columns = torch.arange(height), torch.arange(width)
    differing = torch.zeros(height, width)
    for part in range(8):
        down, right = (round(reach * way(part * math.pi / 4)) for way in (math.sin, math.cos))
        there = rgb[(rows + down).clamp(0, height - 1)][:, (columns + right).clamp(0, width - 1)]
        differing += ((there - rgb).abs().amax(-1) > VISIBLE).float()
    return differing / 8


def outline(inside: Bool[Tensor, "h w"]) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Distance in pixels to the outline for pixels inside (0 outside), and for those outside (0 inside)."""
    mask = inside.numpy().astype(np.uint8)
    if not mask.any():
        return torch.zeros(mask.shape), torch.full(mask.shape, float(sum(mask.shape)))
    within, beyond = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (mask, 1 - mask))
    return torch.from_numpy(within), torch.from_numpy(beyond)
