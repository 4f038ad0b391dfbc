"""Losses of pictures in compiled kernels (csrc/ssim.cpp and csrc/normals.cpp); `fit.losses` has the same in torch."""

from __future__ import annotations

from ctypes import byref, c_double
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fourdgen.native import _address, _ready, _run, _thread_count


class _L1Dssim(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, target: Tensor, weight: Tensor | None, factors: tuple[float, float, int]
    ) -> Tensor:
        l1, dssim, threads = factors
        grad = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        pictures, loss = map(_address, (image, target, weight)), c_double()
        _run("fourdgen_l1_dssim", *pictures, *image.shape, l1, dssim, _address(grad), byref(loss), threads)
        if grad is not None:
            ctx.save_for_backward(grad)
        return image.new_tensor(loss.value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad if float(scale) == 1 else grad * scale, None, None, None


def l1_dssim(
    image: Float[Tensor, "c h w"],
    target: Float[Tensor, "c h w"],
    weight: Float[Tensor, "h w"] | None = None,
    l1: float = 0.8,
    dssim: float = 0.2,
    threads: int | None = None,
) -> Float[Tensor, ""]:
    """sum_p w_p (l1 |x - y| + dssim (1 - SSIM)) / (c sum_p w_p), with a gradient to `image` only.

    SSIM of Wang et al. 2004: a Gaussian window of 11 x 11 pixels (sigma 1.5), zeros outside, values in 0..1. Any size
    works. Where all weights are 0 the loss is 0. `weight` needs values >= 0.
    """
    image, target = _ready(image), _ready(target.detach())
    weight = None if weight is None else _ready(weight.detach())
    if image.dim() != 3 or image.shape != target.shape or (weight is not None and weight.shape != image.shape[1:]):
        raise ValueError(
            f"shapes do not match: {[None if t is None else tuple(t.shape) for t in (image, target, weight)]}"
        )
    return _L1Dssim.apply(image, target, weight, (l1, dssim, _thread_count(threads)))


class _NormalConsistency(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, threads: int, *inputs: Tensor) -> Tensor:
        out = torch.empty_like(inputs[0])
        _run("fourdgen_normals_forward", *map(_address, inputs), *out.shape, _address(out), threads)
        ctx.save_for_backward(*inputs)
        ctx.threads = threads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, grad = ctx.saved_tensors, grad.contiguous()
        out = [torch.empty_like(x) for x in inputs]
        _run(
            "fourdgen_normals_backward", *map(_address, inputs), *grad.shape, _address(grad), *map(_address, out),
            ctx.threads,
        )  # fmt: skip
        return None, *out


def normal_consistency(
    depth: Float[Tensor, "v h w"],
    alpha: Float[Tensor, "v h w"],
    normal: Float[Tensor, "v 3 h w"],
    cam_from_world: Float[Tensor, "v 4 4"],
    K: Float[Tensor, "v 3 3"],
    threads: int | None = None,
) -> Float[Tensor, "v h w"]:
    """1 - n . N where alpha > 0.5 and N is known, 0 elsewhere; see `fit.losses.normal_consistency`.

    n is the drawn `normal` (world space), N that of the surface which depth / alpha describes. Gradients to everything.
    """
    inputs = [_ready(t) for t in (depth, alpha, normal, cam_from_world, K)]
    views, height, width = depth.shape
    expected = [(views, height, width)] * 2 + [(views, 3, height, width), (views, 4, 4), (views, 3, 3)]
    if [tuple(t.shape) for t in inputs] != expected:
        raise ValueError(f"shapes do not match: {[tuple(t.shape) for t in inputs]}, expected {expected}")
    return _NormalConsistency.apply(_thread_count(threads), *inputs)
