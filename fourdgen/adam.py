"""Adam, as torch.optim.Adam(fused=True) computes it, to the last bit.

The first optimizer of torch.optim loads torch's compiler, which nothing here uses: a second and 70 MB of every run. Its
bookkeeping takes as long as the arithmetic of a small model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba 2015) over groups of tensors: dicts of `params`, their rate `lr` and what else a caller adds.

    `state[tensor]` holds the moments `exp_avg` and `exp_avg_sq` and the number of steps of a tensor once it has moved.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.param_groups = list(groups)
        self.betas, self.eps = betas, eps
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Moves every tensor that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            states = [self.state.get(p) or self._begin(p) for p in params]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                params, [p.grad for p in params], [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states],
                [], steps, lr=group["lr"], beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0, eps=self.eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip

    def _begin(self, tensor: Tensor) -> dict[str, Tensor]:
        zeros = torch.zeros_like(tensor), torch.zeros_like(tensor)
        self.state[tensor] = dict(zip(("exp_avg", "exp_avg_sq"), zeros, strict=True)) | {"step": torch.zeros(())}
        return self.state[tensor]

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The moments and the settings of the groups, tensors by their place in the groups; as torch.optim has them."""
        place = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [{**group, "params": [place[p] for p in group["params"]]} for group in self.param_groups]
        return {"state": {place[p]: state for p, state in self.state.items() if p in place}, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        tensors = [p for group in self.param_groups for p in group["params"]]
        self.state = {tensors[i]: dict(moments) for i, moments in state["state"].items()}
        for group, saved in zip(self.param_groups, state["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
