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
# Losses in company over losses alone: of one subject up to 1.75, of a fox and a dog 1.73: no test by itself.
WORSE, MUCH_WORSE = 1.7, 2.5
_DIRECTIONS, _QUANTILES = 24, 64


def color_distance(first: Pictures, second: Pictures) -> float:
    """How far apart the subjects' colours are: sliced Wasserstein distance of their CIELAB pixels, in delta E.

    Another exposure moves colours as far as another subject does (a fitted gain and bias turn a fox into a dog, too):
    this is half of the evidence, see `strange`.
    """
    normal = np.random.default_rng(0).standard_normal((_DIRECTIONS, 3)).astype(np.float32)
    directions = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    steps = np.linspace(0.01, 0.99, _QUANTILES)
    curves = []
    for pictures in (first, second):
        lab = cv2.cvtColor(_colors(pictures).float().numpy()[None], cv2.COLOR_RGB2LAB)[0]
        curves.append(np.quantile(lab @ directions.T, steps, axis=0))
    return float(np.abs(curves[0] - curves[1]).mean())


def _colors(pictures: Pictures) -> Float[Tensor, "n 3"]:
    """Colours of the subject's pixels, edges left out."""
    solid = -torch.nn.functional.max_pool2d(-pictures.picture[:, 3:], 3, 1, 1)[:, 0] > 0.95
    inside = solid if int(solid.sum()) > 50 else pictures.picture[:, 3] > 0.5
    return pictures.picture[:, :3].permute(0, 2, 3, 1)[inside].detach()


def strange(worse: float, apart: float) -> bool:
    """Whether a clip shows another subject. `worse`: see Registration.stranger; `apart`: see color_distance."""
    return worse > MUCH_WORSE or (worse > WORSE and apart > COLORS_APART)
