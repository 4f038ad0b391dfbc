"""Skinning by bones that know or are named: autograd function and call of the compiled kernels (csrc/skinning.cpp).

`native.skin` takes logits as they come; here they are those of Gaussian bones, or each surfel names a few bones.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fourdgen.native import _address, _library, _ready, _thread_count


class _SkinGaussian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, threads: int, turned: bool, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        centers, _, _, means, quats = inputs
        out_means, out_quats = torch.empty_like(means), torch.empty_like(quats)
        out_turned = torch.empty_like(quats) if turned else None
        outputs = map(_address, (out_means, out_quats, out_turned))
        _library().fourdgen_skin_gaussian_forward(*map(_address, inputs), len(means), len(centers), *outputs, threads)
        ctx.save_for_backward(*inputs)
        ctx.threads = threads
        ctx.set_materialize_grads(False)
        return out_means, out_quats, out_turned

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        centers, _, _, means, quats = inputs = ctx.saved_tensors
        grad_means, grad_quats, grad_turned = (None if g is None else g.contiguous() for g in grads)
        grad_means = torch.zeros_like(means) if grad_means is None else grad_means
        grad_quats = torch.zeros_like(quats) if grad_quats is None else grad_quats
        to_bones = centers.new_empty(len(centers), 6)
        wanted = zip(inputs[2:], ctx.needs_input_grad[4:], strict=True)
        out = [torch.empty_like(x) if need else None for x, need in wanted]
        _library().fourdgen_skin_gaussian_backward(
            *map(_address, inputs), len(means), len(centers),
            *map(_address, (grad_means, grad_quats, grad_turned, to_bones, *out)), ctx.threads,
        )  # fmt: skip
        return (None, None, to_bones[:, :3], to_bones[:, 3:], *out)


def skin_gaussian(
    centers: Float[Tensor, "b 3"],
    precisions: Float[Tensor, "b 3"],
    dual_quats: Float[Tensor, "b 8"],
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    turned: bool = False,
    threads: int | None = None,
) -> tuple[Tensor, ...]:
    """`native.skin` with the logits of Gaussian bones, -sum_k precision_k (mean_k - center_k)^2, never stored.

    `precisions` are 1 / extent^2. Gradients go to all five inputs.
    """
    inputs = [_ready(t) for t in (centers, precisions, dual_quats, means, quats)]
    bones, count = len(centers), len(means)
    if [tuple(t.shape) for t in inputs] != [(bones, 3), (bones, 3), (bones, 8), (count, 3), (count, 4)]:
        raise ValueError(f"{bones} bones and {count} surfels expected, got {[tuple(t.shape) for t in inputs]}")
    out = _SkinGaussian.apply(_thread_count(threads), turned, *inputs)
    return out if turned else out[:2]


def skin_sparse(
    ids: Int[Tensor, "n k"],
    weights: Float[Tensor, "n k"],
    dual_quats: Float[Tensor, "b 8"],
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    threads: int | None = None,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Means, quats and the rotation of surfels that name k bones each, without gradients.

    The same as `scene.motion.blend_dual_quats` and `apply_blend`. Raises ValueError for a bone that is not there.
    """
    inputs = [_ready(t.detach()) for t in (weights, dual_quats, means, quats)]
    ids = ids.to(torch.int32).contiguous()
    count, kept = ids.shape
    if [tuple(t.shape) for t in inputs] != [(count, kept), (len(dual_quats), 8), (count, 3), (count, 4)]:
        raise ValueError(f"{count} surfels of {kept} bones expected, got {[tuple(t.shape) for t in inputs]}")
    if count and kept == 0:
        raise ValueError("surfels without bones cannot be moved by them")
    out = torch.empty_like(inputs[2]), torch.empty_like(inputs[3]), torch.empty_like(inputs[3])
    weights, dual_quats, means, quats = inputs
    unknown = _library().fourdgen_skin_sparse(
        _address(ids), _address(weights), kept, _address(dual_quats), len(dual_quats), _address(means),
        _address(quats), count, *map(_address, out), _thread_count(threads),
    )  # fmt: skip
    if unknown:
        raise ValueError(f"bones must be 0 to {len(dual_quats) - 1}; {unknown} numbers are not")
    return out
