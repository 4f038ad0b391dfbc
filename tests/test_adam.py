"""Adam: torch's own, to the last bit, without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from fourdgen.adam import Adam


def groups_of(seed: int) -> list[dict]:
    g = torch.Generator().manual_seed(seed)
    sizes = ((50, 3), (7,), ()), ((4, 5),)
    rates = 0.02, 0.5
    return [
        {"params": [torch.randn(shape, generator=g).requires_grad_(True) for shape in shapes], "lr": rate}
        for shapes, rate in zip(sizes, rates, strict=True)
    ]


def descend(optimizer: torch.optim.Optimizer | Adam, steps: range) -> None:
    """Some steps on a fixed function; the last tensor of the first group takes part in every second one only."""
    groups = optimizer.param_groups
    for step in steps:
        optimizer.zero_grad()
        used = [*groups[0]["params"][: 2 + step % 2], *groups[1]["params"]]
        sum((p.sin() * p.cos().exp()).sum() for p in used).backward()
        groups[0]["lr"] *= 0.9
        optimizer.step()


def test_steps_are_those_of_torch_to_the_last_bit() -> None:
    ours, theirs = Adam(groups_of(0), (0.9, 0.98), 1e-15), groups_of(0)
    descend(ours, range(12))
    descend(torch.optim.Adam(theirs, betas=(0.9, 0.98), eps=1e-15, fused=True), range(12))
    for a, b in zip(ours.param_groups, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a["params"], b["params"], strict=True))


def test_a_saved_state_goes_on_where_it_was() -> None:
    whole, first = Adam(groups_of(1)), Adam(groups_of(1))
    descend(whole, range(9))
    descend(first, range(5))
    again = Adam(groups_of(2))
    for a, b in zip(first.param_groups, again.param_groups, strict=True):
        for x, y in zip(a["params"], b["params"], strict=True):
            y.data.copy_(x.data)
    again.load_state_dict(first.state_dict())
    descend(again, range(5, 9))
    for a, b in zip(whole.param_groups, again.param_groups, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a["params"], b["params"], strict=True))


def test_a_tensor_without_gradient_stays() -> None:
    still, moved = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    moved.grad = torch.ones(3)
    optimizer = Adam([{"params": [still, moved], "lr": 0.1}])
    optimizer.step()
    assert torch.equal(still, torch.ones(3)) and float(moved.detach().max()) < 1
    assert still not in optimizer.state


def test_the_compiler_of_torch_is_not_loaded() -> None:
    code = """
import sys, torch, fourdgen.fit.loop, fourdgen.poses.compare, fourdgen.evaluate.register
from fourdgen.adam import Adam
p = torch.ones(3, requires_grad=True)
p.sum().backward()
Adam([{"params": [p], "lr": 0.1}]).step()
print("torch._dynamo" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
