"""Comparing a rasterizer with the oracle: pictures and gradients."""

from __future__ import annotations

import torch
from oracle import Oracle
from torch import Tensor

from fourdgen.render import Rasterizer, RenderOut
from render.scenes import Case

PICTURES = ("rgb", "alpha", "depth", "median", "normal", "distortion")


def loss_of(out: RenderOut, pictures: tuple[str, ...]) -> Tensor:
    """A random but repeatable projection of the pictures."""
    g = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=out.rgb.dtype)
    for name in pictures:
        picture = getattr(out, name)
        if picture is not None:
            total = total + (picture * torch.randn(picture.shape, generator=g, dtype=torch.float64).to(picture)).sum()
    return total


def gradients(out: RenderOut, case: Case, pictures: tuple[str, ...] = PICTURES) -> dict[str, Tensor]:
    leaves = case.leaves()
    grads = dict(zip(leaves, torch.autograd.grad(loss_of(out, pictures), list(leaves.values())), strict=True))
    grads["cam_from_world"] = grads["cam_from_world"][:, :3]  # the fourth row is no parameter
    K = grads["K"]
    grads["K"] = torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1)
    return grads


def against_oracle(
    rasterizer: Rasterizer, case: Case, oracle: Oracle | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Largest differences of the pictures, and relative L2 errors of the gradients, from the oracle in float64."""
    exact, single = case.to(torch.float64), case.to(torch.float32)
    exact.leaves(), single.leaves()
    flags = {"distortion": True, "weights": True}
    truth = (oracle or Oracle())(*exact.arguments(), background=exact.background, **flags)
    ours = rasterizer(*single.arguments(), background=single.background, **flags)
    pictures = {}
    for name in (*PICTURES, "weight", "pixels"):
        error = (getattr(truth, name) - getattr(ours, name).double()).detach().abs().flatten().sort()[0]
        pictures[name] = float(error[-1])
        pictures[f"{name}, all but the worst 1 in 2000"] = float(error[-1 - len(error) // 2000])
    want, got = gradients(truth, exact), gradients(ours, single)
    return pictures, {k: float((want[k] - got[k].double()).norm() / want[k].norm()) for k in want}
