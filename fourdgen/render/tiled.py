"""The rasterizer in plain torch: any device, autograd, no compiler. Hundreds of times slower than the kernels.

Every tile takes the surfels whose box touches it, near to far, and composites them densely.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.render.projection import Projected, project
from fourdgen.render.types import ALPHA_MAX, ALPHA_MIN, STOP, RenderOut

TILE = 32  # pixels: few large operations cost less than many small ones


@dataclass(frozen=True)
class TiledRasterizer:
    name: str = "tiled"

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
    ) -> RenderOut:
        """See `fourdgen.render.Rasterizer`."""
        views = []
        for v in range(len(cameras)):
            m, q, c = (t[v] if t.dim() == 3 else t for t in (means, quats, colors))
            pose, K, shift = cameras.cam_from_world[v], cameras.K[v], _watched_shift(means, screen_grad)
            with torch.no_grad():
                visible = project(m, q, scales, opacities, pose, K, cameras.size).visible & c.isfinite().all(1)
            # only what is visible is projected with gradients: 0 times the infinite slopes of the others would be NaN
            some = torch.nonzero(visible)[:, 0]
            p = project(m[some], q[some], scales[some], opacities[some], pose, K, cameras.size)
            picture, *sums = _draw_view(p, opacities[some], c[some], shift[some], cameras.size)
            views.append((picture, *(torch.zeros_like(scales[:, 0]).index_copy(0, some, part) for part in sums)))
        pictures, weight, pixels = (torch.stack(part) for part in zip(*views, strict=True))
        count = colors.shape[-1]
        rgb, (alpha, depth, median, dist) = pictures[..., :count], pictures[..., count : count + 4].unbind(-1)
        if background is not None:
            over = background.expand(len(cameras), count)[:, None, None]
            rgb = rgb + (1 - alpha)[..., None] * over
        return RenderOut(
            rgb=rgb, alpha=alpha, depth=depth, median=median, normal=pictures[..., count + 4 :],
            distortion=dist if distortion else None,
            weight=weight if weights else None, pixels=pixels if weights else None,
        )  # fmt: skip


def _watched_shift(means: Tensor, screen_grad: Tensor | None) -> Float[Tensor, "n 2"]:
    """A shift of every surfel's picture by 0 pixels, whose gradient is measured."""
    shift = means.new_zeros(means.shape[-2], 2)
    if screen_grad is not None and torch.is_grad_enabled():
        shift.requires_grad_(True)

        def measure(grad: Tensor) -> None:
            screen_grad.add_(grad.norm(dim=-1))

        shift.register_hook(measure)
    return shift


def _draw_view(
    p: Projected, opacities: Tensor, colors: Tensor, shift: Tensor, size: tuple[int, int]
) -> tuple[Float[Tensor, "h w k"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Channels (colours, alpha, depth, median, distortion, normal), and weight and pixels per visible surfel."""
    order = torch.argsort(p.center[:, 2].detach(), stable=True)
    x, y, w = p.homography[order].unbind(1)
    a, b, c = torch.linalg.cross(y, w), torch.linalg.cross(w, x), torch.linalg.cross(x, y)
    planes = torch.stack([a, b, c], 1) / c[:, None, 2:]  # (u w, v w, w) = rows . (dx, dy, 1)
    center, low, high = p.mean2d[order] + shift[order], p.low[order], p.high[order]
    z, slopes = p.center[order, 2], p.slopes[order]
    values = torch.cat([colors[order], p.normal[order]], 1)
    opacity, count = opacities[order], colors.shape[1]
    weight, pixels = z.new_zeros(2, len(order))
    bands = []
    for top in range(0, size[1], TILE):
        band = []
        for left in range(0, size[0], TILE):
            w_tile, h_tile = min(TILE, size[0] - left), min(TILE, size[1] - top)
            corner = z.new_tensor([left, top])
            extent = z.new_tensor([w_tile, h_tile])
            here = torch.nonzero(((high >= corner + 0.5) & (low <= corner + extent - 0.5)).all(1))[:, 0]
            grid_y, grid_x = torch.meshgrid(
                torch.arange(h_tile, device=z.device) + top + 0.5,
                torch.arange(w_tile, device=z.device) + left + 0.5,
                indexing="ij",
            )
            pixel = torch.stack([grid_x.reshape(-1), grid_y.reshape(-1)], -1).to(z.dtype)
            blend, depth, inside, seen = _composite(
                pixel[None] - center[here, None], planes[here], z[here], slopes[here], opacity[here]
            )
            sums = blend.T @ values[here]
            before = 1 - (torch.cumsum(blend, 0) - blend)
            weighted = blend * depth
            dist = (2 * weighted * (1 - before) - 2 * blend * (torch.cumsum(weighted, 0) - weighted)).sum(0)
            rank = torch.arange(1, len(here) + 1, device=z.device)[:, None]
            last = (rank * (seen & (before.detach() > 0.5))).amax(0) if len(here) else rank.new_zeros(len(pixel))
            padded = torch.cat([depth.new_zeros(1, len(pixel)), depth])  # row 0: nothing was seen
            median = padded.gather(0, last[None])[0]
            tile = torch.stack([blend.sum(0), weighted.sum(0), median, dist], 1)
            band.append(torch.cat([sums[:, :count], tile, sums[:, count:]], 1).reshape(h_tile, w_tile, -1))
            weight.index_add_(0, order[here], blend.detach().sum(1))
            pixels.index_add_(0, order[here], inside.sum(1).to(pixels.dtype))
        bands.append(torch.cat(band, 1))
    return torch.cat(bands, 0), weight, pixels


def _composite(
    delta: Float[Tensor, "m p 2"],
    planes: Float[Tensor, "m 3 3"],
    z: Float[Tensor, "m"],
    slopes: Float[Tensor, "m 2"],
    opacity: Float[Tensor, "m"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blend weights and depths [m p], which pixels a surfel covers, and which of them see it. Near to far."""
    crossing = delta @ planes[:, :2] + planes[:, None, 2]
    uv = crossing[..., :2] / crossing[..., 2:]
    q_plane, q_disc = (uv**2).sum(-1), 2 * (delta**2).sum(-1)
    on_plane = q_plane <= q_disc
    q = torch.where(on_plane, q_plane, q_disc)  # the disc also where q_plane is NaN
    depth = z[:, None] + (torch.where(on_plane[..., None], uv, torch.zeros_like(uv)) @ slopes[..., None])[..., 0]
    raw = opacity[:, None] * torch.exp(-0.5 * q)
    inside = raw.detach() >= ALPHA_MIN
    alpha = torch.where(inside, raw.clamp_max(ALPHA_MAX), torch.zeros_like(raw))
    seen = inside & (torch.cumprod(1 - alpha.detach(), 0) > STOP)
    alpha = torch.where(seen, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, 0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    return alpha * before, depth, inside, seen
