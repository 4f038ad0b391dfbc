"""The pictures that poses are found on: a square window around the subject in every frame, at one small size.

A subject that fills a tenth of a wide frame is seen as sharply as one that fills it. Cameras stay exact, because the
principal point moves with the window and the focal length with its scale. What lies outside the filmed picture is
empty, unless the border there cuts the subject off: then nobody knows what it would show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

MARGIN = 0.16  # of the subject's size on each side: a pose that is off must be seen to be off
EMPTY = 12  # a frame with fewer mask pixels than this shows no subject
TINY = 0.1  # of the usual area of the mask: a frame with less counts for less, it may be stray pixels
WHOLE = 0.9  # weight of a frame from which on it can be looked up among rendered views
REFERENCES = 3  # so many frames must show the whole subject to tell how large it is where it is cut off
PER_FRAME = ("picture", "known", "weight", "principal", "unit", "center", "frame", "time")


@dataclass(frozen=True)
class Pictures:
    """n windows of one or more clips. Lengths "in sides" are fractions of the filmed picture's longer side.

    `picture`: colour over white (3) and mask (1). `known`: 0 where the window reaches beyond a border that cuts the
    subject off, else 1. `weight`: how much a frame counts, the share of the subject that it shows (1: all of it).
    `principal`: the principal point in window pixels. `unit`: window pixels per side. `center`: the subject's centre
    (of its mask; estimated where it is cut off) seen from the principal point, in sides. `clip`: number of the clip.
    `frame`: number of the frame in its clip. `time`: when it was filmed, in steps of its clip (see
    `geometry.timeline.ticks`). `extent` [c]: the subject's largest extent per clip, in sides.
    """

    picture: Float[Tensor, "n 4 s s"]
    known: Float[Tensor, "n s s"]
    weight: Float[Tensor, "n"]
    principal: Float[Tensor, "n 2"]
    unit: Float[Tensor, "n"]
    center: Float[Tensor, "n 2"]
    clip: Int[Tensor, "n"]
    frame: Int[Tensor, "n"]
    time: Float[Tensor, "n"]
    extent: Float[Tensor, "c"]

    def __len__(self) -> int:
        return len(self.unit)

    @property
    def side(self) -> int:
        return self.picture.shape[-1]

    def __getitem__(self, index: Tensor) -> Pictures:
        return replace(self, **{name: getattr(self, name)[index] for name in (*PER_FRAME, "clip")})

    @property
    def whole(self) -> Int[Tensor, "m"]:
        """The frames that show the whole subject; all, where hardly any does."""
        rows = (self.weight >= WHOLE).nonzero()[:, 0]
        return rows if len(rows) >= REFERENCES else torch.arange(len(self))

    def mean(self, values: Float[Tensor, "n"]) -> float:
        """Mean of a figure of every frame; those that show less of the subject count less."""
        return float((values * self.weight).mean() / self.weight.mean())

    def numbered(self, frames: Int[Tensor, "t"], time: Float[Tensor, "t"]) -> Pictures:
        """Windows cut from pictures that are the `frames` of a clip, whose frames were all filmed at `time`."""
        return replace(self, frame=frames[self.frame], time=time[frames[self.frame]])

    def intrinsics(self, focal: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
        """K of the windows for focal lengths in sides."""
        zero, one = torch.zeros_like(focal), torch.ones_like(focal)
        pixels = focal * self.unit
        rows = [pixels, zero, self.principal[:, 0], zero, pixels, self.principal[:, 1], zero, zero, one]
        return torch.stack(rows, -1).reshape(-1, 3, 3)


def seen_through(pictures: Pictures, K: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> tuple[Pictures, float]:
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


def cut_sides(boxes: Float[np.ndarray, "t 4"], size: tuple[int, int]) -> Bool[np.ndarray, "t 4"]:
    """Which sides of the boxes (x0, y0, x1, y1) lie on the border of a picture of `size` (width, height): there the
    subject is cut off."""
    width, height = size
    return np.stack([boxes[:, 0] <= 0, boxes[:, 1] <= 0, boxes[:, 2] >= width, boxes[:, 3] >= height], 1)


def whole_boxes(
    boxes: Float[np.ndarray, "t 4"], size: tuple[int, int], time: Float[np.ndarray, "t"] | None = None
) -> Float[np.ndarray, "t 4"]:
    """The boxes, continued beyond a border that cuts the subject off to the size that it has in frames around that show
    all of it (where there are REFERENCES of them at least, and only where one of two opposite sides is cut). `time`:
    when the frames were filmed (evenly if None)."""
    cuts, out = cut_sides(boxes, size), boxes.copy()
    whole = np.nonzero(~cuts.any(1) & ~np.isnan(boxes[:, 0]))[0]
    if len(whole) < REFERENCES:
        return out
    time = np.arange(len(boxes)) if time is None else time
    for low, high in ((0, 2), (1, 3)):
        usual = np.interp(time, time[whole], boxes[whole, high] - boxes[whole, low])
        first, last = cuts[:, low] & ~cuts[:, high], cuts[:, high] & ~cuts[:, low]
        out[first, low] = np.minimum(boxes[first, low], boxes[first, high] - usual[first])
        out[last, high] = np.maximum(boxes[last, high], boxes[last, low] + usual[last])
    return out


def _weights(
    area: Float[np.ndarray, "n"], cut_off: Bool[np.ndarray, "n"], time: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """The share of the subject that each frame shows, from the masks' areas: a frame that shows it whole has 1, unless
    it is TINY there."""
    whole = np.nonzero(~cut_off)[0]
    if len(whole) < REFERENCES:
        whole = np.arange(len(area))
    usual = np.interp(time, time[whole], area[whole])
    share = np.where(cut_off, area / usual, area / (TINY * np.median(area[whole])))
    return np.clip(share, 0, 1)


def cut(
    rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"], side: int, clip: int = 0,
    time: Float[Tensor, "t"] | None = None,
) -> Pictures:  # fmt: skip
    """Windows of one clip; frames without a subject are left out (see `Pictures.frame` for those that are there).
    `time`: when they were filmed, in steps of the clip (evenly if None).

    Raises ValueError when no frame shows a subject.
    """
    height, width = mask.shape[1:]
    seen = mask_boxes(mask)
    shown = np.nonzero(~np.isnan(seen[:, 0]))[0]
    if len(shown) == 0:
        raise ValueError("every mask is empty")
    time = torch.arange(len(mask)).float() if time is None else time
    cuts, boxes = cut_sides(seen, (width, height)), whole_boxes(seen, (width, height), time.numpy())
    area = (mask[shown] > 127).sum((1, 2)).astype(np.float64)
    longer = max(height, width)
    pictures, known, principal, unit, center = [], [], [], [], []
    for i in shown:
        x0, y0, x1, y1 = boxes[i]
        middle = np.array([x0 + x1, y0 + y1]) / 2
        reach = max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN)
        window = max(int(np.ceil(reach)), 8)
        corner = np.round(middle - window / 2).astype(int)
        pictures.append(_resized(_window(rgb[i], mask[i], corner, window), side))
        known.append(_known(corner, window, (width, height), cuts[i], side))
        scale = side / window
        principal.append((np.array([width, height]) / 2 - corner) * scale)
        unit.append(longer * scale)
        center.append((middle - np.array([width, height]) / 2) / longer)
    sizes = np.fmax(boxes[shown, 2] - boxes[shown, 0], boxes[shown, 3] - boxes[shown, 1])
    count = len(shown)
    return Pictures(
        picture=torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(),
        known=torch.from_numpy(np.stack(known)),
        weight=torch.from_numpy(_weights(area, np.any(cuts[shown], axis=1), time.numpy()[shown])).float(),
        principal=torch.tensor(np.array(principal), dtype=torch.float32),
        unit=torch.tensor(unit, dtype=torch.float32),
        center=torch.tensor(np.array(center), dtype=torch.float32),
        clip=torch.full((count,), clip),
        frame=torch.from_numpy(shown),
        time=time[torch.from_numpy(shown)].float(),
        extent=torch.tensor([float(np.quantile(sizes, 0.9)) / longer]),
    )


def join(parts: list[Pictures]) -> Pictures:
    """Windows of several clips, numbered in this order. All must have one side."""
    cat = {name: torch.cat([getattr(part, name) for part in parts]) for name in (*PER_FRAME, "extent")}
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


def _known(
    corner: Int[np.ndarray, "2"], window: int, size: tuple[int, int], cuts: Bool[np.ndarray, "4"], side: int
) -> Float[np.ndarray, "s s"]:
    """1, and 0 where the window reaches beyond a side of the picture that cuts the subject off."""
    if not cuts.any():
        return np.ones((side, side), np.float32)
    across, down = (corner[axis] + np.arange(window) for axis in (0, 1))
    beyond_x = (cuts[0] & (across < 0)) | (cuts[2] & (across >= size[0]))
    beyond_y = (cuts[1] & (down < 0)) | (cuts[3] & (down >= size[1]))
    inside = ~(beyond_y[:, None] | beyond_x[None])
    # A pixel that is partly unknown is unknown: half of its colour is made up.
    return (_resized(inside.astype(np.float32), side) > 0.999).astype(np.float32)


def _resized(picture: Float[np.ndarray, "a a *c"], side: int) -> Float[np.ndarray, "s s *c"]:
    smaller = side < picture.shape[0]
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
