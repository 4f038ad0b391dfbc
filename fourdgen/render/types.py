"""What every rasterizer takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras

ALPHA_MAX = 0.999  # as in gsplat 1.5.3
ALPHA_MIN = 1 / 255  # a surfel's pixels below this are skipped
STOP = 1e-4  # a pixel is finished before its transmittance falls to this
EDGE_ON = 0.05  # |cosine| of normal and ray below which a surfel has one depth, that of its centre
NEAR = 0.01  # surfels whose centre is nearer are culled


@dataclass(frozen=True)
class RenderOut:
    """v pictures of h x w pixels. All sums run front to back over a pixel's surfels with weights w = alpha T.

    `rgb`: sum w colour, plus (1 - alpha) background if one was given. `alpha`: sum w. `depth`: sum w z, divided by
    nothing, z along the camera axis; `median`: the z of the last surfel seen while T > 0.5, 0 where there is none.
    z is where the ray meets the surfel's plane; it is the centre's depth where the low-pass disc is the larger and for
    surfels seen edge-on (|cosine| < 0.05), where that point is ill-conditioned. Elsewhere it lies within 3.4 standard
    deviations of the centre by itself. (The cuda rasterizer has the centre's depth everywhere.)
    `normal`: sum w n, world space, turned to the camera. `distortion`: sum over pairs of w_i w_j |z_i - z_j|, where
    asked. `weight`: sum of w over the pixels of each surfel; `pixels`: how many pixels it covers (alpha >= 1/255,
    hidden or not); both without gradient, where asked.
    """

    rgb: Float[Tensor, "v h w c"]
    alpha: Float[Tensor, "v h w"]
    depth: Float[Tensor, "v h w"]
    median: Float[Tensor, "v h w"]
    normal: Float[Tensor, "v h w 3"]
    distortion: Float[Tensor, "v h w"] | None = None
    weight: Float[Tensor, "v n"] | None = None
    pixels: Float[Tensor, "v n"] | None = None


class Rasterizer(Protocol):
    """Draws surfels into v cameras of one picture size, with gradients to everything, poses and intrinsics included.

    `means`, `quats` and `colors` are shared by the views or given per view; `scales` are linear standard deviations,
    `opacities` 0..1; any number of channels. `screen_grad` is added to in place by the backward pass: the length of the
    loss's gradient with respect to a shift of each surfel's picture, per pixel of shift, summed over the views (the
    signal of densification).
    """

    @property
    def name(self) -> str: ...

    def __call__(
        self,
        means: Float[Tensor, "*v n 3"],
        quats: Float[Tensor, "*v n 4"],
        scales: Float[Tensor, "n 2"],
        opacities: Float[Tensor, "n"],
        colors: Float[Tensor, "*v n c"],
        cameras: Cameras,
        background: Float[Tensor, "c"] | Float[Tensor, "v c"] | None = None,
        distortion: bool = False,
        weights: bool = False,
        screen_grad: Float[Tensor, "n"] | None = None,
    ) -> RenderOut: ...
