"""The dense torch rasterizer: every pixel against every surfel, autograd, any float type. The truth of the tests.

The formulas are those of fourdgen/render/types.py, written as plainly as they can be; float64 and small pictures only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.render.types import ALPHA_MAX, ALPHA_MIN, EDGE_ON, NEAR, STOP, RenderOut


@dataclass(frozen=True)
class Oracle:
    """A Rasterizer. `center_depth`: the depth of the surfel's centre for all its pixels, as gsplat has it."""

    center_depth: bool = False
    name: str = "oracle"

    def __call__(
        self,
        means,
        quats,
        scales,
        opacities,
        colors,
        cameras: Cameras,
        background=None,
        distortion=False,
        weights=False,
    ) -> RenderOut:
        views = []
        for v in range(len(cameras)):
            args = [t[v] if t.dim() == 3 else t for t in (means, quats, colors)]
            over = background[v] if background is not None and background.dim() == 2 else background
            views.append(
                self.one(
                    args[0],
                    args[1],
                    scales,
                    opacities,
                    args[2],
                    cameras.cam_from_world[v],
                    cameras.K[v],
                    cameras.size,
                    over,
                )
            )
        rgb, alpha, depth, median, normal, dist, weight, pixels = map(torch.stack, zip(*views, strict=True))
        return RenderOut(
            rgb,
            alpha,
            depth,
            median,
            normal,
            dist if distortion else None,
            *((weight, pixels) if weights else (None, None)),
        )

    def one(
        self,
        means: Float[Tensor, "n 3"],
        quats: Float[Tensor, "n 4"],
        scales: Float[Tensor, "n 2"],
        opacities: Float[Tensor, "n"],
        colors: Float[Tensor, "n c"],
        cam_from_world: Float[Tensor, "4 4"],
        K: Float[Tensor, "3 3"],
        size: tuple[int, int],
        background: Float[Tensor, "c"] | None,
    ) -> tuple[Tensor, ...]:
        rotation, translation = cam_from_world[:3, :3], cam_from_world[:3, 3]
        center = means @ rotation.T + translation
        axes = quat_to_matrix(quats)
        tangents = rotation @ axes[:, :, :2] * scales[:, None, :]
        cosine = ((rotation @ axes[:, :, 2:])[..., 0] * center).sum(-1, keepdim=True) / center.norm(
            dim=-1, keepdim=True
        )
        facing = torch.where(cosine < 0, 1.0, -1.0)
        normals = axes[:, :, 2] * facing.to(means.dtype)

        # a pixel sees (u, v) of the surfel where (x w, y w, w) = M (u, v, 1)
        M = K @ torch.cat([tangents, center[..., None]], -1)
        signs = means.new_tensor([1.0, 1.0, -1.0])
        f = signs / (M[:, 2] ** 2 * signs).sum(-1, keepdim=True)
        mean2d = (M[:, :2] * M[:, 2:3] * f[:, None]).sum(-1)  # middle of the box of the 1-sigma ellipse

        reach = 2 * torch.log((opacities / ALPHA_MIN).clamp_min(1e-9))
        crosses = reach * (tangents[:, 2] ** 2).sum(-1) >= center[:, 2] ** 2
        order = torch.argsort(center[:, 2].detach(), stable=True)
        order = order[((center[:, 2] > NEAR) & ~crosses & (opacities > ALPHA_MIN))[order].detach()]

        w, h = size
        y, x = torch.meshgrid(torch.arange(h).to(means) + 0.5, torch.arange(w).to(means) + 0.5, indexing="ij")
        pixel = torch.stack([x.reshape(-1), y.reshape(-1)], -1)
        m = M[order][:, None]
        line_u = pixel[None, :, :1] * m[:, :, 2] - m[:, :, 0]
        line_v = pixel[None, :, 1:] * m[:, :, 2] - m[:, :, 1]
        crossing = torch.linalg.cross(line_u, line_v)
        uv = crossing[..., :2] / crossing[..., 2:]
        q_plane = (uv**2).sum(-1)
        q_disc = 2 * ((pixel - mean2d[order][:, None]) ** 2).sum(-1)
        z = center[order][:, None, 2].expand_as(q_plane)
        if not self.center_depth:
            on_plane = (q_plane <= q_disc) & (cosine[order].abs() > EDGE_ON)
            uv_safe = torch.where(on_plane[..., None], uv, torch.zeros_like(uv))
            z = z + (uv_safe * tangents[order][:, None, 2]).sum(-1)

        raw = opacities[order][:, None] * torch.exp(-0.5 * torch.minimum(q_plane, q_disc))
        inside = raw.detach() >= ALPHA_MIN
        alpha = torch.where(inside, raw.clamp_max(ALPHA_MAX), torch.zeros_like(raw))
        seen = inside & (torch.cumprod(1 - alpha.detach(), 0) > STOP)
        alpha = torch.where(seen, alpha, torch.zeros_like(alpha))
        after = torch.cumprod(1 - alpha, 0)
        before = torch.cat([torch.ones_like(after[:1]), after[:-1]], 0)
        blend = alpha * before
        total = blend.sum(0)

        rgb = blend.T @ colors[order]
        if background is not None:
            rgb = rgb + (1 - total)[:, None] * background
        depth = (blend * z).sum(0)
        normal = blend.T @ normals[order]
        depth_before = torch.cumsum(blend * z, 0) - blend * z
        distortion = (2 * blend * (z * (1 - before) - depth_before)).sum(0)
        front = seen & (before.detach() > 0.5)
        index = torch.where(front, torch.arange(len(order))[:, None], -1).amax(0) if len(order) else None
        if index is None:
            median = torch.zeros_like(depth)
        else:
            median = torch.where(index >= 0, z.gather(0, index.clamp_min(0)[None])[0], torch.zeros_like(depth))
        weight, pixels = means.new_zeros(2, len(means))
        weight = weight.index_copy(0, order, blend.sum(1).detach())
        pixels = pixels.index_copy(0, order, inside.sum(1).to(means))
        images = [t.reshape(h, w, *t.shape[1:]) for t in (rgb, total, depth, median, normal, distortion)]
        return (*images, weight, pixels)
