"""The gsplat rasterizer: its calls fit gsplat's signatures, and on a GPU its pictures fit the oracle's."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import Oracle

from fourdgen.geometry.camera import Cameras
from fourdgen.render import cuda, pick
from render.scenes import PARAMETERS, Case, shell

CALLED = ("rasterization_2dgs", "isect_tiles", "isect_offset_encode", "rasterize_to_pixels_2dgs")


def signatures() -> dict[str, tuple[list[str], int]]:
    """Parameters of gsplat's functions and how many of them are required, from its source: no import, no CUDA."""
    found = importlib.util.find_spec("gsplat")
    if found is None or found.origin is None:
        pytest.skip("gsplat is not installed: pip install --no-deps gsplat==1.5.3 ninja")
    folder, known = Path(found.origin).parent, {}
    for source in (folder / "rendering.py", folder / "cuda" / "_wrapper.py"):
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name in CALLED:
                names = [a.arg for a in node.args.args]
                known[node.name] = (names, len(names) - len(node.args.defaults))
    return known


def test_calls_fit_the_signatures_of_gsplat() -> None:
    known = signatures()
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(cuda)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLED
    ]
    assert {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)} == set(CALLED)
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        names, required = known[call.func.attr]
        given = names[: len(call.args)] + [str(keyword.arg) for keyword in call.keywords]
        assert set(given) <= set(names), call.func.attr
        assert set(names[:required]) <= set(given), call.func.attr
        assert len(given) == len(set(given))


def test_channels_are_padded_to_what_gsplat_has_compiled() -> None:
    for channels in (1, 3, 4, 7, 20):
        colors, background = cuda._padded(torch.ones(2, 5, channels), torch.ones(2, channels), extra=1)
        assert colors.shape[-1] + 1 in cuda.COMPILED_CHANNELS
        assert background is not None
        assert background.shape[-1] == colors.shape[-1]
        assert float(colors[..., channels:].abs().sum()) == 0


def test_broken_surfels_are_made_invisible() -> None:
    case = shell(10, (8, 8)).to(torch.float32)
    case.means[2, 1], case.colors[4, 0] = float("nan"), float("inf")
    means, quats, scales, opacities, colors = cuda._finite(*(getattr(case, name) for name in PARAMETERS))
    assert opacities[[2, 4]].tolist() == [0, 0]
    assert torch.equal(opacities[5:], case.opacities[5:])
    assert all(t.isfinite().all() for t in (means, quats, scales, opacities, colors))


def on_gpu(case: Case) -> Case:
    moved = {name: getattr(case, name).cuda() for name in PARAMETERS}
    cameras = Cameras(case.cameras.cam_from_world.cuda(), case.cameras.K.cuda(), case.cameras.size)
    return replace(case, **moved, cameras=cameras)


@pytest.mark.gpu
@pytest.mark.parametrize("intrinsics", [False, True], ids=["poses", "poses and K"])
@pytest.mark.parametrize("per_view", [False, True])
def test_gpu_pictures_and_gradients_are_those_of_the_oracle(intrinsics: bool, per_view: bool) -> None:
    """Most pixels within 1e-3: gsplat cuts the disc of thin surfels at tile borders, so that a few may differ more."""
    case = shell(300, (64, 56), seed=1, views=2, sigma=(1.0, 3.0), per_view=per_view)
    single = on_gpu(case.to(torch.float32))
    leaves, exact = single.leaves(), case.leaves()
    single.cameras.K.requires_grad_(intrinsics)
    background = torch.tensor([0.2, 0.5, 0.8])
    screen = torch.zeros(300, device="cuda")
    out = pick("cuda", "cuda")(*single.arguments(), background=background.cuda(), weights=True, screen_grad=screen)
    truth = Oracle(center_depth=True)(*case.arguments(), background=background.double(), weights=True)
    for name in ("rgb", "alpha", "depth", "median", "normal", "weight"):
        error = (getattr(out, name).cpu() - getattr(truth, name)).detach().abs()
        assert float((error < (1e-2 if name == "weight" else 1e-3)).float().mean()) > 0.99, name
    total = sum(getattr(out, n).square().mean() for n in ("rgb", "depth", "normal"))
    total.backward()
    want = sum(getattr(truth, n).square().mean() for n in ("rgb", "depth", "normal"))
    want.backward()
    for name, leaf in leaves.items():
        if name == "K" and not intrinsics:
            assert leaf.grad is None
            continue
        a, b = exact[name].grad, leaf.grad.cpu()
        if name == "cam_from_world":
            a, b = a[:, :3], b[:, :3]
        if name == "K":
            a, b = a[:, :2], b[:, :2]
        assert float((a - b).norm()) <= 0.05 * float(a.norm()), name
    assert screen.isfinite().all()
    assert float(screen.sum()) > 0


@pytest.mark.gpu
def test_gpu_broken_surfels_get_no_gradient() -> None:
    case = on_gpu(shell(50, (32, 32)).to(torch.float32))
    case.means[3, 1] = float("nan")
    out = pick("cuda", "cuda")(*(t.requires_grad_(True) if torch.is_tensor(t) else t for t in case.arguments()))
    out.rgb.sum().backward()
    for name in PARAMETERS:
        grad = getattr(case, name).grad
        assert grad.isfinite().all(), name
        assert float(grad[3].abs().sum()) == 0, name
