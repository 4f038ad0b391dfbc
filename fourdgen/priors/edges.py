"""Coarse masks whose edges are to follow the picture's."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8


def guided(
    grey: Float[np.ndarray, "h w"], soft: Float[np.ndarray, "h w"], window: int, smooth: float = 1e-3
) -> Float[np.ndarray, "h w"]:
    """Guided filter (He et al. 2010) of a mask by a grey picture, both 0..1, over `window` pixels."""
    size = (window, window)
    mean_g, mean_s = cv2.blur(grey, size), cv2.blur(soft, size)
    slope = (cv2.blur(grey * soft, size) - mean_g * mean_s) / (cv2.blur(grey * grey, size) - mean_g**2 + smooth)
    offset = mean_s - slope * mean_g
    return np.asarray(cv2.blur(slope, size) * grey + cv2.blur(offset, size))


def refine(picture: UInt8[np.ndarray, "h w 3"], soft: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """A coarse mask whose edge follows the picture's: the guided filter, then steeper."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    filtered = guided(grey, soft, max(3, round(0.012 * max(soft.shape))) * 2 + 1)
    steep = ((filtered - 0.5) * 2.0 + 0.5).clip(0, 1)
    return np.asarray(np.where(steep < 0.03, 0.0, np.where(steep > 0.97, 1.0, steep)))
