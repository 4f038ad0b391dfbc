"""The refined branch: where it stands under motion, and what is drawn of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from fourdgen.geometry.camera import Cameras, intrinsics, look_at
from fourdgen.render import draw
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import refined
from tests.toy import toy_scene


def scene_with(refinement: torch.Tensor) -> Scene4D:
    scene = toy_scene()
    return replace(scene, surfels=replace(scene.surfels, refinement=refinement))


def some() -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    return 0.3 * torch.randn(len(toy_scene().surfels), 5, generator=random)


def test_refining_before_and_after_the_motion_is_the_same() -> None:
    scene = scene_with(some())
    after = refined(scene.at("a", 0.3))
    before = replace(scene, surfels=refined(scene.surfels)).at("a", 0.3)
    same = (after.quats * before.quats).sum(1).abs()  # q and -q are one rotation
    assert torch.allclose(same, torch.ones_like(same), atol=1e-5)
    assert torch.equal(after.log_scales, before.log_scales)
    assert torch.equal(after.means, before.means)


def test_colour_is_drawn_refined_and_surfaces_plain() -> None:
    camera = Cameras(look_at(torch.tensor([[0.0, -1.0, -3.0]])), intrinsics(38.0, (64, 64))[None], (64, 64))
    ordinary, scene = toy_scene().at("a", 0.3), scene_with(some())
    state = scene.at("a", 0.3)
    folded = replace(scene, surfels=refined(scene.surfels)).at("a", 0.3)
    assert torch.allclose(draw(state, camera).rgb, draw(folded, camera).rgb, atol=1e-5)
    assert not torch.allclose(draw(state, camera).rgb, draw(ordinary, camera).rgb, atol=1e-2)
    assert torch.equal(draw(state, camera, plain=True).normal, draw(ordinary, camera).normal)


def test_no_refinement_is_no_change() -> None:
    camera = Cameras(look_at(torch.tensor([[0.0, -1.0, -3.0]])), intrinsics(38.0, (64, 64))[None], (64, 64))
    nothing = scene_with(torch.zeros(len(toy_scene().surfels), 5)).at("a", 0.3)
    assert torch.allclose(draw(nothing, camera).rgb, draw(toy_scene().at("a", 0.3), camera).rgb, atol=1e-6)
