"""Is the subject the same on both sides? Found by test on the canonical surfels, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from fourdgen.geometry.camera import orbit_eyes
from fourdgen.geometry.transforms import quat_conjugate, quat_multiply, quat_to_matrix
from fourdgen.scene.surfels import Surfels, rgb_from_sh

SAMPLE = 600  # surfels that are compared
CLEAR = 0.45  # the best plane's residual must be below this share of the typical plane's, and
RIVAL = 0.75  # below this share of the best plane that lies elsewhere (a ball has no one mirror plane)
ELSEWHERE = 0.87  # |cosine| of 30 degrees between normals


@dataclass(frozen=True)
class Mirror:
    """The plane normal . x = offset of the canonical space, and for each surfel the one nearest to its mirror image.
    `residual`: how badly the sides match, in units of a typical plane's."""

    normal: Float[Tensor, "3"]
    offset: float
    twin: Int[Tensor, "n"]
    residual: float

    def reflection(self) -> Float[Tensor, "3 3"]:
        """The linear part: x -> reflection x + 2 offset normal."""
        return torch.eye(3) - 2 * self.normal[:, None] * self.normal

    def carry(
        self, rest: Surfels, here: Surfels, there: Surfels
    ) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        """Per surfel, x -> M x + T from the surfel's place in state `here` to its mirror image's in state `there`;
        `rest` is the canonical state. All three hold the same surfels."""
        back = quat_to_matrix(quat_multiply(_unit(rest.quats), quat_conjugate(_unit(here.quats))))
        away = quat_to_matrix(_unit(quat_multiply(_unit(there.quats), quat_conjugate(_unit(rest.quats)))))[self.twin]
        # x -> rest:  back (x - here) + rest;  mirrored;  rest -> there by the twin's motion
        mirrored = away @ self.reflection()
        linear = mirrored @ back
        image = rest.means @ self.reflection() + 2 * self.offset * self.normal
        shift = there.means[self.twin] + (away @ (image - rest.means[self.twin])[..., None])[..., 0]
        return linear, shift - (linear @ here.means[..., None])[..., 0]


def _unit(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    return torch.nn.functional.normalize(quats, dim=-1)


@torch.no_grad()
def find_mirror(surfels: Surfels) -> Mirror | None:
    """The plane that maps shape and colour onto themselves, or None where no plane does so clearly.

    Residual of a plane: mean distance of mirrored surfels to their nearest ones (in radii) plus 0.5 times the colour
    difference there. Planes of 144 directions through the middle are tried, the best refined with its offset.
    """
    opaque = torch.sigmoid(surfels.opacity) > 0.3
    if int(opaque.sum()) < 50:
        return None
    points, colors = surfels.means[opaque].double(), rgb_from_sh(surfels.sh[opaque][:, :1]).double()
    pick = torch.linspace(0, len(points) - 1, min(SAMPLE, len(points))).long()
    middle = points.mean(0)
    radius = float((points - middle).norm(dim=1).quantile(0.9))
    tree = cKDTree(points.numpy())

    def residual(normal: Tensor, offset: float) -> float:
        image = points[pick] - 2 * ((points[pick] @ normal) - offset)[:, None] * normal
        distance, nearest = tree.query(image.numpy())
        difference = (colors[pick] - colors[torch.from_numpy(nearest)]).abs().mean(1)
        return float(np.minimum(distance / radius, 0.5).mean()) + 0.5 * float(difference.mean())

    turns, heights = torch.arange(0.0, 180.0, 10), torch.arange(-80.0, 81.0, 20)
    around, up = (part.flatten() for part in torch.meshgrid(turns, heights, indexing="ij"))
    normals = orbit_eyes(around, up, 1.0).double()
    tried = torch.tensor([residual(normal, float(normal @ middle)) for normal in normals])
    best = normals[int(tried.argmin())]
    normal, offset, least = _refined(residual, best, float(best @ middle), radius)
    elsewhere = (normals @ normal).abs() < ELSEWHERE
    share = least / float(tried.median())
    if share > CLEAR or least > RIVAL * float(tried[elsewhere].min()):
        return None
    every = surfels.means.double()
    image = every - 2 * ((every @ normal) - offset)[:, None] * normal
    return Mirror(normal.float(), offset, torch.from_numpy(cKDTree(every.numpy()).query(image.numpy())[1]), share)


def _refined(
    residual: Callable[[Tensor, float], float], normal: Tensor, offset: float, radius: float
) -> tuple[Tensor, float, float]:
    """Pattern search over two tilts and the offset."""
    best, step = residual(normal, offset), 0.1
    while step > 0.01:
        side = torch.linalg.cross(normal, torch.tensor([0.3, 0.5, 0.8], dtype=torch.double))
        side = side / side.norm()
        other = torch.linalg.cross(normal, side)
        moved = False
        for turn, shift in ((side, 0.0), (-side, 0.0), (other, 0.0), (-other, 0.0), (0 * side, 1.0), (0 * side, -1.0)):
            tilted = torch.nn.functional.normalize(normal + step * turn, dim=0)
            trial = residual(tilted, offset + step * radius * shift)
            if trial < best:
                normal, offset, best, moved = tilted, offset + step * radius * shift, trial, True
                break
        if not moved:
            step /= 2
    return normal, offset, best
