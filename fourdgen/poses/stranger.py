"""Whether two clips show one subject: by their colours, and by how much worse one model explains both."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.poses.pictures import Pictures

# Measured on 7 pairs of one subject and 42 of different ones (fox, knight, shiba, varied/*, clutter): the colours of
# one subject in two clips were 0.3 to 1.7 apart, those of two subjects 4.2 to 25.
COLORS_APART = 3.0
# Colours so far apart as they are, and so far under the exposure that brings them nearest, are two subjects' whatever
# the shapes say. Fox and shiba: 17.3 to 18.8 and 4.1 to 6.2. One subject with 0.4 to 1.4 times the light: up to 29 and
# at most 2.8; tinted (.7 .6 .75): up to 13 and 3.5; a man before two cameras: 9.6 and 4.1.
FAR_APART, UNEXPOSED = 15.0, 3.5
# Losses in company over losses alone: of one subject up to 1.75, of a fox and a dog 1.73: no test by itself.
WORSE, MUCH_WORSE = 1.7, 2.5
_DIRECTIONS, _QUANTILES = 24, 64
EXPOSURES = 2.0 ** np.linspace(-1.25, 1.25, 21, dtype=np.float32)
EXPOSED_PIXELS = 3000


def color_distance(first: Pictures, second: Pictures) -> float:
    """How far apart the subjects' colours are: sliced Wasserstein distance of their CIELAB pixels, in delta E.

    Another exposure moves colours as far as another subject does (a fitted gain and bias turn a fox into a dog, too):
    this is half of the evidence, see `strange`.
    """
    curves = [_curves(subject_colors(pictures).float().numpy()) for pictures in (first, second)]
    return float(np.abs(curves[0] - curves[1]).mean())


def _curves(colors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "q d"]:
    """Quantiles of colours (0..1) along some directions of CIELAB."""
    normal = np.random.default_rng(0).standard_normal((_DIRECTIONS, 3)).astype(np.float32)
    directions = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    lab = cv2.cvtColor(colors[None], cv2.COLOR_RGB2LAB)[0]
    return np.quantile(lab @ directions.T, np.linspace(0.01, 0.99, _QUANTILES), axis=0)


def exposed_distance(first: Pictures, second: Pictures) -> float:
    """`color_distance` under the exposure of one of the two that brings them nearest: a factor on all its values,
    clipped where a camera would. It tells another light from another subject, but for its tint."""
    pixels = [subject_colors(pictures) for pictures in (first, second)]
    # Every so many pixels: quantiles of a few thousand are as good.
    colors = [p[:: max(1, len(p) // EXPOSED_PIXELS)].float().numpy() for p in pixels]
    plain = [_curves(p) for p in colors]
    tried = [
        float(np.abs(_curves(np.clip(factor * colors[i], 0, 1)) - plain[1 - i]).mean())
        for i in (0, 1)
        for factor in EXPOSURES
    ]
    return min(tried)


def subject_colors(pictures: Pictures) -> Float[Tensor, "n 3"]:
    """Colours of the subject's pixels, edges left out."""
    solid = -torch.nn.functional.max_pool2d(-pictures.picture[:, 3:], 3, 1, 1)[:, 0] > 0.95
    inside = solid if int(solid.sum()) > 50 else pictures.picture[:, 3] > 0.5
    return pictures.picture[:, :3].permute(0, 2, 3, 1)[inside].detach()


def strange_colors(apart: float, exposed: float) -> bool:
    """Whether colours alone say that a clip shows another subject, see `strange`."""
    return apart > FAR_APART and exposed > UNEXPOSED


def strange(worse: float, apart: float, exposed: float) -> bool:
    """Whether a clip shows another subject. `worse`: see Registration.stranger; `apart`: see color_distance; `exposed`:
    see exposed_distance."""
    return strange_colors(apart, exposed) or worse > MUCH_WORSE or (worse > WORSE and apart > COLORS_APART)
