"""Lens distortion: pictures only need the forward direction (ideal -> filmed), because undoing it asks, for every ideal
pixel, where it was filmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8

from fourdgen.geometry.camera import Cameras

MARGIN = 0.25  # of a side: how far an undistorted picture may grow beyond the filmed one


@dataclass(frozen=True)
class Lens:
    """Distortion on the normalised image plane (x / z, y / z).

    polynomial: radial 1 + k1 r^2 + k2 r^4 + ..., tangential p1, p2 as in OpenCV.
    rational: the same with (k1, k2, k3) above and (k4, k5, k6) below the line (COLMAP's FULL_OPENCV).
    fisheye: r becomes theta (1 + k1 theta^2 + k2 theta^4 + ...), theta = atan r.
    """

    model: Literal["polynomial", "rational", "fisheye"] = "polynomial"
    k: tuple[float, ...] = ()
    p: tuple[float, float] = (0.0, 0.0)

    @property
    def straight(self) -> bool:
        """True when the lens does nothing."""
        return self.model != "fisheye" and not any(self.k) and not any(self.p)


def distort(lens: Lens, ideal: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Where points of the ideal normalised image plane are filmed."""
    x, y = ideal[..., 0], ideal[..., 1]
    r2 = x * x + y * y
    if lens.model == "fisheye":
        r = np.sqrt(r2)
        theta = np.arctan(r)
        bent = theta * _series(lens.k, theta * theta)
        return ideal * np.where(r > 1e-9, bent / np.maximum(r, 1e-9), 1.0)[..., None]
    radial = _series(lens.k[:3] if lens.model == "rational" else lens.k, r2)
    if lens.model == "rational":
        radial = radial / _series(lens.k[3:], r2)
    p1, p2 = lens.p
    return np.stack(
        [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1
    )


def _series(k: tuple[float, ...], t: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    total = np.ones_like(t)
    power = np.ones_like(t)
    for value in k:
        power = power * t
        total = total + value * power
    return total


def undistort(lens: Lens, filmed: Float[np.ndarray, "*n 2"], rounds: int = 30) -> Float[np.ndarray, "*n 2"]:
    """The inverse of `distort` by fixed-point iteration, for points where the lens is invertible."""
    ideal = np.array(filmed, dtype=np.float64)
    for _ in range(rounds):
        bent = distort(lens, ideal)
        if lens.model == "fisheye":
            # Scale the angle rather than the point: steps in the point itself run away near 90 degrees.
            theta = np.arctan(np.linalg.norm(ideal, axis=-1, keepdims=True))
            wanted = np.linalg.norm(filmed, axis=-1, keepdims=True)
            got = np.linalg.norm(bent, axis=-1, keepdims=True)
            turned = np.clip(theta * wanted / np.maximum(got, 1e-9), 0, 1.5)
            ideal = filmed * np.tan(turned) / np.maximum(wanted, 1e-9)
        else:
            ideal = ideal + (filmed - bent)
    return ideal


@dataclass(frozen=True)
class Straightener:
    """Resampling of pictures of one camera to what a lens without distortion would have filmed.

    `K`, `size` (w, h): of the straightened pictures. Same focal length, so the middle keeps its resolution; the picture
    grows where the lens squeezed its rim, by at most a quarter of a side. `known` is 0 where nothing was filmed.
    """

    K: Float[np.ndarray, "3 3"]
    size: tuple[int, int]
    source: Float[np.ndarray, "h w 2"]
    known: UInt8[np.ndarray, "h w"]

    def __call__(self, picture: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "h2 w2 *c"]:
        flags = cv2.INTER_LINEAR
        return cv2.remap(picture, self.source[..., 0], self.source[..., 1], flags, borderMode=cv2.BORDER_REPLICATE)


def rim(lens: Lens, K: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of the filmed picture: what the straightened picture should show.

    At least the picture itself; where the lens squeezed its rim up to a quarter of a side more.
    """
    width, height = size
    across, down = np.linspace(0, width, 33), np.linspace(0, height, 33)
    edge = [(x, y) for x in across for y in (0.0, height)] + [(x, y) for y in down for x in (0.0, width)]
    focal, center = np.array([K[0, 0], K[1, 1]]), K[:2, 2]
    ideal = np.nan_to_num(undistort(lens, (np.array(edge) - center) / focal) * focal + center)
    room = np.array([width, height]) * MARGIN
    low = np.floor(np.clip(ideal.min(0), -room, 0)).astype(int)
    high = np.ceil(np.clip(ideal.max(0), [width, height], [width, height] + room)).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def straightener(
    lens: Lens, K: Float[np.ndarray, "3 3"], size: tuple[int, int], shown: tuple[int, int, int, int] | None = None
) -> Straightener:
    """How to undo `lens` in pictures of `size` (w, h) with intrinsics `K` (pixel centres at +0.5).

    shown: (left, top, right, bottom) as from `rim`, for cameras that share it; default: of this lens.
    """
    left, top, right, bottom = shown or rim(lens, K, size)
    focal, center = np.array([K[0, 0], K[1, 1]]), K[:2, 2]
    new_K = K.copy()
    new_K[:2, 2] -= (left, top)
    pixels = np.stack(np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5), -1)
    plane = (pixels - center) / focal
    filmed = distort(lens, plane) * focal + center
    inside = (filmed > 0).all(-1) & (filmed < size).all(-1) & _monotone(lens, plane)
    known = inside.astype(np.uint8) * 255
    return Straightener(new_K, (right - left, bottom - top), (filmed - 0.5).astype(np.float32), known)


def _monotone(lens: Lens, plane: Float[np.ndarray, "h w 2"]) -> np.ndarray:
    """False beyond the radius at which a polynomial folds back: there pixels repeat the inside of the picture."""
    radius = np.linalg.norm(plane, axis=-1)
    steps = np.linspace(0, max(float(radius.max()), 1e-6), 512)
    bare = Lens(lens.model, lens.k)
    bent = distort(bare, np.stack([steps, np.zeros_like(steps)], -1))[:, 0]
    folded = np.nonzero(np.diff(bent) <= 0)[0]
    return radius < steps[folded[0]] if len(folded) else np.ones(radius.shape, bool)


def straightened(
    rgb: UInt8[np.ndarray, "t h w 3"],
    alpha: UInt8[np.ndarray, "t h w"] | None,
    lenses: Sequence[Lens],
    cameras: Cameras,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, Cameras]:
    """Pictures, alpha and cameras without lens distortion, and where there is a picture (255) and where not (0)."""
    Ks = cameras.K.double().numpy()
    kinds = {(lens, K.tobytes()): (lens, K) for lens, K in zip(lenses, Ks)}
    shown = np.array([rim(lens, K, cameras.size) for lens, K in kinds.values()])
    frame = (*shown[:, :2].min(0).tolist(), *shown[:, 2:].max(0).tolist())
    made: dict[tuple[Lens, bytes], Straightener] = {
        key: straightener(lens, K, cameras.size, frame) for key, (lens, K) in kinds.items()
    }
    each = [made[lens, K.tobytes()] for lens, K in zip(lenses, Ks)]
    pictures = np.stack([undo(picture) for undo, picture in zip(each, rgb)])
    known = np.stack([undo.known for undo in each])
    soft = None if alpha is None else np.stack([undo(a) for undo, a in zip(each, alpha)])
    K = torch.from_numpy(np.stack([undo.K for undo in each])).float()
    return pictures, soft, known, Cameras(cameras.cam_from_world, K, each[0].size)
