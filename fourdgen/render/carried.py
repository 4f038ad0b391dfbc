"""A scene lives in main memory; a rasterizer may want it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fourdgen.geometry.camera import Cameras
from fourdgen.render import BUILD_HINT, SILENT, Rasterizer, RenderOut, pick
from fourdgen.report import Reporter


def rasterizer_on(device: str, name: str = "auto", report: Reporter = SILENT) -> Rasterizer:
    """The rasterizer of that name for a device; it takes and gives tensors in main memory. Raises FourdgenError.

    `report` is warned when the slow way without compiled kernels is all that there is.
    """
    rasterizer = pick(name, device)
    if rasterizer.name == "tiled":
        report.warn(f"the tiled rasterizer draws, hundreds of times slower than the compiled ones: {BUILD_HINT}")
    return rasterizer if device == "cpu" else Carried(rasterizer, device)


class _BringBack(torch.autograd.Function):
    """Passes tensors on. Its backward pass, which comes after the rasterizer's, adds what was gathered on the device to
    the tensor in main memory."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, screen_grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.gathered, ctx.screen_grad = gathered, screen_grad
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.screen_grad.add_(ctx.gathered.to(ctx.screen_grad.device))
        ctx.gathered.zero_()
        return None, None, *grads


@dataclass(frozen=True)
class Carried:
    """A Rasterizer that carries what it is given to a device, and its pictures back. Gradients take the same way."""

    rasterizer: Rasterizer
    device: str

    @property
    def name(self) -> str:
        return self.rasterizer.name

    def __call__(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        cameras: Cameras,
        background: Tensor | None = None,
        distortion: bool = False,
        weights: bool = False,
        screen_grad: Tensor | None = None,
    ) -> RenderOut:
        inputs = tuple(t.to(self.device) for t in (means, quats, scales, opacities, colors))
        gathered = None
        if screen_grad is not None:
            gathered = torch.zeros_like(screen_grad, device=self.device)
            inputs = _BringBack.apply(gathered, screen_grad, *inputs)
        means, quats, scales, opacities, colors = inputs
        out = self.rasterizer(
            means,
            quats,
            scales,
            opacities,
            colors,
            replace(cameras, cam_from_world=cameras.cam_from_world.to(self.device), K=cameras.K.to(self.device)),
            background=None if background is None else background.to(self.device),
            distortion=distortion,
            weights=weights,
            screen_grad=gathered,
        )
        parts = {field.name: getattr(out, field.name) for field in fields(out)}
        return replace(out, **{k: v.cpu() for k, v in parts.items() if isinstance(v, Tensor)})
