"""check.png of stage ingest: a glance tells whether the right thing was cut out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from fourdgen.data.capture import Capture, write_png

ACROSS = 8  # frames of a clip
TALL = 200  # pixels
LINE, VEIL, IGNORED = (255, 0, 200), (40, 60, 200), (0, 0, 0)  # RGB


def draw_masks(capture: Capture, path: Path) -> None:
    """One row a clip: what is left out is veiled in blue, the edge is drawn in pink, what has weight 0 is black."""
    rows = []
    for clip in capture.clips:
        places = np.linspace(0, len(clip) - 1, min(ACROSS, len(clip))).round().astype(int)
        tiles = [_tile(capture, clip.name, int(t), f"{int(clip.frame_ids[t])}") for t in places]
        row = np.concatenate(tiles, 1)
        head = np.full((22, row.shape[1], 3), 255, np.uint8)
        cv2.putText(
            head, f"{clip.name}: {clip.masks_from}", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
        rows += [head, row]
    width = max(row.shape[1] for row in rows)
    sheet = [np.pad(r, [(0, 0), (0, width - r.shape[1]), (0, 0)], constant_values=255) for r in rows]
    write_png(path, np.concatenate(sheet))


def _tile(capture: Capture, name: str, index: int, label: str) -> UInt8[np.ndarray, "h w 3"]:
    rgb, mask, weight = (capture.read(name, kind, index) for kind in ("rgb", "mask", "weight"))
    size = (max(1, round(rgb.shape[1] * TALL / rgb.shape[0])), TALL)
    how = cv2.INTER_AREA if rgb.shape[0] > TALL else cv2.INTER_LINEAR
    rgb, mask, weight = (cv2.resize(picture, size, interpolation=how) for picture in (rgb, mask, weight))
    alpha = mask.astype(np.float32)[..., None] / 255
    # The subject stands on white, so that a fringe of background shows; the rest is veiled and darker.
    veiled = 0.45 * rgb.astype(np.float32) + 0.55 * np.array(VEIL, np.float32)
    tile = (rgb * alpha + veiled * (1 - alpha)).round().astype(np.uint8)
    tile[weight < 128] = IGNORED
    solid = (mask > 127).astype(np.uint8)
    tile[(cv2.dilate(solid, np.ones((3, 3), np.uint8)) > 0) & (solid == 0)] = LINE
    cv2.putText(tile, label, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return tile
