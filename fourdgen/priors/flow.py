"""Dense optical flow without weights: DIS (Kroeger et al. 2016) as OpenCV has it, checked forth and back."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

TOLERANCE = 1.5  # pixels by which the way forth and back may miss its start


def dis_flow(
    first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Where each pixel of `first` lies in `second`, minus its own place (x, y in pixels), and whether that is credible.

    Credible: the flow back from there returns to within TOLERANCE. Pictures must be at least 32 pixels on a side.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # these pictures are small, and callers run clips side by side
    try:
        solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        forth = solver.calc(first, second, None)
        back = solver.calc(second, first, None)
    finally:
        cv2.setNumThreads(threads)
    height, width = first.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    landed = cv2.remap(back, x + forth[..., 0], y + forth[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return forth, np.linalg.norm(forth + landed, axis=-1) < TOLERANCE
