"""The compiled CPU rasterizer (csrc/raster.cpp) as a Rasterizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen import native
from fourdgen.geometry.camera import Cameras
from fourdgen.render.types import RenderOut


@dataclass(frozen=True)
class CpuRasterizer:
    """Calls the kernels with a fixed number of threads (None follows torch)."""

    threads: int | None = None
    name: str = "cpu"

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
        """See `fourdgen.render.Rasterizer`. More channels than the kernel takes are drawn in groups."""
        composite_here = background is not None and background.requires_grad
        channels = colors.shape[-1]
        if screen_grad is not None and channels > native.MAX_CHANNELS:  # lengths of groups do not add up
            raise ValueError(f"the screen gradient is known for at most {native.MAX_CHANNELS} channels, not {channels}")
        pictures, first = [], None
        for start in range(0, channels, native.MAX_CHANNELS):
            group = slice(start, min(start + native.MAX_CHANNELS, channels))
            out = native.raster(
                means, quats, scales, opacities, colors[..., group], cameras.cam_from_world, cameras.K, cameras.size,
                background=None if background is None or composite_here else background[..., group],
                distortion=distortion and first is None, weights=weights and first is None,
                screen_grad=screen_grad if first is None else None, threads=self.threads,
            )  # fmt: skip
            first = out if first is None else first
            pictures.append(out.rgb)
        assert first is not None
        rgb = (pictures[0] if len(pictures) == 1 else torch.cat(pictures, 1)).permute(0, 2, 3, 1)
        if composite_here:
            assert background is not None
            over = background.expand(len(cameras), channels)[:, None, None]
            rgb = rgb + (1 - first.alpha)[..., None] * over
        return RenderOut(
            rgb=rgb, alpha=first.alpha, depth=first.depth, median=first.median, normal=first.normal.permute(0, 2, 3, 1),
            distortion=first.distortion, weight=first.weight, pixels=first.pixels,
        )  # fmt: skip
