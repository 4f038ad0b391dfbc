"""Poses of bones, and surfels moved by them: the compiled kernels of csrc/bones.cpp and csrc/skinning.cpp.

Surfels follow Gaussian bones, or each names a few bones. `scene.bones` and `scene.motion` have the same in torch.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fourdgen.native import _address, _library, _ready, _run, _thread_count


class _PoseBones(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parents: Tensor, order: Tensor, slide: float, twists: Tensor, joints: Tensor) -> Tensor:
        out = twists.new_empty(*twists.shape[:2], 8)
        ctx.inputs = (*map(_address, (twists, joints, parents, order)), slide, *twists.shape[:2])
        _run("fourdgen_pose_bones_forward", *ctx.inputs, _address(out))
        ctx.save_for_backward(twists, joints, parents, order, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        twists, joints, _, _, out = ctx.saved_tensors
        grad = grad.contiguous()
        to_twists, to_joints = torch.empty_like(twists), torch.empty_like(joints)
        _run("fourdgen_pose_bones_backward", *ctx.inputs, *map(_address, (out, grad, to_twists, to_joints)))
        return None, None, None, to_twists, to_joints


def pose_bones(
    twists: Float[Tensor, "s b 6"],
    joints: Float[Tensor, "b 3"],
    parents: Int[Tensor, "b"],
    order: Int[Tensor, "b"],
    slide: float,
) -> Float[Tensor, "s b 8"]:
    """Unit dual quaternions (root frame from canonical) of bones along a tree, with gradients to twists and joints.

    A bone turns by the rotation vector `twists[..., :3]` (radians) about its joint and shifts by `twists[..., 3:]`, of
    which one with a parent makes the share `slide`; then it is carried by its parent. `parents` (-1: none) and `order`
    (every bone after its parent) are int32.
    """
    twists, joints = _ready(twists), _ready(joints)
    bones = len(joints)
    if twists.shape[1:] != (bones, 6) or not parents.shape == order.shape == (bones,):
        raise ValueError(
            f"{bones} joints: {tuple(twists.shape)}, {tuple(parents.shape)} or {tuple(order.shape)} differ"
        )
    return _PoseBones.apply(parents, order, slide, twists, joints)


class _SkinGaussian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, threads: int, turned: bool, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        centers, _, _, means, quats = inputs
        out_means, out_quats = torch.empty_like(means), torch.empty_like(quats)
        out_turned = torch.empty_like(quats) if turned else None
        outputs = map(_address, (out_means, out_quats, out_turned))
        _run("fourdgen_skin_gaussian_forward", *map(_address, inputs), len(means), len(centers), *outputs, threads)
        ctx.save_for_backward(*inputs)
        ctx.threads = threads
        ctx.set_materialize_grads(False)
        return out_means, out_quats, out_turned

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        centers, _, dual_quats, means, quats = inputs = ctx.saved_tensors
        grad_means, grad_quats, grad_turned = (None if g is None else g.contiguous() for g in grads)
        grad_means = torch.zeros_like(means) if grad_means is None else grad_means
        grad_quats = torch.zeros_like(quats) if grad_quats is None else grad_quats
        to_bones, to_dual_quats = centers.new_empty(len(centers), 6), torch.empty_like(dual_quats)
        wanted = zip((means, quats), ctx.needs_input_grad[5:], strict=True)
        out = (to_bones, to_dual_quats, *(torch.empty_like(x) if need else None for x, need in wanted))
        _run(
            "fourdgen_skin_gaussian_backward", *map(_address, inputs), len(means), len(centers),
            *map(_address, (grad_means, grad_quats, grad_turned, *out)), ctx.threads,
        )  # fmt: skip
        return (None, None, to_bones[:, :3], to_bones[:, 3:], *out[1:])


def skin_gaussian(
    centers: Float[Tensor, "b 3"],
    precisions: Float[Tensor, "b 3"],
    dual_quats: Float[Tensor, "b 8"],
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    turned: bool = False,
    threads: int | None = None,
) -> tuple[Tensor, ...]:
    """Surfels moved by blended bone motions: (means [n 3], quats [n 4]) and, if asked, the rotation `turned` [n 4].

    Dual-quaternion linear blending (Kavan et al. 2007) with softmax weights over the bones, of the logits
    -sum_k precision_k (mean_k - center_k)^2, which are never stored; `precisions` are 1 / extent^2. Signs follow the
    heaviest bone. The same as `scene.motion.blend_dual_quats` and `move`, with gradients to all five inputs.
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

    The same as `scene.motion.blend_dual_quats` and `move`. Raises ValueError for a bone that is not there.
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
