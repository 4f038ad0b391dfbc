"""The compiled and the tiled rasterizer against the oracle, and what else they promise."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from fourdgen.geometry.camera import Cameras
from fourdgen.render import Rasterizer
from fourdgen.render.carried import Carried
from fourdgen.render.cpu import CpuRasterizer
from fourdgen.render.tiled import TiledRasterizer
from render.compare import PICTURES, against_oracle, gradients
from render.scenes import PARAMETERS, Case, shell

HOSTILE = int(os.environ.get("FOURDGEN_HOSTILE", "200"))  # scenes; docs/performance.md was measured with 1000
BOTH = pytest.mark.parametrize("rasterizer", [CpuRasterizer(), TiledRasterizer()], ids=lambda r: r.name)

SCENES = {
    "small surfels": shell(300, (48, 41), seed=0),
    "many": shell(800, (64, 56), seed=1),
    "large surfels": shell(120, (64, 64), seed=2, sigma=(3.0, 9.0)),
    "faint to opaque": shell(600, (64, 60), seed=3, sigma=(2.0, 5.0), opacity=(0.05, 0.999)),
    "two views": shell(300, (37, 44), seed=4, views=2),
    "per view": shell(200, (40, 33), seed=5, views=3, per_view=True),
    "one channel": shell(200, (40, 40), seed=6, channels=1),
    "nineteen channels": shell(100, (40, 40), seed=7, channels=19),
    "edge on": shell(300, (48, 40), seed=8, sigma=(1.0, 4.0), tilt=3.0),
}
WITH_BACKGROUND = ("many", "per view")


@BOTH
@pytest.mark.parametrize("name", SCENES)
def test_agrees_with_the_oracle(name: str, rasterizer: Rasterizer) -> None:
    case = SCENES[name]
    if name in WITH_BACKGROUND:
        case = replace(case, background=torch.linspace(0.1, 0.9, case.colors.shape[-1]).double())
    pictures, grads = against_oracle(rasterizer, case)
    # float32 against float64: rounding of u and v, which grows towards edge-on surfels
    for picture in ("rgb", "alpha", "normal"):
        assert pictures[picture] <= 1e-4, (picture, pictures)
    # depth jumps where the low-pass disc takes over, so that rounding may put a rare pixel on the other side
    for picture in ("depth", "median", "distortion"):
        assert pictures[f"{picture}, all but the worst 1 in 2000"] <= 1e-4, (picture, pictures)
        assert pictures[picture] <= 0.05, (picture, pictures)
    assert pictures["pixels"] <= 1, pictures
    assert pictures["weight"] <= 1e-3, pictures  # sums of up to a thousand pixels
    for parameter, error in grads.items():
        assert error <= 1e-3, (parameter, grads)


@BOTH
def test_background_may_be_learned_and_differ_by_view(rasterizer: Rasterizer) -> None:
    case = shell(50, (20, 18), views=2).to(torch.float32)
    fixed = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]])
    learned = fixed.clone().requires_grad_(True)
    plain = rasterizer(*case.arguments(), background=fixed)
    out = rasterizer(*case.arguments(), background=learned)
    torch.testing.assert_close(out.rgb, plain.rgb)
    out.rgb.sum().backward()
    assert learned.grad is not None
    torch.testing.assert_close(learned.grad, (1 - out.alpha).sum((1, 2))[:, None].expand(2, 3))


def test_weights_sum_to_alpha() -> None:
    case = shell(400, (50, 50), views=2).to(torch.float32)
    out = CpuRasterizer()(*case.arguments(), weights=True)
    assert out.weight is not None
    torch.testing.assert_close(out.weight.sum(1), out.alpha.sum((1, 2)), rtol=1e-5, atol=0)
    assert not out.weight.requires_grad


def test_screen_gradient_is_that_of_a_shifted_picture() -> None:
    """Shifting one surfel's picture equals moving the principal point while it alone is drawn."""
    case = shell(1, (32, 30), sigma=(3.0, 4.0)).to(torch.float32)
    case.leaves()
    target = torch.rand(1, 30, 32, 3, generator=torch.Generator().manual_seed(0))
    for rasterizer in (CpuRasterizer(), TiledRasterizer()):
        measured = torch.zeros(1)
        out = rasterizer(*case.arguments(), screen_grad=measured)
        case.cameras.K.grad = None
        (out.rgb * target).sum().backward()
        torch.testing.assert_close(measured[0], case.cameras.K.grad[0, :2, 2].norm(), rtol=1e-4, atol=0)


@BOTH
def test_screen_gradient_adds_up_over_views_and_calls(rasterizer: Rasterizer) -> None:
    case = shell(60, (30, 30), views=2).to(torch.float32)
    case.leaves()
    together, apart = torch.zeros(60), torch.zeros(60)
    rasterizer(*case.arguments(), screen_grad=together).rgb.square().sum().backward()
    for view in range(2):
        one = replace(case, cameras=case.cameras[view])
        rasterizer(*one.arguments(), screen_grad=apart).rgb.square().sum().backward()
    assert float(together.min()) >= 0
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


@BOTH
def test_a_carried_screen_gradient_comes_back(rasterizer: Rasterizer) -> None:
    """What the device gathers is added to the caller's tensor, once per backward pass."""
    case = shell(60, (30, 30)).to(torch.float32)
    case.leaves()
    there, here = torch.zeros(60), torch.ones(60)
    rasterizer(*case.arguments(), screen_grad=there).rgb.square().sum().backward()
    loss = Carried(rasterizer, "cpu")(*case.arguments(), screen_grad=here).rgb.square().sum()
    for times in (1, 2):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(here, 1 + times * there)


def test_threads_change_no_bit() -> None:
    case = shell(3000, (150, 130), seed=3, views=2).to(torch.float32)
    case.leaves()
    results = []
    for threads in (1, 2, 3):
        out = CpuRasterizer(threads)(*case.arguments(), distortion=True, weights=True)
        results.append((out, gradients(out, case)))
    (first, first_grads), *others = results
    for out, grads in others:
        for name in (*PICTURES, "weight", "pixels"):
            assert torch.equal(getattr(out, name), getattr(first, name)), name
        for name, grad in grads.items():
            assert torch.equal(grad, first_grads[name]), name


def test_many_forward_calls_may_wait_for_their_backward_calls() -> None:
    cases = [shell(100 + 40 * i, (30 + i, 28), seed=i).to(torch.float32) for i in range(4)]
    for case in cases:
        case.leaves()
    alone = [gradients(CpuRasterizer()(*case.arguments()), case, ("rgb", "depth")) for case in cases]
    waiting = [CpuRasterizer()(*case.arguments()) for case in cases]
    with torch.no_grad():
        CpuRasterizer()(*cases[0].arguments())  # never gets one
    for i in (2, 0, 3, 1):
        grads = gradients(waiting[i], cases[i], ("rgb", "depth"))
        for name, grad in grads.items():
            assert torch.equal(grad, alone[i][name]), name


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    case = shell(50, (20, 20)).to(torch.float32)
    case.colors.requires_grad_(True)
    CpuRasterizer()(*case.arguments()).rgb.sum().backward()
    assert case.colors.grad is not None
    assert all(getattr(case, name).grad is None for name in PARAMETERS if name != "colors")
    assert case.cameras.K.grad is None


def test_denormals_are_as_before_afterwards() -> None:
    tiny = torch.tensor([1e-40])
    case = shell(50, (20, 20)).to(torch.float32)
    CpuRasterizer()(*case.arguments())
    assert float(tiny * 1.0) > 0


@BOTH
def test_no_surfels_and_one_pixel(rasterizer: Rasterizer) -> None:
    case = shell(5, (1, 1)).to(torch.float32)
    none = replace(case, **{name: getattr(case, name)[:0] for name in PARAMETERS})
    none.leaves()
    out = rasterizer(*none.arguments(), background=torch.tensor([0.2, 0.4, 0.6]), weights=True)
    torch.testing.assert_close(out.rgb, torch.tensor([0.2, 0.4, 0.6]).expand(1, 1, 1, 3))
    assert out.weight is not None
    assert out.weight.shape == (1, 0)
    rasterizer(*case.arguments())


def hostile(seed: int) -> tuple[Case, torch.Tensor]:
    """A scene with things that no scene should have, and which surfels have something that is not finite."""
    g = torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (1,), generator=g))

    size = (1 + draw(70), 1 + draw(70))
    case = shell(40 + draw(60), size, seed=seed, views=1 + draw(2), sigma=(0.5, 6.0)).to(torch.float32)
    values = {name: getattr(case, name).clone() for name in PARAMETERS}
    count = len(values["means"])
    pose, K = case.cameras.cam_from_world.clone(), case.cameras.K.clone()
    trick = seed % 10
    if trick == 0:  # the camera within the cloud
        pose[:, :3, 3] = 0.1 * torch.randn(len(pose), 3, generator=g)
    elif trick == 1:
        values["scales"][: count // 2] *= 0
    elif trick == 2:
        values["scales"] *= 10.0 ** (2 + draw(20))
    elif trick == 3:
        values["opacities"][:] = torch.randint(2, (count,), generator=g).float() * (1 + draw(3))
    elif trick == 4:
        values["means"] *= 10.0 ** (3 + draw(30))
    elif trick == 5:
        values["quats"][::2] = 0
    elif trick == 6:
        K[:, :2, :2] *= 10.0 ** (draw(9) - 4)
    elif trick == 7:
        values["scales"][:, 0] *= 1e-20
    elif trick == 8:  # centres exactly on the camera's plane, and at the camera
        values["means"][::2] = -(pose[0, :3, :3].T @ pose[0, :3, 3])
    for _ in range(draw(4)):
        name = PARAMETERS[draw(5)]
        flat = values[name].view(-1)
        flat[draw(len(flat))] = (float("nan"), float("inf"), -float("inf"), 1e18)[draw(4)]
    broken = ~torch.stack([values[n].reshape(count, -1).isfinite().all(1) for n in PARAMETERS]).all(0)
    return Case(**values, cameras=Cameras(pose, K, size)), broken


@pytest.mark.parametrize("batch", range(HOSTILE // 50))
def test_hostile_scenes_neither_crash_nor_spread(batch: int) -> None:
    for seed in range(50 * batch, 50 * batch + 50):
        case, broken = hostile(seed)
        case.leaves()
        background = torch.full((3,), 0.5)
        out = CpuRasterizer(2)(*case.arguments(), background=background, distortion=True, weights=True)
        # distortion is a difference of products of depths, which overflows for depths of 1e30
        pictures = tuple(p for p in PICTURES if p != "distortion" or seed % 10 not in (2, 4))
        for name in pictures:
            assert getattr(out, name).isfinite().all(), (seed, name)
        for name, grad in gradients(out, case, ("rgb", "alpha", "normal")).items():
            assert grad.isfinite().all(), (seed, name)
            if name in PARAMETERS:
                assert float(grad[broken].abs().sum()) == 0, (seed, name)
        assert out.weight is not None
        assert float(out.weight[:, broken].abs().sum()) == 0


def test_a_broken_camera_sees_the_background() -> None:
    case = shell(50, (20, 20)).to(torch.float32)
    pose = case.cameras.cam_from_world.clone()
    pose[0, 1, 2] = float("nan")
    out = CpuRasterizer()(*replace(case, cameras=Cameras(pose, case.cameras.K, (20, 20))).arguments())
    assert float(out.alpha.abs().max()) == 0


def test_tiled_gives_broken_surfels_no_gradient() -> None:
    case = shell(30, (20, 20)).to(torch.float32)
    case.means[3, 1] = float("nan")
    case.scales[5] = 0
    case.leaves()
    out = TiledRasterizer()(*case.arguments())
    for name, grad in gradients(out, case).items():
        assert grad.isfinite().all(), name
        if name in PARAMETERS:
            assert float(grad[[3, 5]].abs().sum()) == 0


def test_wrong_shapes_are_named() -> None:
    case = shell(10, (8, 8)).to(torch.float32)
    with pytest.raises(ValueError, match="input 2"):
        CpuRasterizer()(*replace(case, scales=case.scales[:, :1]).arguments())
    with pytest.raises(ValueError, match="screen_grad"):
        CpuRasterizer()(*case.arguments(), screen_grad=torch.zeros(3))
