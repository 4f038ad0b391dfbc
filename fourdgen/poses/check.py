"""check.png of both pose stages: the frames beside the model from the solved poses, and the camera path from above."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen.data.capture import write_png
from fourdgen.poses.compare import Fit
from fourdgen.poses.pictures import Pictures, spread

COLUMNS, CELL = 10, 128
_COLORS = [(180, 90, 30), (40, 120, 230), (60, 160, 60), (160, 60, 160), (30, 30, 200), (140, 140, 20)]


@torch.no_grad()
def draw_poses(fits: list[tuple[str, Fit]], path: Path) -> None:
    """One block per clip: its name, filmed frames, and the model; below it all camera paths from above.

    A fit of several clips is given once per clip, with the clip's number as it comes (see `of_clip`).
    """
    rows = []
    for name, fit in fits:
        chosen = spread(len(fit.pictures), COLUMNS)
        drawn = fit.render(chosen).rgb.clamp(0, 1)
        rows += [_title(name), _strip(fit.pictures.picture[chosen, :3].permute(0, 2, 3, 1)), _strip(drawn)]
    rows.append(paths_from_above([(name, fit.poses().detach()) for name, fit in fits]))
    write_png(path, np.concatenate(rows))


def draw_given(frames: list[tuple[str, Pictures, Float[Tensor, "n 4 4"]]], path: Path) -> None:
    """The same where cameras were given: frames, and the paths in the root frame."""
    rows = []
    for name, pictures, _ in frames:
        chosen = spread(len(pictures), COLUMNS)
        rows += [_title(name), _strip(pictures.picture[chosen, :3].permute(0, 2, 3, 1))]
    rows.append(paths_from_above([(name, poses) for name, _, poses in frames]))
    write_png(path, np.concatenate(rows))


def of_clip(fit: Fit, clip: int) -> Fit:
    """One clip of a joint fit, as a fit of its own that shares the model."""
    rows = (fit.pictures.clip == clip).nonzero()[:, 0]
    pictures = fit.pictures[rows]
    pictures = replace(pictures, clip=torch.zeros_like(pictures.clip), extent=fit.pictures.extent[clip : clip + 1])
    single = Fit(
        pictures, fit.rotations().detach()[rows], fit.focal.detach().exp()[clip : clip + 1], 0, 0,
        model=fit.model, place=fit.place.detach()[rows],
    )  # fmt: skip
    if fit.nodes is not None:
        single.nodes = fit.nodes.of_rows(rows)
    return single


def _title(text: str) -> UInt8[np.ndarray, "h w 3"]:
    bar = np.full((22, COLUMNS * CELL, 3), 255, np.uint8)
    cv2.putText(bar, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return bar


def _strip(pictures: Float[Tensor, "k s s 3"]) -> UInt8[np.ndarray, "h w 3"]:
    strip = np.full((CELL, COLUMNS * CELL, 3), 255, np.uint8)
    for i, picture in enumerate((pictures * 255).byte().numpy()):
        strip[:, i * CELL : (i + 1) * CELL] = cv2.resize(picture, (CELL, CELL), interpolation=cv2.INTER_LINEAR)
    return strip


def paths_from_above(paths: list[tuple[str, Float[Tensor, "n 4 4"]]]) -> UInt8[np.ndarray, "h w 3"]:
    """Camera centres from above (x to the right, z up the picture), subject in the middle, and from the side."""
    height, width = 340, COLUMNS * CELL
    picture = np.full((height, width, 3), 255, np.uint8)
    eyes = [-(p[:, :3, :3].transpose(1, 2) @ p[:, :3, 3:])[..., 0].numpy() for _, p in paths]
    reach = max(1e-3, max(float(np.abs(e).max()) for e in eyes))
    scale = 0.45 * height / reach
    for middle, (across, up), label in ((width // 4, (0, 2), "from above"), (3 * width // 4, (0, 1), "from the side")):
        sign = -1 if up == 2 else 1  # y points down already
        cv2.circle(picture, (middle, height // 2), max(2, int(0.8 * scale)), (200, 200, 200), 1, cv2.LINE_AA)
        cv2.putText(picture, label, (middle - 40, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (90, 90, 90), 1, cv2.LINE_AA)
        for number, eye in enumerate(eyes):
            color = _COLORS[number % len(_COLORS)]
            points = np.stack([middle + scale * eye[:, across], height / 2 + sign * scale * eye[:, up]], 1)
            points = points.round().astype(np.int32)
            cv2.polylines(picture, [points[:, None]], False, color, 1, cv2.LINE_AA)
            for i in spread(len(points), COLUMNS).tolist():
                cv2.circle(picture, tuple(int(v) for v in points[i]), 3, color, -1, cv2.LINE_AA)
            cv2.circle(picture, tuple(int(v) for v in points[0]), 6, color, 1, cv2.LINE_AA)  # the first frame
    for number, (name, _) in enumerate(paths):
        cv2.putText(
            picture, name, (8, height - 10 - 16 * number), cv2.FONT_HERSHEY_SIMPLEX, 0.42,
            _COLORS[number % len(_COLORS)], 1, cv2.LINE_AA,
        )  # fmt: skip
    return picture
