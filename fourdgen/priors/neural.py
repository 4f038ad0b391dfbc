"""Masks from U2-Net (Qin et al. 2020, Apache-2.0 weights) through onnxruntime. The weights are not part of fourdgen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from fourdgen.priors.edges import refine
from fourdgen.priors.subject import Box, box_pixels, find_parts, in_box, mask_of, only, overlapping, prominence
from fourdgen.report import Reporter, Silent

SIDE = 320  # what the network was trained at
MARGIN = 0.45  # of the subject's size: room around it in what the network is shown
STARTS = 8  # frames that are looked at to begin with
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def open_network(path: Path, threads: int = 1) -> Any:
    """An onnxruntime session of a U2-Net file. Imported here because it takes a while and most runs need none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def track(
    rgb: UInt8[np.ndarray, "t h w 3"], session: Any, box: Box | None = None, report: Reporter = Silent()
) -> UInt8[np.ndarray, "t h w"]:
    """Soft mask of the subject, 0..255.

    The network looks at 320 x 320 pixels, so it is shown only where the subject just was: it gets more pixels of a
    small subject, and less of everything else. It starts in the box, or in the frame where one thing stands out most.
    """
    count, height, width = rgb.shape[:3]
    start, here, soft = _start(rgb, session, box)
    kept = np.zeros((count, height, width), np.uint8)
    kept[start] = only(soft, here)
    done = 1
    for steps in (range(start + 1, count), range(start - 1, -1, -1)):
        last = here
        for t in steps:
            soft = _seen(session, rgb[t], _around(last))
            found = overlapping(find_parts(soft), last)
            if not found.any():  # lost from sight: it may have jumped
                soft = _seen(session, rgb[t], (0, 0, width, height))
                found = overlapping(find_parts(soft), last)
            if found.any():
                last = found
                kept[t] = only(soft, found)
            done += 1
            report.emit("step", stage="ingest", step=done, total=count, loss=None, psnr=None, surfels=None)
    return kept


def _start(
    rgb: UInt8[np.ndarray, "t h w 3"], session: Any, box: Box | None
) -> tuple[int, Bool[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """(frame to start from, the subject there, the soft mask there)."""
    count, height, width = rgb.shape[:3]
    if box is not None:
        x0, y0, x1, y1 = box_pixels(box, width, height)
        window = np.zeros((height, width), bool)
        window[y0:y1, x0:x1] = True
        soft = _seen(session, rgb[0], _around(window, 0.15))
        return 0, in_box(find_parts(soft), box), soft
    best: tuple[float, int, np.ndarray, np.ndarray] | None = None
    for t in sorted({round(i * (count - 1) / (STARTS - 1)) for i in range(STARTS)}):
        soft = _seen(session, rgb[t], (0, 0, width, height))
        parts = find_parts(soft)
        scores = prominence(parts)
        chosen = mask_of(parts, [int(scores.argmax()) + 1] if scores.size else [])
        # A network that is sure of its subject says so: nearly all of what it marks is nearly 1.
        score = float(scores.max(initial=0.0)) * float(soft[chosen].mean() / 255 if chosen.any() else 0.0) ** 4
        if best is None or score > best[0]:
            best = score, t, chosen, soft
    assert best is not None
    return best[1:]


def _around(part: Bool[np.ndarray, "h w"], margin: float = MARGIN) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a part with some room; the whole picture where that is not much more."""
    height, width = part.shape
    if not part.any():
        return 0, 0, width, height
    rows, columns = np.nonzero(part.any(1))[0], np.nonzero(part.any(0))[0]
    room = max(int(margin * max(rows[-1] - rows[0], columns[-1] - columns[0])), 8)
    x0, y0 = max(int(columns[0]) - room, 0), max(int(rows[0]) - room, 0)
    x1, y1 = min(int(columns[-1]) + 1 + room, width), min(int(rows[-1]) + 1 + room, height)
    return (0, 0, width, height) if (x1 - x0) * (y1 - y0) > 0.7 * width * height else (x0, y0, x1, y1)


def _seen(
    session: Any, picture: UInt8[np.ndarray, "h w 3"], window: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "h w"]:
    """What the network says of a window of the picture; 0 outside of it."""
    x0, y0, x1, y1 = window
    crop = np.ascontiguousarray(picture[y0:y1, x0:x1])
    out = np.zeros(picture.shape[:2], np.uint8)
    out[y0:y1, x0:x1] = (refine(crop, predict(session, crop)) * 255).round().astype(np.uint8)
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
