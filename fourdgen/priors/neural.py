"""Masks from U2-Net (Qin et al. 2020, Apache-2.0 weights) through onnxruntime. The weights are not part of fourdgen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fourdgen.report import Reporter, Silent

SIDE = 320  # what the network was trained at
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def open_network(path: Path, threads: int = 1) -> Any:
    """An onnxruntime session of a U2-Net file. Imported here because it takes a while and most runs need none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def saliency(
    rgb: UInt8[np.ndarray, "t h w 3"], network: Path, threads: int = 1, report: Reporter = Silent()
) -> UInt8[np.ndarray, "t h w"]:
    """Soft mask of what stands out in each frame, 0..255, with edges drawn to those of the picture."""
    session = open_network(network, threads)
    out = np.empty(rgb.shape[:3], np.uint8)
    for t, picture in enumerate(rgb):
        soft = predict(session, picture)
        out[t] = (refine(picture, soft) * 255).round().astype(np.uint8)
        report.emit("step", stage="ingest", step=t + 1, total=len(rgb), loss=None, psnr=None, surfels=None)
    return out


def predict(session: Any, picture: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """The network's own answer for one picture, 0..1."""
    height, width = picture.shape[:2]
    how = cv2.INTER_AREA if max(height, width) > SIDE else cv2.INTER_CUBIC
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=how).astype(np.float32)
    small = (small / max(float(small.max()), 1.0) - MEAN) / DEVIATION
    feed = {session.get_inputs()[0].name: small.transpose(2, 0, 1)[None].astype(np.float32)}
    answer = session.run([session.get_outputs()[0].name], feed)[0][0, 0]
    return np.asarray(cv2.resize(answer, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1))


def refine(picture: UInt8[np.ndarray, "h w 3"], soft: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """A coarse mask whose edge follows the picture's: guided filter (He et al. 2010) in its grey form, then steeper."""
    guide = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    window = (max(3, round(0.012 * max(soft.shape))) * 2 + 1,) * 2
    mean_g, mean_s = cv2.blur(guide, window), cv2.blur(soft, window)
    slope = (cv2.blur(guide * soft, window) - mean_g * mean_s) / (cv2.blur(guide * guide, window) - mean_g**2 + 1e-3)
    offset = mean_s - slope * mean_g
    filtered = cv2.blur(slope, window) * guide + cv2.blur(offset, window)
    steep = ((filtered - 0.5) * 2.0 + 0.5).clip(0, 1)
    return np.asarray(np.where(steep < 0.03, 0.0, np.where(steep > 0.97, 1.0, steep)))
