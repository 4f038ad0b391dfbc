"""Training views: a window around the subject in every frame, at one resolution of a coarse-to-fine ladder.

A level is given as the subject's size in pixels, not the picture's: a subject that fills a tenth of a wide frame trains
as sharply as one that fills it, and no time goes into empty background. Each frame's window moves with the subject, and
the principal point moves with the window, so the cameras stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fourdgen.data.capture import Capture
from fourdgen.data.records import ClipTrack
from fourdgen.geometry.camera import Cameras

MARGIN = 0.15  # of the subject's size, on each side: room in which stray surfels are seen and punished


@dataclass(frozen=True)
class Window:
    """Windows of a clip: per frame a square of `side` native pixels at `corner` (x, y); it may leave the picture."""

    corner: Int[Tensor, "t 2"]
    side: int
    subject: float  # the subject's larger box side, in native pixels (95th percentile over the frames)


@dataclass(frozen=True)
class View:
    """One training view. `rgb` is premultiplied by `mask`; `weight` is None where every pixel counts fully.

    `strength`: mean weight of the pixels that lie in the picture. Losses are means over weighted pixels; this factor
    makes a frame of low weights count less than one of full weights. `picture`: left, top, right, bottom of the whole
    picture, in pixels of this view: what lies between the window and there was filmed, and is background.
    """

    rgb: Float[Tensor, "3 h w"]
    mask: Float[Tensor, "h w"]
    weight: Float[Tensor, "h w"] | None
    K: Float[Tensor, "3 3"]
    strength: float = 1.0
    picture: tuple[float, float, float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape[1], self.mask.shape[0]

    def target(self, background: Float[Tensor, "3"]) -> Float[Tensor, "3 h w"]:
        """What a perfect model shows before a background colour."""
        return self.rgb + (1 - self.mask) * background[:, None, None]

    def cameras(self, cam_from_world: Float[Tensor, "4 4"]) -> Cameras:
        return Cameras(cam_from_world[None], self.K[None], self.size)


def find_window(mask: UInt8[Tensor, "t h w"]) -> Window:
    """Square windows around the subject; frames with an empty mask take their neighbours' place."""
    rows, columns = (mask > 127).any(2), (mask > 127).any(1)
    seen = rows.any(1)
    if not bool(seen.any()):
        raise ValueError("every mask is empty")
    top, bottom = _first_and_last(rows)
    left, right = _first_and_last(columns)
    boxes = torch.stack([left, top, right, bottom], 1).float()
    index = torch.arange(len(mask))
    nearest = (index[:, None] - index[seen][None]).abs().argmin(1)
    boxes = boxes[seen][nearest]
    extent = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    subject = float(extent.quantile(0.95))
    side = round(float(extent.max()) + 2 * MARGIN * subject)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    return Window((center - side / 2).round().long(), side, subject)


def _first_and_last(hit: Bool[Tensor, "t n"]) -> tuple[Int[Tensor, "t"], Int[Tensor, "t"]]:
    length = hit.shape[1]
    first = hit.float().argmax(1)
    last = length - hit.flip(1).float().argmax(1)
    return first, last


def level_side(window: Window, subject_pixels: float) -> int:
    """Side of the square picture in which the subject is `subject_pixels` large; filmed pixels are never enlarged."""
    return max(16, min(window.side, round(window.side * subject_pixels / window.subject)))


@dataclass(frozen=True)
class _Packed:
    layers: UInt8[Tensor, "5 h w"]  # colour, mask, weight
    K: Float[Tensor, "3 3"]
    full: bool  # every weight is one
    strength: float
    picture: tuple[float, float, float, float]


class Views:
    """All views of a capture at one level, kept in memory as uint8 (about 200 kB a view at 220 pixels)."""

    def __init__(self, capture: Capture, tracks: Mapping[str, ClipTrack], subject_pixels: float) -> None:
        self._views: dict[str, list[_Packed]] = {}
        self.windows: dict[str, Window] = {}
        for name, track in tracks.items():
            mask = torch.stack([torch.from_numpy(capture.read(name, "mask", t)) for t in range(len(track.K))])
            window = find_window(mask)
            side = level_side(window, subject_pixels)
            scale = side / window.side
            rows = []
            for t in range(len(mask)):
                rgb, weight = (torch.from_numpy(capture.read(name, kind, t)) for kind in ("rgb", "weight"))
                picture = _premultiplied(rgb, mask[t], weight)
                x, y = (int(v) for v in window.corner[t])
                small = _cut(picture, x, y, window.side)
                if side < window.side:
                    small = F.interpolate(small[None], (side, side), mode="bilinear", antialias=True)[0]
                K = track.K[t].clone()
                K[0, 2] -= x
                K[1, 2] -= y
                K[:2] *= scale
                full, strength = bool((small[4] > 0.999).all()), float(weight.float().mean()) / 255
                height, width = mask.shape[1:]
                ends = (-x * scale, -y * scale, (width - x) * scale, (height - y) * scale)
                rows.append(_Packed((small * 255).round().clamp(0, 255).to(torch.uint8), K, full, strength, ends))
            self._views[name] = rows
            self.windows[name] = window

    def view(self, clip: str, index: int) -> View:
        packed = self._views[clip][index]
        layers = packed.layers.float() / 255
        weight = None if packed.full else layers[4]
        return View(layers[:3], layers[3], weight, packed.K, packed.strength, packed.picture)

    def covered_pixels(self) -> float:
        """Median over all views of the subject's area in pixels."""
        areas = [float((row.layers[3] > 127).sum()) for rows in self._views.values() for row in rows]
        return float(torch.tensor(areas).median())


def _premultiplied(
    rgb: UInt8[Tensor, "h w 3"], mask: UInt8[Tensor, "h w"], weight: UInt8[Tensor, "h w"]
) -> Float[Tensor, "5 h w"]:
    alpha = mask.float() / 255
    color = rgb.permute(2, 0, 1).float() / 255 * alpha
    return torch.cat([color, alpha[None], weight[None].float() / 255])


def _cut(picture: Float[Tensor, "5 h w"], x: int, y: int, side: int) -> Float[Tensor, "5 s s"]:
    """The window of a picture. What lies outside the picture is empty and has weight 0: nobody knows what is there."""
    height, width = picture.shape[1:]
    out = picture.new_zeros(5, side, side)
    x0, x1, y0, y1 = max(x, 0), min(x + side, width), max(y, 0), min(y + side, height)
    if x0 < x1 and y0 < y1:
        out[:, y0 - y : y1 - y, x0 - x : x1 - x] = picture[:, y0:y1, x0:x1]
    return out
