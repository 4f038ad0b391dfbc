"""A picture for the surface of a mesh: where each triangle lies in it, and which point of the mesh each texel shows.

Two triangles share a square cell of a regular grid. That makes a seam of every edge, which costs vertices and nothing
else here: texels beyond a triangle's edge show what lies beyond it in its plane, so that filtering sees no border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fourdgen.report import FourdgenError

GUTTER = 1.0  # texels between a triangle and the border of its cell
SMALLEST = 6  # texels of a cell's side: a triangle needs some for itself


@dataclass(frozen=True)
class Atlas:
    """uv: corners of the f triangles in the picture, 0..1, origin at the top left (glTF's convention).

    Of every texel of the picture, row by row: `face` is the triangle that it shows, -1 for none, and `weights` the
    barycentric coordinates of its centre, which may lie beyond the triangle's edge."""

    size: int
    uv: Float[np.ndarray, "f 3 2"]
    face: Int[np.ndarray, "t"]
    weights: Float[np.ndarray, "t 3"]


def grid_atlas(faces: int, size: int) -> Atlas:
    """An atlas of `size` x `size` texels. Raises FourdgenError where the triangles do not fit into it."""
    side = int(np.ceil(np.sqrt((faces + 1) // 2)))
    cell = size // max(side, 1)
    if cell < SMALLEST:
        raise FourdgenError(
            f"a texture of {size} x {size} is too small for {faces} triangles",
            f"give --texture {-(-SMALLEST * side // 256) * 256} or more, or fewer triangles by --faces",
        )
    # The first triangle of a cell has its right angle at the top left, the second at the bottom right.
    # Bilinear filtering reads texels whose centres are up to one texel away along each axis, hence two along the
    # diagonal that the triangles share; a little more, so that rounding cannot make it three.
    near, long = GUTTER, cell - 3.01 * GUTTER
    first = np.array([[near, near], [long, near], [near, long]])
    second = cell - first
    number = np.arange(faces)
    corner = np.stack([number // 2 % side, number // 2 // side], 1) * float(cell)
    uv = (corner[:, None] + np.where((number % 2 == 0)[:, None, None], first, second)) / size
    y, x = np.divmod(np.arange(size * size), size)
    column, row = x // cell, y // cell
    at = np.stack([x % cell, y % cell], 1) + 0.5
    upper = at.sum(1) >= cell
    face = 2 * (row * side + column) + upper
    face = np.where((column < side) & (row < side) & (face < faces), face, -1)
    at = np.where(upper[:, None], cell - at, at)
    weights = (at - near) / (long - near)
    return Atlas(size, uv, face, np.concatenate([1 - weights.sum(1, keepdims=True), weights], 1))
