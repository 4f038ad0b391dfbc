"""nvdiffrast.torch for the CPU, as far as fourdgen uses it, written from its documentation: slow, for small pictures.

https://nvlabs.github.io/nvdiffrast: `rasterize` gives (u, v, z/w, triangle number from 1) for every pixel, u and v
being the weights of a triangle's first and second corner; the first row of a picture lies at y = -1 of clip space.
`texture` takes (0, 0) as the corner of the first texel.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RasterizeCudaContext:
    def __init__(self, device: object = None) -> None:
        assert str(device) == "cpu"


def rasterize(
    glctx: RasterizeCudaContext,
    pos: Tensor,
    tri: Tensor,
    resolution: list[int],
    ranges: None = None,
    grad_db: bool = True,
) -> tuple[Tensor, Tensor]:
    assert pos.dim() == 3 and pos.shape[2] == 4 and pos.dtype == torch.float32 and pos.is_contiguous()
    assert tri.dtype == torch.int32 and tri.is_contiguous()
    h, w = resolution
    out = torch.zeros(len(pos), h, w, 4)
    y, x = torch.meshgrid((torch.arange(h) + 0.5) * 2 / h - 1, (torch.arange(w) + 0.5) * 2 / w - 1, indexing="ij")
    for image, vertices in zip(out, pos):
        nearest = torch.full((h, w), torch.inf)
        for number, corners in enumerate(vertices[tri.long()], 1):
            # Perspective-correct weights b of the corners: sum b (x, y, w) is parallel to the pixel's (x, y, 1).
            matrix = corners[:, [0, 1, 3]].T
            if abs(float(torch.linalg.det(matrix))) < 1e-12:
                continue
            weights = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(matrix).T
            inside = (weights >= 0).all(-1) | (weights <= 0).all(-1)
            weights = weights / weights.sum(-1, keepdim=True)
            depth = (weights @ corners[:, 2]) / (weights @ corners[:, 3])
            hit = inside & (depth < nearest) & (depth > -1)
            nearest = torch.where(hit, depth, nearest)
            values = torch.stack([weights[..., 0], weights[..., 1], depth, torch.full_like(depth, number)], -1)
            image[hit] = values[hit]
    return out, torch.zeros(len(pos), h, w, 4)


def interpolate(
    attr: Tensor, rast: Tensor, tri: Tensor, rast_db: None = None, diff_attrs: None = None
) -> tuple[Tensor, Tensor]:
    assert attr.is_contiguous() and attr.dtype == torch.float32 and tri.dtype == torch.int32
    corners = attr.expand(len(rast), -1, -1)[:, tri.long()]
    number = rast[..., 3].long()
    chosen = torch.stack([one[index.clamp_min(1) - 1] for one, index in zip(corners, number)])
    u, v = rast[..., :1], rast[..., 1:2]
    mixed = chosen[..., 0, :] * u + chosen[..., 1, :] * v + chosen[..., 2, :] * (1 - u - v)
    return mixed * (number > 0)[..., None], torch.zeros(*rast.shape[:3], 0)


def texture(
    tex: Tensor,
    uv: Tensor,
    uv_da: None = None,
    mip_level_bias: None = None,
    mip: None = None,
    filter_mode: str = "auto",
    boundary_mode: str = "wrap",
    max_mip_level: None = None,
) -> Tensor:
    assert tex.dim() == 4 and uv.shape[-1] == 2 and tex.is_contiguous()
    assert (filter_mode, boundary_mode) == ("linear", "clamp")
    many = tex.expand(len(uv), -1, -1, -1).permute(0, 3, 1, 2)
    seen = torch.nn.functional.grid_sample(many, 2 * uv - 1, padding_mode="border", align_corners=False)
    return seen.permute(0, 2, 3, 1)
