"""The pictures that poses are found on: a square window around the subject in every frame, at one small size.

A subject that fills a tenth of a wide frame is seen as sharply as one that fills it. Cameras stay exact, because the
principal point moves with the window and the focal length with its scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

MARGIN = 0.16  # of the subject's size on each side: a pose that is off must be seen to be off
EMPTY = 12  # a frame with fewer mask pixels than this shows no subject


@dataclass(frozen=True)
class Pictures:
    """n windows of one or more clips. Lengths "in sides" are fractions of the filmed picture's longer side.

    `picture`: colour over white (3) and mask (1). `principal`: the principal point in window pixels. `unit`: window
    pixels per side. `center`: the mask's centre seen from the principal point, in sides. `clip`: number of the clip.
    `frame`: number of the frame in its clip. `extent` [c]: the subject's largest extent per clip, in sides.
    """

    picture: Float[Tensor, "n 4 s s"]
    principal: Float[Tensor, "n 2"]
    unit: Float[Tensor, "n"]
    center: Float[Tensor, "n 2"]
    clip: Int[Tensor, "n"]
    frame: Int[Tensor, "n"]
    extent: Float[Tensor, "c"]

    def __len__(self) -> int:
        return len(self.unit)

    @property
    def side(self) -> int:
        return self.picture.shape[-1]

    def __getitem__(self, index: Tensor) -> Pictures:
        parts = {
            name: getattr(self, name)[index] for name in ("picture", "principal", "unit", "center", "clip", "frame")
        }
        return replace(self, **parts)

    def intrinsics(self, focal: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
        """K of the windows for focal lengths in sides."""
        zero, one = torch.zeros_like(focal), torch.ones_like(focal)
        pixels = focal * self.unit
        rows = [pixels, zero, self.principal[:, 0], zero, pixels, self.principal[:, 1], zero, zero, one]
        return torch.stack(rows, -1).reshape(-1, 3, 3)


def filmed_by(
    pictures: Pictures, K: Float[Tensor, "n 3 3"], size: tuple[int, int]
) -> tuple[Pictures, float]:
    """The windows of one clip as cameras with these K (pixels of the filmed pictures of `size`, width and height) see
    them, and the clip's one focal length in sides: the median. A zoom goes into each window's `unit`, a principal
    point off the middle into `principal` and `center`. Pixels are taken for square.
    """
    longer, middle = max(size), torch.tensor(size, dtype=torch.float32) / 2
    focal = (K[:, 0, 0] * K[:, 1, 1]).sqrt() / longer
    typical = float(focal.median())
    zoom = focal / typical
    off = K[:, :2, 2] - middle
    moved = replace(
        pictures,
        principal=pictures.principal + off * (pictures.unit / longer)[:, None],
        unit=pictures.unit * zoom,
        center=(pictures.center - off / longer) / zoom[:, None],
    )
    return moved, typical


def mask_boxes(mask: UInt8[np.ndarray, "t h w"]) -> Float[np.ndarray, "t 4"]:
    """x0, y0, x1, y1 of each mask (NaN where there is none). Single stray pixels far out do not count."""
    boxes = np.full((len(mask), 4), np.nan, np.float32)
    for i, picture in enumerate(mask):
        hit = picture > 127
        if hit.sum() < EMPTY:
            continue
        for axis, (low, high) in ((0, (0, 2)), (1, (1, 3))):
            total = np.cumsum(hit.sum(axis))
            boxes[i, low] = np.searchsorted(total, 0.002 * total[-1], side="right")
            boxes[i, high] = np.searchsorted(total, 0.998 * total[-1]) + 1
    return boxes


def cut(rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"], side: int, clip: int = 0) -> Pictures:
    """Windows of one clip; frames without a subject are left out (see `Pictures.frame` for those that are there).

    Raises ValueError when no frame shows a subject.
    """
    boxes = mask_boxes(mask)
    shown = np.nonzero(~np.isnan(boxes[:, 0]))[0]
    if len(shown) == 0:
        raise ValueError("every mask is empty")
    height, width = mask.shape[1:]
    longer = max(height, width)
    pictures, principal, unit, center = [], [], [], []
    for i in shown:
        x0, y0, x1, y1 = boxes[i]
        middle = np.array([x0 + x1, y0 + y1]) / 2
        reach = max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN)
        window = max(int(np.ceil(reach)), 8)
        corner = np.round(middle - window / 2).astype(int)
        pictures.append(_resized(_window(rgb[i], mask[i], corner, window), side))
        scale = side / window
        principal.append((np.array([width, height]) / 2 - corner) * scale)
        unit.append(longer * scale)
        center.append((middle - np.array([width, height]) / 2) / longer)
    sizes = np.fmax(boxes[shown, 2] - boxes[shown, 0], boxes[shown, 3] - boxes[shown, 1])
    count = len(shown)
    return Pictures(
        picture=torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(),
        principal=torch.tensor(np.array(principal), dtype=torch.float32),
        unit=torch.tensor(unit, dtype=torch.float32),
        center=torch.tensor(np.array(center), dtype=torch.float32),
        clip=torch.full((count,), clip),
        frame=torch.from_numpy(shown),
        extent=torch.tensor([float(np.quantile(sizes, 0.9)) / longer]),
    )


def join(parts: list[Pictures]) -> Pictures:
    """Windows of several clips, numbered in this order. All must have one side."""
    cat = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("picture", "principal", "unit", "center", "frame", "extent")
    }
    return Pictures(clip=torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)]), **cat)


def spread(count: int, most: int) -> Int[Tensor, "m"]:
    """At most `most` of `count` indices, evenly spread, both ends among them."""
    return torch.linspace(0, count - 1, min(count, most)).round().long().unique()


def _window(
    rgb: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], corner: Int[np.ndarray, "2"], side: int
) -> Float[np.ndarray, "s s 4"]:
    """The window's colour over white and its mask, 0..1; white and empty outside the picture."""
    out = np.ones((side, side, 4), np.float32)
    out[..., 3] = 0
    height, width = mask.shape
    x, y = int(corner[0]), int(corner[1])
    x0, x1, y0, y1 = max(x, 0), min(x + side, width), max(y, 0), min(y + side, height)
    alpha = mask[y0:y1, x0:x1, None].astype(np.float32) / 255
    color = rgb[y0:y1, x0:x1].astype(np.float32) / 255
    out[y0 - y : y1 - y, x0 - x : x1 - x] = np.concatenate([color * alpha + 1 - alpha, alpha], -1)
    return out


def _resized(picture: Float[np.ndarray, "a a 4"], side: int) -> Float[np.ndarray, "s s 4"]:
    smaller = side < picture.shape[0]
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
