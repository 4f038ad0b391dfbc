"""Where surfels are born and die (docs/method.md section 12)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourdgen.fit.model import Model
from fourdgen.geometry.transforms import quat_rotate

SPLIT_SCALE = 1.4
LEAST_OPACITY = 0.03
LARGEST_SCALE = 0.25  # root units; the subject's radius is 0.5-1
BORN_SHARE = 0.25


@dataclass
class Growth:
    """Gathers position gradients and splits the surfels that are pulled most, up to a number of surfels.

    Two hooks: `after_backward` each step, `update` when the loop decides.
    """

    pull: Tensor = field(default_factory=lambda: torch.zeros(0))
    steps: Tensor = field(default_factory=lambda: torch.zeros(0))

    def reset(self, count: int) -> None:
        self.pull, self.steps = torch.zeros(count), torch.zeros(count)

    @torch.no_grad()
    def after_backward(self, model: Model) -> None:
        gradient = model.p["means"].grad
        if gradient is None:
            return
        if len(self.pull) != len(model):
            self.reset(len(model))
        length = gradient.norm(dim=-1)
        self.pull += length
        self.steps += length > 0

    @torch.no_grad()
    def update(self, model: Model, most: int, generator: torch.Generator) -> None:
        """Drop transparent and oversized surfels, then split the most pulled quarter, room permitting."""
        opacity = torch.sigmoid(model.p["opacity"])
        keep = (opacity > LEAST_OPACITY) & (model.p["log_scales"].exp().amax(1) < LARGEST_SCALE)
        if not bool(keep.any()):
            keep = torch.ones_like(keep)
        kept = keep.nonzero()[:, 0]
        mean_pull = (self.pull / self.steps.clamp_min(1))[kept]
        count = max(0, min(most - len(kept), int(BORN_SHARE * len(model)), len(kept)))
        parents = kept[mean_pull.topk(count)[1]]
        _split(model, kept, parents, generator)
        self.reset(len(model))


def _split(model: Model, kept: Tensor, parents: Tensor, generator: torch.Generator) -> None:
    """Parent and child step apart inside the parent's ellipse, shrink, and share its opacity: 1 - sqrt(1 - o) each."""
    index = torch.cat([kept, parents])
    is_parent = torch.zeros(len(model), dtype=torch.bool)
    is_parent[parents] = True
    moved = torch.cat([is_parent[kept], torch.ones(len(parents), dtype=torch.bool)])
    quats = F.normalize(model.p["quats"].detach()[index], dim=-1)
    scales = model.p["log_scales"].detach()[index].exp()
    local = torch.cat([scales * torch.randn(len(index), 2, generator=generator) * 0.7, torch.zeros(len(index), 1)], 1)
    offset: Float[Tensor, "m 3"] = quat_rotate(quats, local) * moved[:, None]

    def shared_opacity(logits: Tensor) -> Tensor:
        half = 1 - (1 - torch.sigmoid(logits)).clamp_min(1e-4).sqrt()
        return torch.where(moved, torch.logit(half).clamp(-3, 4), logits)

    model.reindex(
        index,
        {
            "means": lambda means: means + offset,
            "log_scales": lambda logs: logs - math.log(SPLIT_SCALE) * moved[:, None],
            "opacity": shared_opacity,
        },
    )
